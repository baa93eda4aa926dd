"""Compare the stores of popserv for MH folders and Maildirs: ``python benchmarks/mh.py``.

Each store has the same messages.  In each round the two are measured in turn, with the workloads
of ``mbox.py``.
"""

import os
import shutil
import sys
from functools import partial
from pathlib import Path

from mbox import STARTER, USER, WORKLOADS, measure, parse_command_line, print_table
from peers import Popserv
from run import Bench, print_status, work_directory


class _StorePopserv(Popserv):
    """popserv with a store of one file for each message."""

    def remove_own_files(self):
        """Remove what the server has written, which is gone when the mail is written anew."""


class MaildirPopserv(_StorePopserv):
    """popserv with --maildir; the messages are in ``cur``, with the flag S."""

    folder, name_format = "cur", "1700000000.M{0:06}P1.host:2,S"

    def __init__(self, directory):
        super().__init__(directory)
        self.name = "Maildir"


class MHPopserv(_StorePopserv):
    """popserv with --store mh:."""

    folder, name_format = ".", "{0}"

    def __init__(self, directory):
        super().__init__(directory)
        self.name = "MH"

    def command(self):
        """See Peer."""
        command = list(super().command())
        at = command.index("--maildir")
        users = f"passwd-file:{self.root}/.users"
        command[at : at + 2] = ["--store", f"mh:{self.root}/%u", "--auth", users]
        return command


def write_folder(bench, peer, path, messages):
    """Write a folder of generated messages."""
    for name in ("new", "cur", "tmp") if peer.folder == "cur" else (".",):
        (path / name).mkdir(parents=True)
    for number, source in enumerate(bench.mail.messages("usual", messages), 1):
        file = path / peer.folder / peer.name_format.format(number)
        shutil.copyfile(source, file)
        # No two messages have the same time, as in any folder to which mail was delivered.
        os.utime(file, ns=(number, 1_700_000_000_000_000_000 + number))


def restore(original, owner, path):
    """Replace a folder with a copy of another one, for its owner."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(original, path)
    give(path, owner)


def give(path, owner):
    """Give a folder and all that it contains to a user, unless the owner is None."""
    if owner is not None:
        for each in (path, *path.rglob("*")):
            os.chown(each, *owner)


def count_messages(peer, path):
    """Return the number of messages in a folder."""
    names = os.listdir(path / peer.folder)
    return sum(name[0].isdigit() for name in names)


def main(argv=None):
    """Run the comparison and print a table; return the exit code."""
    arguments = parse_command_line(argv, __doc__)
    with work_directory(arguments) as (directory, peers):
        bench = Bench(arguments, directory)
        peers += [kind(directory / kind.__name__) for kind in (MHPopserv, MaildirPopserv)]
        print_status("generating mail")
        for peer in peers:
            write_folder(bench, peer, peer.maildir(STARTER), 1)
            give(peer.maildir(STARTER), peer.owner)
            peer.maildir(USER)
            write_folder(bench, peer, directory / peer.name, arguments.messages)
        bench.wait_for_mail()
        runs = {}
        for number in range(arguments.rounds):
            for workload in WORKLOADS:
                for peer in peers[number % 2 :] + peers[: number % 2]:
                    print_status(f"round {number + 1}: {workload}, {peer.name}")
                    run = measure(
                        *(bench, peer, workload, arguments.messages),
                        restore=partial(restore, Path(directory, peer.name), peer.owner),
                        count=partial(count_messages, peer),
                    )
                    runs.setdefault((workload, peer.name), []).append(run)
        print_table(arguments, peers, runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
