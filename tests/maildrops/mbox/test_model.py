"""The mbox store beside a model: deliveries, other programs and sessions in any order."""

import os
import re
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from popserv.errors import MaildropBusy, NoSuchMessage
from popserv.maildrops.mbox.index import Identity
from tests.maildrops.maildir.harness import read_message, result
from tests.maildrops.mbox.harness import MboxCase, stored

ACTIONS = ("deliver", "deliver_equal", "remove_externally", "mark_externally", "rename", "restart")
SESSION_ACTIONS = ("retrieve", "remove")


class Traffic:
    """One file, the messages that should be in it, other programs, and one session.

    A message of the model has a number and its octets, without Status.
    """

    def __init__(self, case):
        self.case = case
        self.serial = count()
        self.stored = []
        self.mailbox = None
        self.snapshot = []
        self.uids = {}
        case.write(b"")

    def write(self, rewrite=True):
        """Rewrite the file as another program does: in place, or as another file."""
        octets = b"".join(octets for _, octets in self.stored)
        if rewrite:
            with open(self.case.path, "rb+") as file:
                file.write(octets)
                file.truncate()
        else:
            self.case.replace(octets)

    def deliver(self, number):
        """Deliver a message."""
        serial = next(self.serial)
        octets = stored(b"Subject: %d\n\n" % serial + b"text\n" * (number % 4), serial)
        self.stored.append((serial, octets))
        self.case.append(octets)

    def deliver_equal(self, number):
        """Deliver a message again that is there, in the same second."""
        if self.stored:
            _, octets = self.stored[number % len(self.stored)]
            self.stored.append((next(self.serial), octets))
            self.case.append(octets)

    def remove_externally(self, number):
        """Remove a message as another program; not one of several that are equal."""
        if self.stored:
            at = number % len(self.stored)
            if sum(octets == self.stored[at][1] for _, octets in self.stored) == 1:
                del self.stored[at]
                self.write(number % 2)

    def mark_externally(self, number):
        """Write Status into a message, as another program; the same for each."""
        if self.stored and self.mailbox is None:
            at = number % len(self.stored)
            serial, octets = self.stored[at]
            self.stored[at] = serial, octets.replace(b"\n\n", b"\nStatus: O\n\n", 1)
            self.write()

    def rename(self, number):
        """Put a copy in place of the file."""
        self.write(rewrite=False)

    def restart(self, number):
        """Restart the server, between sessions."""
        if self.mailbox is None:
            self.case.restart()

    def login(self):
        """Open the maildrop, and compare what it shows."""
        self.mailbox = result(self.case.maildrops.open_maildrop(b"ann"))
        self.snapshot = list(self.stored)
        uids = [message.uid for message in self.mailbox.messages]
        assert len(uids) == len(self.snapshot), (uids, self.snapshot)
        self.case.assertEqual(len(set(uids)), len(uids))
        try:
            other = result(self.case.maildrops.open_maildrop(b"ann"))
        except MaildropBusy:
            pass
        else:
            # Another file has been put in place of the one that is locked.
            result(other.release())
            self.case.fail("two sessions")

    def retrieve(self, number):
        """Read a message: it is there, or was removed."""
        if self.snapshot:
            at = number % len(self.snapshot)
            serial, octets = self.snapshot[at]
            is_there = any(each == serial for each, _ in self.stored)
            try:
                text = read_message(self.mailbox, at)
            except NoSuchMessage:
                self.case.assertFalse(is_there)
            else:
                self.case.assertEqual(text, octets[octets.index(b"\n") + 1 : -1])

    def remove(self, number):
        """Remove some messages, and end the session."""
        wanted = [at for at in range(len(self.snapshot)) if number >> at & 1]
        gone = {self.snapshot[at][0] for at in wanted}
        result(self.mailbox.remove([self.mailbox.messages[at] for at in wanted]))
        self.stored = [each for each in self.stored if each[0] not in gone]
        self.logout()
        self.check()

    def logout(self):
        """End the session."""
        result(self.mailbox.release())
        self.mailbox = None

    def check(self):
        """Compare the messages in the file with the model, X-UIDL aside."""
        with self.case.session() as mailbox:
            texts = [read_message(mailbox, at) for at in range(len(mailbox.messages))]
        expected = [octets[octets.index(b"\n") + 1 : -1] for _, octets in self.stored]
        texts, expected = map(_without_x_uidl, texts), map(_without_x_uidl, expected)
        self.case.assertEqual(list(texts), list(expected))
        # From now on the model has what was written.
        octets = self.case.contents().split(b"From ann@")[1:]
        self.stored = [
            (serial, b"From ann@" + each)
            for (serial, _), each in zip(self.stored, octets, strict=True)
        ]


def _without_x_uidl(text):
    return re.sub(rb"X-UIDL: .*\n", b"", text)


class ModelTests(MboxCase):
    """Any actions in any order."""

    def replace(self, octets):
        """Put another file in place of this one."""
        os.rename(self.path, self.path + ".old")
        self.write(octets)
        os.unlink(self.path + ".old")

    @given(
        st.lists(
            st.tuples(st.sampled_from(ACTIONS + SESSION_ACTIONS * 3), st.integers(0, 63)),
            max_size=25,
        )
    )
    @settings(max_examples=300, deadline=None)
    def test_model(self, actions):
        """A session shows what the model has, and removes what was marked and nothing else."""
        # Files that change within a clock tick are read again.
        self.patch(Identity, "is_settled", lambda identity: False)
        self.restart()
        traffic = Traffic(self)
        try:
            for name, number in actions:
                if name in SESSION_ACTIONS and traffic.mailbox is None:
                    traffic.login()
                getattr(traffic, name)(number)
        finally:
            if traffic.mailbox is not None:
                traffic.logout()
        traffic.check()
