"""maildir.delivery: messages are whole, last, and are seen by all users or by nobody."""

import io
import os
import shutil
from itertools import count
from pathlib import Path
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from popserv.maildrops.maildir import delivery
from popserv.maildrops.maildir.delivery import Delivery
from popserv.maildrops.maildir.layout import Layout
from tests.maildrops.maildir.test_store import MaildirCase, failing, read

MESSAGE = b"Subject: hello\n\nHello.\n"
FAULT = OSError(5, "a fault")


class DeliveryTests(MaildirCase):
    """Ann has a Maildir already, Bob none."""

    def setUp(self):
        """Have a layout of the root."""
        super().setUp()
        self.layout = Layout(self.root)

    def files(self, folder, *users):
        """Return the contents of the files in a folder of these users."""
        return [file.read_bytes() for user in users for file in Path(self.root, user).glob(folder)]

    def deliver(self, message=MESSAGE, users=(b"ann", b"bob"), **more):
        """Deliver a message, and leave nothing behind."""
        one = Delivery(self.layout)
        try:
            one.write(io.BytesIO(message), users, **more)
            one.commit()
        finally:
            one.close()

    def test_steps(self):
        """It is in tmp/ until commit, and in new/ from then on."""
        one = Delivery(self.layout)
        one.write(io.BytesIO(MESSAGE), [b"ann", b"bob"])
        self.assertEqual(self.files("tmp/*", "ann", "bob"), [MESSAGE] * 2)
        self.assertEqual(self.files("new/*", "ann", "bob"), [])
        one.commit()
        one.close()
        self.assertEqual(self.files("tmp/*", "ann", "bob"), [])
        for user in ("ann", "bob"):
            self.assertEqual(self.files("new/*", user), [MESSAGE])

    def test_not_committed(self):
        """Without commit nothing is left of it."""
        one = Delivery(self.layout)
        one.write(io.BytesIO(MESSAGE), [b"ann"])
        one.close()
        self.assertEqual(self.files("*/*", "ann"), [])

    @given(st.binary(), st.binary(max_size=9), st.integers(0, 9))
    def test_octets(self, message, before, at):
        """What is stored is what stood in the file, from its start, with what is before it."""
        file = io.BytesIO(message)
        file.seek(at)
        one = Delivery(self.layout)
        one.write(file, [b"ann"], prefix=before)
        stored = self.files("tmp/*", "ann")
        one.close()
        self.assertEqual(stored, [before + message])

    def test_order(self):
        """The file is on the disk before its name, and its name before commit returns."""
        done = []
        fsync, rename = os.fsync, os.rename

        def noting_fsync(fd):
            done.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
            fsync(fd)

        def noting_rename(name, *args, **more):
            done.append(("rename", name.decode()))
            rename(name, *args, **more)

        with patch("os.fsync", noting_fsync), patch("os.rename", noting_rename):
            self.deliver(users=[b"ann"])
        name = done[0][1]
        self.assertEqual(done, [("fsync", name), ("rename", name), ("fsync", "new")])

    def test_faults(self):
        """Whichever call fails before commit, nobody has the message, and nothing stays open."""
        for call in ("open", "mkdir", "fsync"):
            for number in count():
                calls = count()
                one = Delivery(self.layout)
                with failing(os, call, FAULT, lambda *_, n=number, c=calls: next(c) == n):
                    try:
                        one.write(io.BytesIO(MESSAGE), [b"ann", b"bob"])
                    except OSError:
                        pass
                    finally:
                        one.close()
                self.assertEqual(self.files("*/*", "ann", "bob"), [])
                shutil.rmtree(self.at(b"", b"bob"), ignore_errors=True)
                if next(calls) <= number:
                    break
            self.assertGreater(number, 3, call)

    def test_fault_in_commit(self):
        """If commit fails, who has the message has all of it, and who has not has nothing."""
        for call, seen in (("rename", []), ("fsync", [MESSAGE])):
            one = Delivery(self.layout)
            one.write(io.BytesIO(MESSAGE), [b"ann", b"bob"])
            with failing(os, call, FAULT):
                self.assertRaises(OSError, one.commit)
            one.close()
            self.assertEqual(self.files("tmp/*", "ann", "bob"), [])
            self.assertEqual(self.files("new/*", "ann", "bob"), seen)

    def test_names(self):
        """Names are those of no other message, and keep to what a Maildir's name may have."""
        with patch.object(delivery, "gethostname", return_value="a/b:c"):
            names = {delivery._unique_name() for _ in range(1000)}
        self.assertEqual(len(names), 1000)
        for name in names:
            self.assertRegex(name, rb"\A[0-9]+\.M[0-9]{6}P[0-9]+R[0-9a-f]{16}\.a\\057b\\072c\Z")

    def test_no_name(self):
        """Who can have no maildrop is told to the caller."""
        self.assertRaises(ValueError, self.deliver, users=[b"../ann"])

    def test_link(self):
        """A folder that leads elsewhere takes nothing."""
        os.rmdir(self.at(b"new"))
        os.symlink("cur", self.at(b"new"))
        self.assertRaises(OSError, self.deliver)
        self.assertEqual(self.files("cur/*", "ann") + self.files("tmp/*", "ann"), [])

    def test_read(self):
        """The store reads what was delivered, in the order of delivery."""
        messages = [b"%d\n" % n for n in range(20)]
        for message in messages:
            self.deliver(message, [b"bob"])
        with self.session(b"bob") as mailbox:
            self.assertEqual([read(mailbox, at) for at in range(20)], messages)
