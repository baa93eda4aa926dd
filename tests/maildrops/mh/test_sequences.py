"""Tests of popserv.maildrops.mh.sequences."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.mh import sequences
from popserv.maildrops.mh.sequences import (
    LOCK_DELAYS,
    NAME,
    Sequences,
    locked_sequences,
    read_sequences,
)
from tests.maildrops.mh.harness import MHCase

NUMBERS = st.sets(st.integers(1, 40))


class SequencesTests(SynchronousTestCase):
    """The contents of a file of sequences."""

    def test_members(self):
        """Numbers and ranges are read, also overlapping, repeated and continued ones."""
        contents = Sequences(
            b"cur: 3\nunseen: 1-4 2 9\n 11-12\nall: 1-999999999999999999\nno:\nzero: 0\n"
        )
        self.assertEqual(contents.members(b"unseen", range(20)), {1, 2, 3, 4, 9, 11, 12})
        self.assertEqual(contents.members(b"all", [0, 1, 10**18, 10**18 - 1]), {1, 10**18 - 1})
        self.assertEqual(contents.members(b"no", [1]), set())
        self.assertEqual(contents.members(b"zero", [1]), set())
        self.assertEqual(contents.members(b"other", [1]), set())
        self.assertIn(b"no", contents)
        self.assertNotIn(b"other", contents)

    def test_others(self):
        """Lines that are not sequences are kept as they are."""
        for line in (b"no colon", b"a b: 1", b"x: 1-", b"x: -1", b"x: one", b"1x: 1", b"X"):
            self.assertEqual(Sequences(b"a: 1\n" + line).encode(), b"a: 1\n" + line + b"\n")

    def test_indented(self):
        """A line that is indented is no part of a sequence that is written before it."""
        for text in (b" x\na: 1\n", b"\n x\na: 1", b"a: 1\n\n\n\tx\n"):
            contents = Sequences(Sequences(text).encode())
            self.assertEqual(contents.members(b"a", [1]), {1}, text)
            self.assertIn(b"\nx\n", contents.encode())

    def test_keep_only(self):
        """Numbers are removed from all sequences but that of the current message."""
        contents = Sequences(b"cur: 7\nunseen: 1-9\nold: 7\n")
        contents.keep_only({1, 2, 3, 5, 6})
        self.assertEqual(contents.encode(), b"cur: 7\nunseen: 1-3 5-6\n")

    @given(NUMBERS, NUMBERS)
    def test_round_trip(self, numbers, others):
        """A sequence contains the numbers that it was given, and no others, once it is read."""
        contents = Sequences()
        contents.set(b"unseen", numbers)
        contents.set(b"other", others)
        after = Sequences(contents.encode())
        self.assertEqual(after.members(b"unseen", range(50)), numbers)
        self.assertEqual(after.members(b"other", range(50)), others)
        self.assertEqual(b"unseen" in after, bool(numbers))


class FileTests(MHCase):
    """The file of a folder, under its lock."""

    def change(self, text):
        """Replace the sequence a."""
        with self.folder() as folder, locked_sequences(folder) as contents:
            contents.set(b"a", text)
            contents.write()

    def test_change(self):
        """The file is created, changed in place, and removed without sequences, as nmh does it."""
        self.change([1, 2])
        self.assertEqual(self.sequences(), b"a: 1-2\n")
        before = os.stat(self.file(".mh_sequences"))
        self.assertEqual(before.st_mode & 0o777, 0o600)
        self.change([1])
        self.change([1])
        self.assertEqual(self.sequences(), b"a: 1\n")
        self.assertEqual(os.stat(self.file(".mh_sequences")).st_ino, before.st_ino)
        with self.folder() as folder:
            self.assertEqual(read_sequences(folder).members(b"a", [1, 2]), {1})
        self.change([])
        self.assertIsNone(self.sequences())
        with self.folder() as folder:
            self.assertEqual(read_sequences(folder).encode(), b"")
        self.assertIsNone(self.sequences())

    def test_locked(self):
        """A lock of another process is waited for, and then reported."""
        self.sequences(b"a: 1\n")
        program = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); "
        program += "print('locked', flush=True); input()"
        other = subprocess.Popen(
            [sys.executable, "-c", program, self.file(".mh_sequences")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.assertEqual(other.stdout.readline(), b"locked\n")
        waited = []
        try:
            with self.folder() as folder, patch("time.sleep", waited.append):
                with self.assertRaises(OSError) as failed:
                    read_sequences(folder)
                self.assertEqual(failed.exception.filename, NAME)
                self.assertEqual(waited, list(LOCK_DELAYS))
                self.assertTrue(min(waited) > 0 and sum(waited) < 3)

                def stop(seconds):
                    other.communicate(b"\n")

                with patch("time.sleep", stop):
                    self.assertIn(b"a", read_sequences(folder))
        finally:
            other.communicate()

    def is_locked(self):
        """Return whether the file is locked against other programs."""
        program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | 4)"
        done = subprocess.run(
            [sys.executable, "-c", program, self.file(".mh_sequences")],
            check=False,
            stderr=subprocess.DEVNULL,
        )
        return done.returncode != 0

    def test_threads(self):
        """Threads of one server exclude each other, and do not lose the lock against nmh."""
        self.sequences(b"a: 1\n")
        others = os.path.join(self.root, "bob")
        os.mkdir(others)
        with self.folder() as folder, self.folder() as same:
            with patch.object(sequences, "LOCK_DELAYS", (0.01, 0.02)):
                for use in (read_sequences, lambda fd: locked_sequences(fd).__enter__()):
                    with locked_sequences(folder):
                        start = time.monotonic()
                        with self.assertRaises(OSError) as failed:
                            use(same)
                        self.assertGreaterEqual(time.monotonic() - start, 0.03)
                        self.assertTrue(self.is_locked())
                    self.assertEqual(failed.exception.errno, errno.EAGAIN)
                    self.assertEqual(failed.exception.filename, NAME)
                    self.assertIn(b"a", read_sequences(same))
            other = os.open(others, os.O_RDONLY)
            with locked_sequences(folder), locked_sequences(other):
                pass
            os.close(other)
        self.assertEqual(sequences._thread_locks, {})
        self.assertFalse(self.is_locked())

    def test_waiting_thread(self):
        """A thread that waits for others gets the file when it is free, without polling."""
        waited, found = [], []

        def read():
            with self.folder() as folder:
                found.append(read_sequences(folder).encode())

        threads = [threading.Thread(target=read) for _ in range(3)]
        with (
            patch("popserv.maildrops.mh.sequences.time.sleep", waited.append),
            self.folder() as folder,
            locked_sequences(folder) as contents,
        ):
            contents.set(b"a", [1])
            contents.write()
            (thread_lock,) = sequences._thread_locks.values()
            for thread in threads:
                thread.start()
            while thread_lock.users < 4 and any(thread.is_alive() for thread in threads):
                pass
        for thread in threads:
            thread.join()
        self.assertEqual((found, waited), ([b"a: 1\n"] * 3, []))
        self.assertEqual(sequences._thread_locks, {})

    def test_replaced(self):
        """A file that another program has removed while it was locked is opened again."""
        for replacement in (b"b: 1\n", None):
            self.sequences(b"a: 1\n")
            real = fcntl.lockf

            def lockf(fd, operation, replacement=replacement, real=real):
                if self.sequences() == b"a: 1\n":
                    os.unlink(self.file(".mh_sequences"))
                    if replacement:
                        self.sequences(replacement)
                real(fd, operation)

            with self.folder() as folder, patch.object(fcntl, "lockf", lockf):
                self.assertEqual(read_sequences(folder).encode(), replacement or b"")

    def test_untrusted(self):
        """What is not a regular file with one name, or is too long, is not used."""
        path, other = self.file(".mh_sequences"), self.file("other")
        with open(other, "wb") as file:
            file.write(b"a: 1\n")
        for make in (
            lambda: os.symlink(other, path),
            lambda: os.link(other, path),
            lambda: os.mkfifo(path),
            lambda: self.sequences(b"x" * ((1 << 20) + 1)),
        ):
            make()
            with self.folder() as folder:
                for use in (read_sequences, lambda fd: locked_sequences(fd).__enter__()):
                    with self.assertRaises(OSError) as failed:
                        use(folder)
                    self.assertIn(failed.exception.errno, (errno.ELOOP, errno.EINVAL))
            os.unlink(path)

    def test_largest(self):
        """A file of 1 MiB is used."""
        self.sequences(b"x" * ((1 << 20) - 1) + b"\n")
        with self.folder() as folder, locked_sequences(folder) as contents:
            contents.write()

    def test_sync(self):
        """The file can be written to disk."""
        with self.folder() as folder, locked_sequences(folder) as contents:
            with patch.object(os, "fsync") as fsync:
                contents.sync()
            fsync.assert_called_once()

    def test_no_room(self):
        """A write that fails, or writes a part, is reported, and the file is as it was."""
        real = os.pwrite
        before = b"a: 1000-2000 3000 4000\nb: 7\n"

        def full(fd, data, offset):
            if data != before:
                raise OSError(errno.ENOSPC, "full")
            return real(fd, data, offset)

        def part(fd, data, offset):
            return real(fd, data if data == before else data[: len(before) + 1], offset)

        for write in (full, part):
            self.sequences(before)
            with patch.object(sequences.os, "pwrite", write), self.assertRaises(OSError) as failed:
                self.change(range(1001, 1100, 2))
            self.assertEqual(failed.exception.errno, errno.ENOSPC)
            self.assertEqual(self.sequences(), before)

    def test_not_restored(self):
        """If the file cannot be written at all, the first error is reported."""
        self.sequences(b"a: 1\n")
        errors = [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken")]
        with (
            patch.object(sequences.os, "pwrite", side_effect=errors),
            self.assertRaises(OSError) as failed,
        ):
            self.change([1, 2])
        self.assertEqual(failed.exception.errno, errno.ENOSPC)

    def test_killed(self):
        """What a server leaves that is killed before it cuts the file has no old number."""
        before = b"a: 1 3 5 7 9\nretrieved: 2 4 7 9\n"
        texts = (b"a: 1", b"a: 1 3 5 7 9\nretrieve: 2 4 7 9", b"a: 1 3 5 7 9\nretrieved: 2 4 7")
        for text in (*texts, b"a: 1\nno sequence"):
            self.sequences(before)
            contents = Sequences(text)
            expected = contents.encode()
            with self.folder() as folder:
                killed = patch.object(sequences.os, "ftruncate", side_effect=KeyboardInterrupt)
                with killed, self.assertRaises(KeyboardInterrupt), locked_sequences(folder) as file:
                    file.__dict__.update(contents.__dict__)
                    file.write()
                after = read_sequences(folder)
            # nmh takes an empty line for an error, and an indented one for a continuation.
            self.assertNotIn(b"\n\n", self.sequences())
            self.assertEqual(after.encode().replace(b" \n", b"\n").rstrip(), expected.rstrip())
            self.change([1])
            self.assertTrue(self.sequences().startswith(b"a: 1\n"))

    def test_closing(self):
        """An error of close is reported if the file was to be written, which it may not be."""
        self.sequences(b"a: 1\n")
        real = os.close

        def broken(fd):
            is_file = os.readlink(f"/dev/fd/{fd}").endswith(".mh_sequences")
            real(fd)
            if is_file:
                raise OSError(errno.EIO, "I/O error")

        with self.folder() as folder, patch.object(os, "close", broken):
            self.assertIn(b"a", read_sequences(folder))
            with self.assertRaises(OSError) as failed, locked_sequences(folder):
                pass
        self.assertEqual(failed.exception.errno, errno.EIO)

    def test_unchanged(self):
        """What has not changed is not written."""
        self.sequences(b"a: 1\n")
        with (
            patch.object(sequences.os, "pwrite", side_effect=AssertionError),
            patch.object(sequences.os, "ftruncate", side_effect=AssertionError),
        ):
            self.change([1])

    def test_written_twice(self):
        """What is changed back after it was written is written again."""
        self.sequences(b"a: 1\n")
        with self.folder() as folder, locked_sequences(folder) as contents:
            for numbers in ([2], [1]):
                contents.set(b"a", numbers)
                contents.write()
        self.assertEqual(self.sequences(), b"a: 1\n")

    def test_owner(self):
        """A new file has the owner of the folder, if the server may set it."""
        os.chown(self.path, 65534, 65534)
        self.change([1])
        self.assertEqual(os.stat(self.file(".mh_sequences")).st_uid, 65534)
        os.unlink(self.file(".mh_sequences"))
        with patch.object(sequences.os, "fchown", side_effect=PermissionError):
            self.change([1])
        self.assertEqual(self.sequences(), b"a: 1\n")
        self.change([2])
        self.assertEqual(os.stat(self.file(".mh_sequences")).st_uid, os.getuid())
        self.sequences(b"")
        with self.folder() as folder:
            read_sequences(folder)
        self.assertEqual(os.stat(self.file(".mh_sequences")).st_uid, os.getuid())
