"""Compare popserv with Dovecot on mbox files: ``python benchmarks/mbox.py``.

Each server has a file of the same messages.  In each round the servers are measured in turn:

poll    a session of USER, PASS, UIDL, LIST and QUIT on an unchanged file
first   such a session after a restart, and the removal of the server's own files
retr    RETR of a message
quit    a session of USER, PASS, DELE of one message in the middle, and QUIT
"""

import argparse
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

from peers import Dovecot, MeasurementError, Popserv, TunedDovecot
from run import Bench, add_common_options, environment, parse, print_status, work_directory
from workloads import summarize

USER, STARTER = "ann", "starter"
WORKLOADS = ("poll", "first", "retr", "quit")
FROM_LINE = b"From ann@example.org Mon Jan  5 %02d:%02d:%02d 2026\n"


class MboxPopserv(Popserv):
    """popserv with --mbox."""

    def command(self):
        """See Peer."""
        command = list(super().command())
        at = command.index("--maildir")
        command[at : at + 2] = ["--mbox", self.root, "--auth", f"passwd-file:{self.root}/.users"]
        return command

    def remove_own_files(self):
        """Remove what the server has written, which is nothing."""


class _MboxDovecot(Dovecot):
    """Dovecot with mbox files; its indexes are in a directory of their own."""

    @property
    def _indexes(self):
        return self.directory / "indexes"

    def command(self):
        """See Peer."""
        command = super().command()
        with open(command[-1], "a") as settings:
            settings.write(f"mail_location = mbox:{self._indexes}/%u:INBOX={self.root}/%u\n")
        return command

    def remove_own_files(self):
        """Remove the indexes."""
        shutil.rmtree(self._indexes, ignore_errors=True)
        self._indexes.mkdir()
        if self.owner is not None:
            shutil.chown(self._indexes, *self.owner)


class MboxDovecot(_MboxDovecot):
    """Dovecot with its defaults."""


class TunedMboxDovecot(TunedDovecot, _MboxDovecot):
    """Dovecot with the settings of the other benchmarks, which do not sync the file."""


def write_mbox(bench, path, messages, owner):
    """Write a file of generated messages."""
    with open(path, "wb") as file:
        for number, source in enumerate(bench.mail.messages("usual", messages)):
            hours, seconds = divmod(number, 3600)
            file.write(FROM_LINE % (hours % 24, *divmod(seconds, 60)))
            text = Path(source).read_bytes()
            file.write(text.replace(b"\nFrom ", b"\n>From ") + b"\n")
    if owner is not None:
        shutil.chown(path, *owner)


def poll(bench, peer, user, messages, calls=1):
    """Run sessions with UIDL and LIST; return the load generator's result."""
    with bench.load(peer, "poll", user, "--calls", calls, "--messages", messages) as load:
        return load.run()


def delete_one(bench, peer, number):
    """Remove one message; return a result as that of the load generator."""
    import poplib

    start = time.perf_counter()
    client = poplib.POP3("127.0.0.1", peer.port, timeout=60)
    client.user(USER)
    client.pass_("secret")
    client.dele(number)
    client.quit()
    seconds = time.perf_counter() - start
    return {
        "operations": 1,
        "seconds": seconds,
        "client": 0.0,
        "p99": seconds,
        "slowest": seconds,
        "resumed": 0.0,
    }


def count_messages(path):
    """Return the number of messages in a file of generated mail."""
    return path.read_bytes().count(b"\nMessage-ID: ")


def measure(bench, peer, workload, messages, restore, count=count_messages):
    """Measure a workload once; return a Run.

    ``restore`` writes the mail at a path, and ``count`` returns the number of messages there.
    """
    path = peer.root / USER
    restore(path)
    if workload == "first":
        peer.stop()
        peer.remove_own_files()
    peer.start()
    poll(bench, peer, STARTER, 1)
    if workload == "first":
        result, cpu = peer.measure_cpu(lambda: poll(bench, peer, USER, messages))
        return summarize([result], cpu)
    for _ in range(2):
        # A server may write a file of its own in the first session, beside the messages.
        bench.settle()
        poll(bench, peer, USER, messages)
    if workload == "quit":
        result, cpu = peer.measure_cpu(lambda: delete_one(bench, peer, messages // 2))
        if count(path) != messages - 1:
            raise MeasurementError("QUIT has not removed one message")
        return summarize([result], cpu)
    options = ["--messages", messages, "--seconds", bench.seconds, "--warm", 1]
    with bench.load(peer, workload, USER, *options) as load:
        result, cpu = peer.measure_cpu(load.run)
    return summarize([result], cpu)


def parse_command_line(argv, description=__doc__):
    """Return the arguments of a command line."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds [default: 5]")
    parser.add_argument(
        "--messages", type=int, default=10_000, help="messages in a file [default: 10000]"
    )
    add_common_options(parser)
    arguments = parse(parser, argv)
    if arguments.tiny:
        arguments.messages, arguments.rounds = 20, 1
    return arguments


def print_table(arguments, peers, runs):
    """Print the medians of all runs, which are given by workload and name of the server."""
    print(f"{environment()}, {arguments.rounds} rounds, {arguments.messages} messages\n")
    print("| workload | server | CPU ms | wall-clock ms |\n|---|---|---|---|")
    for workload in WORKLOADS:
        for peer in peers:
            each = runs[workload, peer.name]
            cpu = 1000 * median(run.value for run in each)
            wall = 1000 * median(1 / run.rate for run in each)
            print(f"| {workload} | {peer.name} | {cpu:.3f} | {wall:.3f} |")


def main(argv=None):
    """Run the comparison and print a table; return the exit code."""
    arguments = parse_command_line(argv)
    with work_directory(arguments) as (directory, peers):
        bench = Bench(arguments, directory)
        peers += [
            kind(directory / kind.__name__) for kind in (MboxPopserv, TunedMboxDovecot, MboxDovecot)
        ]
        print_status("generating mail")
        original = directory / "mbox"
        write_mbox(bench, original, arguments.messages, None)
        restore = partial(shutil.copyfile, original)
        for peer in peers:
            for user in (USER, STARTER):
                peer.maildir(user)
            write_mbox(bench, peer.root / STARTER, 1, peer.owner)
            shutil.copyfile(original, peer.root / USER)
            if peer.owner is not None:
                for path in (peer.root, peer.root / USER):
                    shutil.chown(path, *peer.owner)
            peer.remove_own_files()
        bench.wait_for_mail()
        runs = {}
        for number in range(arguments.rounds):
            for workload in WORKLOADS:
                for peer in peers[number % 3 :] + peers[: number % 3]:
                    print_status(f"round {number + 1}: {workload}, {peer.name}")
                    run = measure(bench, peer, workload, arguments.messages, restore)
                    runs.setdefault((workload, peer.name), []).append(run)
        print_table(arguments, peers, runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
