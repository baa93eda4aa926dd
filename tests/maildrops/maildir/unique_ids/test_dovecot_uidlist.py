"""dovecot_uidlist: Dovecot's list of UIDs is read, and new messages are added to it."""

import contextlib
import os
import subprocess
import sys
import time
from socket import gethostname
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.unique_ids import dovecot_uidlist
from popserv.maildrops.maildir.unique_ids.dovecot_uidlist import (
    LOCK_NAME,
    LOCK_TIMEOUT,
    NAME,
    ListLocked,
    Record,
    UidList,
    assign,
    decode,
    has_stale_lock,
    load,
)
from tests.maildrops.maildir.harness import DIRECTORY, failing, watch_descriptors

HEAD = b"3 V1795928062 N4 Gb31b221dfeaf0b6bc92d000083ecc375\n"
LIST = HEAD + b"1 W23 :1.a:2,S\n2 PXXX O9 W23 :2.b\n4 G0f :4.d\n"


class DecodeTests(SynchronousTestCase):
    """The list is read as Dovecot reads it."""

    def test_version_3(self):
        """Each line has a UID, fields, and a file name that counts up to its first colon."""
        self.assertEqual(
            decode(LIST),
            UidList(
                3,
                1795928062,
                5,
                {
                    b"1.a": Record(1),
                    b"2.b": Record(2, b"XXX", 9),
                    b"4.d": Record(4, guid=b"0f"),
                },
            ),
        )

    def test_version_1(self):
        """A line of version 1 has a UID and a file name."""
        data = b"1 100 9\n1 1.a:2,S\n7 2.b c\n"
        records = {b"1.a": Record(1), b"2.b c": Record(7)}
        self.assertEqual(decode(data), UidList(1, 100, 9, records))

    def test_range(self):
        """The lowest and the highest numbers that Dovecot assigns are accepted."""
        highest = 2**32 - 2
        for head, version in ((b"3 V%d N%d", 3), (b"1 %d %d and more", 1)):
            for validity, next_uid, uid in ((1, 1, 1), (highest, highest + 1, highest)):
                line = b"\n%d %b\n" % (uid, b":1.a" if version == 3 else b"1.a")
                self.assertEqual(
                    decode(head % (validity, next_uid) + line),
                    UidList(version, validity, uid + 1, {b"1.a": Record(uid)}),
                )

    def test_fields(self):
        """Fields may be missing, unknown, empty or invalid, and a name may have spaces."""
        for line, (record, name) in {
            b"5 :1.a": (Record(5), b"1.a"),
            b"5  W1 P :1.a b": (Record(5, b""), b"1.a b"),
            b"5 Oxx w3 :1 :2": (Record(5), b"1 "),
            b"5 O3 :1": (Record(5, order=3), b"1"),
        }.items():
            self.assertEqual(decode(HEAD + line + b"\n").records, {name: record}, line)

    def test_unfinished_line(self):
        """A last line without a line end is being written, and does not count yet."""
        self.assertEqual(decode(LIST + b"5 :5."), decode(LIST))

    def test_two_lines(self):
        """If a file has two lines, the second counts, as in Dovecot."""
        self.assertEqual(decode(LIST + b"7 :1.a\n").records[b"1.a"], Record(7))

    def test_damaged(self):
        """A damaged list is rejected with the number of the line."""
        for data, message in {
            b"": "line 1: its version",
            b"2 1 2\n": "line 1: its version",
            b"3 V1\n": "line 1: UIDVALIDITY or the next UID is missing",
            b"3 Vx N1\n": "is missing",
            b"1 5\n": "is missing",
            b"3 V0 N1\n": "out of range",
            b"3 V1 N0\n": "out of range",
            b"3 V9999999999 N1\n": "out of range",
            b"3 V4294967295 N1\n": "out of range",
            b"3 V1 N4294967296\n": "out of range",
            HEAD + b"0 :1.a\n": "line 2: it does not start with a higher UID",
            LIST + b"x\n": "line 5: it does not start with a higher UID",
            LIST + b"4 :5.e\n": "line 5",
            LIST + b"4294967295 :5.e\n": "line 5",
            LIST + b"\n": "line 5",
            LIST + b"5 W1\n": "line 5: it has no file name",
            LIST + b"5 ::2,S\n": "line 5: it has no file name",
            LIST + b"5 :a/b\n": "line 5: it has no file name",
        }.items():
            with self.subTest(data=data):
                self.assertIn(message, str(self.assertRaises(ValueError, decode, data)))

    @given(st.binary())
    def test_any_octets(self, data):
        """Any octets after a valid line are read or rejected."""
        for text in (data, HEAD + data):
            with contextlib.suppress(ValueError):
                decode(text)


class ListCase(SynchronousTestCase):
    """A Maildir with a list."""

    def setUp(self):
        """Write the list."""
        self.path = os.fsencode(os.path.abspath(self.mktemp()))
        os.mkdir(self.path)
        self.fd = os.open(self.path, DIRECTORY)
        self.addCleanup(os.close, self.fd)
        watch_descriptors(self)
        self.patch(dovecot_uidlist, "LOCK_TIMEOUT", 0.05)
        self.write(NAME, LIST)

    def write(self, name, data):
        """Write a file."""
        with open(os.path.join(self.path, name), "wb") as file:
            file.write(data)

    def read(self):
        """Return the octets of the list."""
        with open(os.path.join(self.path, NAME), "rb") as file:
            return file.read()


