"""Unique-ids over time: whatever happens to a maildrop, none is ever that of two messages."""

import os
import shutil
import time
from contextlib import contextmanager
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from popserv.maildrops.maildir import folders, small_files
from popserv.maildrops.maildir.hiding import HidingMaildrops
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.maildir.unique_ids import courier_sizelist, dovecot_uidlist, pinning
from popserv.maildrops.recent import RecentMaildrops
from tests.maildrops.maildir.harness import DIRECTORY, MaildirCase, result, run_inline, uids_of

FORMATS = ("filename", "dovecot", "courier", "%f", "x%Mf", "%v.%u")

ACTIONS = (
    "deliver",
    "deliver late",
    "remove",
    "rename",
    "restart",
    "pin",
    "list",
    "no lists",
    "age",
)
"""What other programs, the administrator and time do between sessions."""


class ModelCase(MaildirCase):
    """A Maildir, and what happens to it between sessions."""

    @contextmanager
    def new_maildir(self, uidl):
        """Make an empty Maildir for a server with this format, and set the clock."""
        shutil.rmtree(self.root)
        self.make_maildir()
        self.uidl, self.uid, self.day, self.serial = uidl, 0, 20_000, 0
        self.restart()
        with (
            mock.patch.object(folders, "TRUSTED_AGE", folders.CLOCK_TICK),
            mock.patch.object(small_files, "TRUSTED_AGE", folders.CLOCK_TICK),
            mock.patch.object(time, "time", lambda: self.day * 86_400.0),
        ):
            yield

    def restart(self, messages=(), number=0):
        """Start the server again."""
        uidl = getattr(self, "uidl", "filename")
        self.maildrops = MaildirMaildrops(self.root, uidl=uidl, run=run_inline)

    def shown(self):
        """Return the unique-ids in a session, by base name."""
        with self.session() as mailbox:
            return dict(zip(mailbox.base_names, uids_of(mailbox), strict=True))

    def deliver(self, messages, number, at=1_700_000_000):
        """Deliver a message."""
        self.serial += 1
        messages.append(self.name_of(self.serial, at))
        self.put(b"new/" + messages[-1])

    def name_of(self, serial, at=1_700_000_000):
        """Return a base name."""
        return b"%d.M%d.host" % (at + serial, serial)

    def deliver_late(self, messages, number):
        """Deliver a message whose name is older than others."""
        self.deliver(messages, number, 1_600_000_000)

    def file_of(self, name):
        """Return the present name of a message."""
        return next(each for each in self.file_names() if each[4:].split(b":")[0] == name)

    def remove(self, messages, number):
        """Remove a message."""
        if messages:
            os.unlink(self.path_of(self.file_of(messages.pop(number % len(messages)))))

    def rename(self, messages, number):
        """Give a message other flags."""
        if messages:
            name = messages[number % len(messages)]
            self.move(self.file_of(name), b"cur/%b:2,%b" % (name, b"S" if number % 2 else b""))

    def pin(self, messages, number):
        """Pin unique-ids that another server has given some messages."""
        wanted = {name: b"old-" + name for at, name in enumerate(messages) if number >> at & 1}
        if messages and number % 3 == 0:
            # That is the base name of the next message.
            wanted[messages[-1]] = self.name_of(self.serial + 1)
        fd = os.open(self.path_of(b""), DIRECTORY)
        pinning.pin(fd, wanted, messages)
        os.close(fd)

    def list(self, messages, number):
        """Let the other server number the messages: Dovecot adds lines, Courier writes all."""
        path = self.path_of(dovecot_uidlist.NAME)
        if not os.path.exists(path):
            self.uid += 1000
            with open(path, "wb") as file:
                file.write(b"3 V%d N%d G00\n" % (self.uid, self.uid))
        fd = os.open(self.path_of(b""), DIRECTORY)
        dovecot_uidlist.assign(fd, messages)
        os.close(fd)
        lines = [b"%b 3 %d:7\n" % (name, int(name.split(b".")[1][1:])) for name in messages]
        with open(self.path_of(b"list"), "wb") as file:
            file.write(b"/2 1 7\n" + b"".join(lines))
        os.rename(self.path_of(b"list"), self.path_of(courier_sizelist.NAME))

    def no_lists(self, messages, number):
        """Remove the other server's lists."""
        for name in (dovecot_uidlist.NAME, courier_sizelist.NAME):
            if os.path.exists(self.path_of(name)):
                os.unlink(self.path_of(name))

    def age(self, messages, number):
        """Let some weeks pass."""
        self.day += 40


