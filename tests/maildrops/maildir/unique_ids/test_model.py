"""Unique-ids over time: whatever happens to a maildrop, none is ever that of two messages."""

import os
import shutil
import time
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from popserv.maildrops.maildir import folders
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.maildir.unique_ids import courier_sizelist, dovecot_uidlist, files, pinning
from tests.maildrops.maildir.harness import DIRECTORY, MaildirCase, run_inline, uids_of

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


class ModelTests(MaildirCase):
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
        shutil.rmtree(self.root)
        self.make_maildir()
        self.uidl, self.uid, self.day, self.serial = uidl, 0, 20_000, 0
        self.restart()
        owners, last, messages = {}, {}, []
        with (
            mock.patch.object(folders, "TRUSTED_AGE", folders.CLOCK_TICK),
            mock.patch.object(files, "TRUSTED_AGE", folders.CLOCK_TICK),
            mock.patch.object(time, "time", lambda: self.day * 86_400.0),
        ):
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
