"""popserv.maildrops.maildir.delivery: messages are complete, durable, and seen by all users."""

import io
import os
import shutil
from functools import partial
from itertools import count
from pathlib import Path
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from popserv.errors import MessageTooLarge
from popserv.maildrops import spooling
from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir import delivery as delivery_module
from popserv.maildrops.maildir.delivery import Delivery
from tests.maildrops.maildir.harness import SPECIAL_FILES, MaildirCase, failing, read_message

MESSAGE = b"Subject: hello\n\nHello.\n"
FAILURE = OSError(5, "a failure")


class DeliveryTests(MaildirCase):
    """Ann has a Maildir already, and Bob has none."""

    def setUp(self):
        """Make a layout for the root."""
        super().setUp()
        self.layout = Layout(self.root)

    def files(self, folder, *users):
        """Return the contents of the files in a folder of these users."""
        return [file.read_bytes() for user in users for file in Path(self.root, user).glob(folder)]

    def deliver(self, message=MESSAGE, users=(b"ann", b"bob"), **more):
        """Deliver a message and close the delivery."""
        delivery = Delivery(self.layout)
        try:
            delivery.write(io.BytesIO(message), users, **more)
            delivery.commit()
        finally:
            delivery.close()

    def test_steps(self):
        """A message is in tmp/ until commit, and in new/ afterwards."""
        delivery = Delivery(self.layout)
        delivery.write(io.BytesIO(MESSAGE), [b"ann", b"bob"])
        self.assertEqual(self.files("tmp/*", "ann", "bob"), [MESSAGE] * 2)
        self.assertEqual(self.files("new/*", "ann", "bob"), [])
        names = [os.fsdecode(name) for name in delivery.names]
        delivery.commit()
        delivery.close()
        for user, name in zip(("ann", "bob"), names, strict=True):
            self.assertEqual(Path(self.root, user, "new", name).read_bytes(), MESSAGE)
        self.assertEqual(self.files("tmp/*", "ann", "bob"), [])
        for user in ("ann", "bob"):
            self.assertEqual(self.files("new/*", user), [MESSAGE])

    def test_too_large(self):
        """A message that no session would read is refused, with its prefix."""
        self.patch(spooling, "MAX_MESSAGE", 8)
        self.deliver(b"12345\n", prefix=b"7\n")
        for text, prefix in ((b"12345\n", b"78\n"), (b"12345678\n", b"")):
            with self.assertRaises(MessageTooLarge):
                self.deliver(text, [b"bob", b"cid"], prefix=prefix)
        self.assertEqual(self.files("*/*", "ann", "bob", "cid"), [b"7\n12345\n"] * 2)

    def test_not_committed(self):
        """Without commit, nothing of the message is left."""
        delivery = Delivery(self.layout)
        delivery.write(io.BytesIO(MESSAGE), [b"ann"])
        delivery.close()
        self.assertEqual(self.files("*/*", "ann"), [])

    @given(st.binary(), st.binary(max_size=9), st.integers(0, 9))
    def test_octets(self, message, prefix, at):
        """The stored message is the prefix and the whole file, wherever the file's position is."""
        file = io.BytesIO(message)
        file.seek(at)
        delivery = Delivery(self.layout)
        delivery.write(file, [b"ann"], prefix=prefix)
        stored = self.files("tmp/*", "ann")
        delivery.close()
        self.assertEqual(stored, [prefix + message])

    def test_order(self):
        """The whole file is synced before it is renamed, and new/ before commit returns."""
        done, sizes = [], []
        fsync, rename = os.fsync, os.rename

        def record_fsync(fd):
            done.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
            sizes.append(os.fstat(fd).st_size)
            fsync(fd)

        def record_rename(name, *args, **more):
            done.append(("rename", name.decode()))
            rename(name, *args, **more)

        with patch("os.fsync", record_fsync), patch("os.rename", record_rename):
            self.deliver(users=[b"ann"])
        name = done[0][1]
        self.assertEqual(done, [("fsync", name), ("rename", name), ("fsync", "new")])
        self.assertEqual(sizes[0], len(MESSAGE))

    def test_failures(self):
        """If any call fails before commit, no user has the message and no file stays open."""
        for call in ("open", "mkdir", "fsync"):
            for number in count():
                calls = count()
                delivery = Delivery(self.layout)
                with failing(os, call, FAILURE, lambda *_, n=number, c=calls: next(c) == n):
                    try:
                        delivery.write(io.BytesIO(MESSAGE), [b"ann", b"bob"])
                    except OSError:
                        pass
                    finally:
                        delivery.close()
                self.assertEqual(self.files("*/*", "ann", "bob"), [])
                shutil.rmtree(self.path_of(b"", b"bob"), ignore_errors=True)
                if next(calls) <= number:
                    break
            self.assertGreater(number, 3, call)

    def test_failure_in_commit(self):
        """If commit fails, each user has the whole message or nothing."""
        for call, seen in (("rename", []), ("fsync", [MESSAGE])):
            delivery = Delivery(self.layout)
            delivery.write(io.BytesIO(MESSAGE), [b"ann", b"bob"])
            with failing(os, call, FAILURE):
                self.assertRaises(OSError, delivery.commit)
            delivery.close()
            self.assertEqual(self.files("tmp/*", "ann", "bob"), [])
            self.assertEqual(self.files("new/*", "ann", "bob"), seen)

    def test_names(self):
        """File names are unique and follow the Maildir specification."""
        with patch.object(delivery_module, "gethostname", return_value="a/b:c"):
            names = {delivery_module._unique_name() for _ in range(1000)}
        self.assertEqual(len(names), 1000)
        for name in names:
            self.assertRegex(name, rb"\A[0-9]+\.M[0-9]{6}P[0-9]+R[0-9a-f]{16}\.a\\057b\\072c\Z")

    def test_time(self):
        """A name begins with the time of delivery, which gives the order of messages."""
        at = 1_700_000_000_012_345_678
        with patch.object(delivery_module.time, "time_ns", return_value=at):
            name = delivery_module._unique_name()
        self.assertTrue(name.startswith(b"1700000000.M012345P%dR" % os.getpid()), name)

    def test_taken_name(self):
        """A file that has the name already is not overwritten, nor what a link leads to."""
        path = self.path_of(b"tmp/1.a")
        with patch.object(delivery_module, "_unique_name", return_value=b"1.a"):
            for make in (os.mknod, partial(os.symlink, "nowhere")):
                make(path)
                self.assertRaises(OSError, self.deliver, users=[b"ann"])
                self.assertTrue(os.path.lexists(path))
                os.unlink(path)
        self.assertEqual(self.files("*/*", "ann"), [])

    def test_permissions(self):
        """The group of the Maildir has its access to the message."""
        os.chmod(self.path_of(b""), 0o770)
        self.deliver(users=[b"ann"])
        (file,) = Path(self.root, "ann", "new").iterdir()
        self.assertEqual(file.stat().st_mode & 0o777, 0o660)

    def test_quota(self):
        """The octets of the message and its prefix are added in the quota file."""
        self.put(b"maildirsize", b"1000S\n")
        self.deliver(users=[b"ann"], prefix=b"a: b\n")
        quota = Path(os.fsdecode(self.path_of(b"maildirsize")))
        self.assertEqual(quota.read_bytes(), b"1000S\n%d 1\n" % (len(MESSAGE) + 5))

    def test_private(self):
        """If a file cannot be given to the owner of the Maildir, only the server may read it."""
        self.addCleanup(os.umask, os.umask(0))
        with patch.object(delivery_module, "copy_ownership"):
            self.deliver(users=[b"ann"])
        (file,) = Path(self.root, "ann", "new").iterdir()
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)

    def test_name_not_allowed(self):
        """A user name that the layout does not allow raises ValueError."""
        self.assertRaises(ValueError, self.deliver, users=[b"../ann"])

    def test_link(self):
        """Nothing is delivered into a folder that is a symbolic link."""
        os.rmdir(self.path_of(b"new"))
        os.symlink("cur", self.path_of(b"new"))
        self.assertRaises(OSError, self.deliver)
        self.assertEqual(self.files("cur/*", "ann") + self.files("tmp/*", "ann"), [])

    def test_special_files(self):
        """What is in the place of tmp/ or new/ and is no directory is refused."""
        for folder in (b"tmp", b"new"):
            os.rmdir(self.path_of(folder))
            for what, make in SPECIAL_FILES.items():
                if what != "a directory":
                    make(self.path_of(folder))
                    self.assertRaises(OSError, self.deliver)
                    os.unlink(self.path_of(folder))
            os.mkdir(self.path_of(folder))

    def test_read(self):
        """The store shows delivered messages in the order of delivery."""
        messages = [b"%d\n" % n for n in range(20)]
        for message in messages:
            self.deliver(message, [b"bob"])
        with self.session(b"bob") as mailbox:
            self.assertEqual([read_message(mailbox, at) for at in range(20)], messages)