class AssignTests(ListCase):
    """New messages get the next UIDs, under Dovecot's lock."""

    def test_order(self):
        """New messages get UIDs in the order of delivery; those of the list keep theirs."""
        assign(self.fd, [b"11.x", b"9.y", b"1.a", b"9.x"])
        self.assertEqual(self.read(), LIST + b"5 :9.x\n6 :9.y\n7 :11.x\n")
        self.assertFalse(os.path.exists(os.path.join(self.path, LOCK_NAME)))
        assign(self.fd, [b"9.x"])
        self.assertEqual(len(load(self.fd)[0].records), 6)

    def test_unlisted_names(self):
        """A name that has a line end cannot be listed."""
        assign(self.fd, [b"9.x\n", b"9.y\r"])
        self.assertEqual(self.read(), LIST)

    def test_lock_has_owner(self):
        """The lock names the process and the host, so that Dovecot knows whether it is stale."""
        seen = []
        real = dovecot_uidlist.read_file

        def read_file(name, fd):
            with open(os.path.join(self.path, b"dovecot-uidlist.lock"), "rb") as file:
                seen.append((file.read(), os.fstat(file.fileno()).st_mode & 0o777))
            return real(name, fd)

        self.patch(dovecot_uidlist, "read_file", read_file)
        assign(self.fd, [b"9.x"])
        owner = f"{os.getpid()}:{gethostname()}"
        self.assertEqual(seen, [(os.fsencode(owner), 0o600)])

    def test_replaced_link(self):
        """A link that is replaced by the list before that is read is not appended to."""
        self.write(b"target", LIST)
        os.rename(os.path.join(self.path, NAME), os.path.join(self.path, b"list"))
        os.symlink(b"target", os.path.join(self.path, NAME))
        real = dovecot_uidlist.read_file

        def read_file(name, fd):
            os.replace(os.path.join(self.path, b"list"), os.path.join(self.path, NAME))
            return real(name, fd)

        self.patch(dovecot_uidlist, "read_file", read_file)
        self.assertRaises(OSError, assign, self.fd, [b"9.x"])
        with open(os.path.join(self.path, b"target"), "rb") as file:
            self.assertEqual(file.read(), LIST)

    def test_locked(self):
        """While Dovecot has the lock, nothing is changed."""
        self.write(LOCK_NAME, b"1:host")
        self.assertRaises(ListLocked, assign, self.fd, [b"9.x"])
        self.assertEqual(self.read(), LIST)
        self.assertTrue(os.path.exists(os.path.join(self.path, LOCK_NAME)))

    def test_lock_freed(self):
        """A lock that is freed within a second is waited for, and no other one."""
        self.patch(dovecot_uidlist, "LOCK_TIMEOUT", LOCK_TIMEOUT)
        for freed_at in (0.5, 5):
            clock = [0.0]

            def sleep(seconds, clock=clock, freed_at=freed_at):
                clock[0] += seconds
                if clock[0] >= freed_at:
                    os.unlink(os.path.join(self.path, LOCK_NAME))

            self.write(LOCK_NAME, b"1:host")
            with (
                mock.patch.object(time, "monotonic", lambda clock=clock: clock[0]),
                mock.patch.object(time, "sleep", sleep),
            ):
                if freed_at < 1:
                    assign(self.fd, [b"9.x"])
                else:
                    self.assertRaises(ListLocked, assign, self.fd, [b"9.y"])
            self.assertLess(clock[0], 1.5)
        self.assertEqual(self.read(), LIST + b"5 :9.x\n")

    def test_lock_freed_late(self):
        """A lock that was freed after all is not taken for an old one."""
        self.write(LOCK_NAME, b"1:host")
        with failing(os, "stat", FileNotFoundError(), lambda name, *_: name == LOCK_NAME):
            self.assertRaises(ListLocked, assign, self.fd, [b"9.x"])

    def test_stale_lock(self):
        """An old lock is Dovecot's to remove; it is an error."""
        self.write(LOCK_NAME, b"1:host")
        os.utime(os.path.join(self.path, LOCK_NAME), (0, 0))
        error = self.assertRaises(OSError, assign, self.fd, [b"9.x"])
        self.assertIn("old lock", str(error))

    def test_abandoned(self):
        """The lock of a process of this machine that has ended is removed, as Dovecot does."""
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        here = gethostname()
        for process, host in (
            (ended.pid, here),
            (os.getpid(), here),
            (f"{ended.pid}", here + "\n"),
        ):
            self.write(LOCK_NAME, os.fsencode(f"{process}:{host}"))
            assign(self.fd, [b"9.x"])
            self.assertFalse(os.path.exists(os.path.join(self.path, LOCK_NAME)))
        self.assertEqual(self.read(), LIST + b"5 :9.x\n")
        for holder in (
            f"{ended.pid}:{here}x",
            f"{ended.pid}",
            f"{os.getppid()}:{here}",
            f"0:{here}",
            f"{1 << 31}:{here}",
            f"-{ended.pid}:{here}",
            f":{here}",
        ):
            self.write(LOCK_NAME, os.fsencode(holder))
            self.assertRaises(ListLocked, assign, self.fd, [b"9.y"])
        self.write(LOCK_NAME, os.fsencode(f"{ended.pid}:{here}"))
        with failing(os, "kill", PermissionError(1, "not permitted")):
            self.assertRaises(ListLocked, assign, self.fd, [b"9.y"])
        with failing(os, "unlink", PermissionError(13, "denied")):
            self.assertRaises(ListLocked, assign, self.fd, [b"9.y"])
        self.assertEqual(self.read(), LIST + b"5 :9.x\n")

    def test_abandoned_and_taken(self):
        """A lock that another program makes in the place of an abandoned one is not removed."""
        path = os.path.join(self.path, LOCK_NAME)
        real = os.stat
        for make in (
            lambda: self.write(LOCK_NAME, b"1:host"),
            lambda: os.symlink(path + b".old", path),
        ):
            self.write(LOCK_NAME, os.fsencode(f"{os.getpid()}:{gethostname()}"))

            def stat(name, make=make, **options):
                if name == LOCK_NAME:
                    os.rename(path, path + b".old")
                    make()
                    self.patch(os, "stat", real)
                return real(name, **options)

            self.patch(os, "stat", stat)
            self.assertRaises(ListLocked, assign, self.fd, [b"9.x"])
            os.unlink(path)

    def test_unusual_locks(self):
        """A link to an abandoned lock is not followed, and a FIFO in its place not waited for."""
        path = os.path.join(self.path, LOCK_NAME)
        self.write(b"old", os.fsencode(f"{os.getpid()}:{gethostname()}"))
        for make in (lambda: os.symlink(b"old", path), lambda: os.mkfifo(path)):
            make()
            self.assertRaises(ListLocked, assign, self.fd, [b"9.x"])
            os.unlink(path)

    def test_stale_age(self):
        """A lock is old once nobody has touched it for as long as Dovecot waits: two minutes."""
        path = os.path.join(self.path, LOCK_NAME)
        for make in (lambda: self.write(LOCK_NAME, b""), lambda: os.symlink(b"nowhere", path)):
            make()
            os.utime(path, (1000, 1000), follow_symlinks=False)
            ages = ((119, False, ListLocked), (120, True, OSError))
            # The clock may have been set back.
            for age, is_stale, error in (*ages, (-119, False, ListLocked), (-120, True, OSError)):
                with mock.patch.object(time, "time", return_value=1000.0 + age):
                    self.assertEqual(has_stale_lock(self.fd), is_stale)
                    self.assertRaises(error, assign, self.fd, [b"9.x"])
            os.unlink(path)
        self.assertFalse(has_stale_lock(self.fd))

    def test_not_appended(self):
        """Nothing is appended to a list of version 1, one cut in a line, or one with two names."""
        for data in (b"1 100 9\n1 1.a\n", LIST + b"5 :5", b"3 x", b""):
            with self.subTest(data=data):
                self.write(NAME, data)
                self.assertRaises(OSError, assign, self.fd, [b"9.x"])
                self.assertEqual(self.read(), data)
        self.write(NAME, LIST)
        os.link(os.path.join(self.path, NAME), os.path.join(self.path, b"other"))
        self.assertRaises(OSError, assign, self.fd, [b"9.x"])
        self.assertEqual(self.read(), LIST)

    def test_no_room(self):
        """A line that is written in part, or not synced, is taken back."""
        real = os.write

        def write(fd, data):
            return real(fd, data[:3]) if data.startswith(b"5 ") else real(fd, data)

        self.patch(os, "write", write)
        self.assertRaises(OSError, assign, self.fd, [b"9.x"])
        self.assertEqual(self.read(), LIST)
        self.patch(os, "write", real)
        with failing(os, "fdatasync", OSError(5, "I/O error")):
            self.assertRaises(OSError, assign, self.fd, [b"9.x"])
        self.assertEqual(self.read(), LIST)

    def test_lock_not_written(self):
        """The lock holds even if its contents cannot be written."""
        with failing(
            os, "write", OSError(28, "no room"), lambda _, data: not data.startswith(b"5 ")
        ):
            assign(self.fd, [b"9.x"])
        self.assertEqual(self.read(), LIST + b"5 :9.x\n")


class LoadTests(ListCase):
    """The list of a Maildir."""

    def test_load(self):
        """A list is read; without one there is none."""
        self.assertEqual(load(self.fd)[0], decode(LIST))
        os.unlink(os.path.join(self.path, NAME))
        self.assertEqual(load(self.fd), (None, None))

    def test_damaged(self):
        """A damaged list is refused by name, with the remedy."""
        self.write(NAME, LIST + b"x\n")
        error = self.assertRaises(OSError, load, self.fd)
        self.assertEqual(error.filename, NAME)
        self.assertIn("let Dovecot repair", str(error))