class ModelTests(ModelCase):
    """Sessions with a server in each format, and other programs between them."""

    @settings(max_examples=100, deadline=None)
    @given(
        st.sampled_from(FORMATS),
        st.lists(
            st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1 << 16)), min_size=4, max_size=16
        ),
    )
    @example("filename", [("deliver", 0), ("pin", 0), ("deliver", 0)])
    @example("filename", [("deliver", 0), ("pin", 0), ("remove", 0), ("age", 0), ("deliver", 0)])
    def test_identity(self, uidl, actions):
        """A unique-id belongs to one message for ever; only a pin, or a lost list, changes it."""
        owners, last, messages = {}, {}, []
        with self.new_maildir(uidl):
            for action, number in [*actions, ("restart", 0)]:
                getattr(self, action.replace(" ", "_"))(messages, number)
                shown = self.shown()
                self.assertEqual(set(shown), set(messages))
                self.assertEqual(len(set(shown.values())), len(shown))
                for name, unique_id in shown.items():
                    self.assertEqual(owners.setdefault(unique_id, name), name)
                    if action not in ("pin", "no lists") and name in last:
                        self.assertEqual(unique_id, last[name])
                last = shown


class SelectedTests(ModelCase):
    """--deleted keep and --since: some messages are not shown."""

    AGE = 78_000_000
    """At first, the seconds between what is delivered late, which is too old, and the rest."""

    def restart(self, messages=(), number=0):
        """Start the server again, and those that do not show all messages."""
        super().restart()
        options = {"uidl": getattr(self, "uidl", "filename"), "run": run_inline}
        stores = [MaildirMaildrops(self.root, **options) for _ in range(3)]
        keeping = HidingMaildrops(stores[0])
        # Whether deleted messages are hidden, whether old ones are, and the server.
        self.servers = (
            (True, False, keeping),
            (False, True, RecentMaildrops(stores[1], self.AGE, run_inline)),
            (True, True, RecentMaildrops(HidingMaildrops(stores[2]), self.AGE, run_inline)),
        )

    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from(FORMATS),
        st.lists(
            st.tuples(st.sampled_from((*ACTIONS, "delete")), st.integers(0, 1 << 16)),
            min_size=4,
            max_size=12,
        ),
    )
    @example("dovecot", [("deliver", 0), ("list", 0), ("deliver late", 0), ("delete", 0)])
    @example("filename", [("deliver", 0), ("deliver", 0), ("pin", 3), ("delete", 0), ("age", 0)])
    def test_unchanged(self, uidl, actions):
        """The others have the unique-ids and the order that they have beside all messages."""
        messages = []
        self.deleted = set()
        with self.new_maildir(uidl):
            for action, number in [*actions, ("restart", 0)]:
                getattr(self, action.replace(" ", "_"))(messages, number)
                # Whichever server is asked first may have to assign or pin unique-ids.
                order = self.servers[number % 3 :] + self.servers[: number % 3]
                found = [(*hides, self.uids(server)) for *hides, server in order]
                shown = self.shown()
                for hides_deleted, hides_old, uids in found:
                    expected = [
                        unique_id
                        for name, unique_id in shown.items()
                        if not (hides_deleted and name in self.deleted)
                        and not (hides_old and self.is_old(name))
                    ]
                    self.assertEqual(uids, expected)

    def uids(self, server):
        """Return the unique-ids in a session of a server."""
        with self.session(maildrops=server) as mailbox:
            return uids_of(mailbox)

    def is_old(self, name):
        """Return whether a message is too old to be shown."""
        return int(name.split(b".")[0]) < self.day * 86_400 - self.AGE

    def delete(self, messages, number):
        """Delete a message in a session of the server that keeps them."""
        shown = self.shown()
        with self.session(maildrops=self.servers[0][2]) as mailbox:
            if mailbox.messages:
                message = mailbox.messages[number % len(mailbox.messages)]
                (name,) = [each for each in shown if shown[each] == message.uid]
                result(mailbox.remove([message]))
                self.deleted.add(name)
