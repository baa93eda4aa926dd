"""Actions of other programs and of a session on one Maildir, each of which checks its result."""

import os
from itertools import count

from hypothesis import strategies as st

from popserv.errors import MaildropBusy, NoSuchMessage, RemovalFailed, TryLater
from popserv.maildrops.maildir.listing import size_file
from popserv.testing import naive_octets
from tests.maildrops.maildir.harness import read_message, result, uids_of, wait_for_clock_tick


class Traffic:
    """One Maildir, the messages that should be in it, other programs, and one session.

    Each public method is one action; its number chooses the message, or a variant.
    """

    def __init__(self, case, user):
        """Make the user's Maildir."""
        self._case = case
        self._user = user
        self._serial = count()
        self._stored = {}
        self._at_login = {}
        self._mailbox = None
        self._rewritten = set()
        case.make_maildir(user)

    def deliver(self, number):
        """Deliver a message, which is not always the last in order."""
        base_name = b"%d.%d" % (number % 3, next(self._serial))
        self._stored[base_name] = b".%b\n" % base_name * (number % 4)
        self._case.put(b"new/" + base_name, self._stored[base_name], self._user)

    def change_flags(self, number):
        """Move a message to cur/, or change its flags there."""
        for base_name, path in self._one_of(number):
            os.rename(
                path,
                self._case.path_of(b"cur/%b:2,%b" % (base_name, b"FRS"[: number % 4]), self._user),
            )

    def move_to_new(self, number):
        """Move a message back to new/."""
        for base_name, path in self._one_of(number):
            os.rename(path, self._case.path_of(b"new/" + base_name, self._user))

    def remove_externally(self, number):
        """Remove a message, as another program."""
        for base_name, path in self._one_of(number):
            os.unlink(path)
            del self._stored[base_name]
            self._rewritten.discard(base_name)

    def login(self, _number):
        """Open the maildrop and check its messages; a second session is refused."""
        if self._mailbox is not None:
            with self._case.assertRaises(MaildropBusy), self._case.session(self._user):
                pass
            return
        self._mailbox = result(self._case.maildrops.open_maildrop(self._user))
        self._at_login = dict(self._stored)
        order = sorted(self._stored, key=lambda base_name: (int(base_name[:1]), base_name))
        self._case.assertEqual(uids_of(self._mailbox), order)
        for base_name, octets in zip(order, self._mailbox.messages.octets, strict=True):
            if base_name not in self._rewritten:
                self._case.assertEqual(octets, naive_octets(self._stored[base_name]))

    def wait(self, number):
        """Wait for a clock tick, and perhaps open and release the maildrop."""
        wait_for_clock_tick()
        if self._mailbox is None and number % 4:
            self.login(number)
            self.logout(number)

    def restart(self, _number):
        """Start another server, which has nothing in memory."""
        if self._mailbox is None:
            self._case.restart()

    def damage_size_file(self, number):
        """Change a byte of the size file, and perhaps truncate it."""
        path = self._case.path_of(size_file.NAME, self._user)
        if self._mailbox is None and os.path.exists(path):
            with open(path, "r+b") as file:
                data = file.read()
                at = number * len(data) // 31
                file.seek(at)
                file.write(bytes([data[at] ^ 1]))
                file.truncate(len(data) - number % 3)

    def rewrite(self, number):
        """Change the bytes of a message, as no program should."""
        for base_name, path in self._one_of(number):
            with open(path, "wb") as file:
                file.write(b"rewritten %d times\n" % number)
            self._stored[base_name] = b"rewritten %d times\n" % number
            self._rewritten.add(base_name)

    def read_cached(self, number):
        """Read the start of a message without waiting: as it is, or as it was at the login."""
        if self._mailbox is None:
            self.login(number)
        for message in self._chosen(number):
            maximum = number % 7 or 100
            text = self._mailbox.read_cached(message, maximum)
            if text is not None:
                bodies = [self._stored.get(message.uid), self._at_login[message.uid]]
                self._case.assertIn(text, [body[:maximum] for body in bodies if body is not None])
            if message.uid not in self._stored and text is not None:
                # It was kept when its octets were counted, and is returned once.
                self._case.assertIsNone(self._mailbox.read_cached(message, maximum))

    def read(self, number):
        """Read a message: it has its bytes, has vanished, or is refused as its octets changed."""
        for message in self._chosen(number):
            if message.uid not in self._stored:
                with self._case.assertRaises(NoSuchMessage):
                    read_message(self._mailbox, message.position)
            elif message.octets != naive_octets(self._stored[message.uid]):
                self._case.assertIn(message.uid, self._rewritten)
                with self._case.assertRaises(TryLater):
                    read_message(self._mailbox, message.position)
                # From the next session on everything is right again.
                self._rewritten.clear()
                self.logout()
                self.login(number)
            else:
                self._case.assertEqual(
                    read_message(self._mailbox, message.position), self._stored[message.uid]
                )

    def remove(self, number):
        """Remove two messages, one, or none."""
        chosen = {*self._chosen(number), *self._chosen(number // 3)}
        if chosen:
            try:
                result(self._mailbox.remove(chosen))
            except RemovalFailed:
                # One was rewritten and renamed, so it cannot be recognized.
                left = {each.uid for each in chosen} & set(self._paths())
                self._case.assertLessEqual(left, self._rewritten)
                chosen = {each for each in chosen if each.uid not in left}
            for message in chosen:
                self._stored.pop(message.uid, None)
                self._rewritten.discard(message.uid)

    def logout(self, _number=0):
        """Release the maildrop and check which messages are there."""
        if self._mailbox is not None:
            result(self._mailbox.release())
            self._mailbox = None
        self._case.assertEqual(sorted(self._paths()), sorted(self._stored))

    def _paths(self):
        folders = [self._case.path_of(folder, self._user) for folder in (b"new", b"cur")]
        return {n.partition(b":")[0]: os.path.join(f, n) for f in folders for n in os.listdir(f)}

    def _one_of(self, number):
        paths = sorted(self._paths().items())
        return paths and [paths[number % len(paths)]]

    def _chosen(self, number):
        messages = () if self._mailbox is None else self._mailbox.messages
        return messages and [messages[number % len(messages)]]


ACTIONS = st.sampled_from(sorted(name for name in vars(Traffic) if name[0] != "_"))
