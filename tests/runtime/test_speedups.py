"""Tests of popserv.runtime.speedups, and of the functions in C against those in Python."""

import errno
import os
import socket
import struct
import sys
from array import array
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from popserv.core.grammar import split_line
from popserv.maildrops import page_cache
from popserv.maildrops.maildir.contents.compressed import STARTS
from popserv.maildrops.maildir.files import stamp_of, stamp_of_small, unlink_unchanged
from popserv.maildrops.maildir.listing.counting import (
    BATCH,
    SMALL_MESSAGE,
    count_small_files,
)
from popserv.maildrops.page_cache import CHUNK, read_cached_file, read_part
from popserv.messages.framing import frame_lines, frame_message, frame_top
from popserv.messages.octets import count_message
from popserv.runtime import speedups
from popserv.runtime.file_credentials import set_file_credentials
from popserv.testing import naive_octets
from tests.messages.harness import texts

FUNCTIONS = (
    *(split_line, frame_lines, frame_message, frame_top, count_message),
    *(read_part, read_cached_file, count_small_files, unlink_unchanged),
)

# Few different octets, so that there often are spaces, and CRs at the end.
lines = st.binary() | st.text("az AZ\r\0\xe4").map(lambda text: text.encode("latin-1"))
statuses = st.sampled_from((b"", b"+OK\r\n", b"+OK 12 octets\r\n"))


class ChoiceTests(SynchronousTestCase):
    """Functions in C are used if they were built, unless Python is selected."""

    def test_environment(self):
        """PURE_PYTHON selects Python, unless it is empty or 0."""
        module = mock.Mock()
        self.patch(speedups, "HAS_STABLE_ABI", True)
        with mock.patch.object(speedups, "import_module", return_value=module):
            for value, expected in (("1", None), ("yes", None), ("0", module), ("", module)):
                self.assertIs(speedups._load({"PURE_PYTHON": value}), expected)
            self.assertIs(speedups._load({}), module)

    def test_free_threaded(self):
        """Without the interpreter's lock a module of another Python is not loaded."""
        self.patch(speedups, "HAS_STABLE_ABI", False)
        with mock.patch.object(speedups, "import_module", side_effect=SystemError):
            self.assertIsNone(speedups._load({}))

    def test_not_built(self):
        """Without a compiler there is no module in C, and the functions in Python are used."""
        self.patch(speedups, "HAS_STABLE_ABI", True)
        with mock.patch.object(speedups, "import_module", side_effect=ImportError):
            self.assertIsNone(speedups._load({}))
        with mock.patch.object(speedups, "SPEEDUPS", None):
            self.assertIs(speedups.speedup(naive_octets), naive_octets)

    def test_built(self):
        """Each function in C has the name of one in Python, and takes its place."""
        module = mock.Mock(naive_octets=len)
        with (
            mock.patch.object(speedups, "SPEEDUPS", module),
            mock.patch.dict(speedups.in_python, clear=True),
        ):
            self.assertIs(speedups.speedup(naive_octets), len)
            self.assertEqual(speedups.in_python, {len: naive_octets})

    def test_older_pythons(self):
        """A module that was built with the newest Python works with the oldest one."""
        if speedups.SPEEDUPS is None:
            raise SkipTest("popserv._speedups was not built")
        names = Path(speedups.SPEEDUPS.__file__).read_bytes().split(b"\0")
        self.assertIn(b"_PyArg_ParseTuple_SizeT", names)
        self.assertNotIn(b"PyArg_ParseTuple", names)


def run_as_job(*arguments):
    """Call unlink_unchanged as a job, which a thread would run."""
    in_c = speedups.SPEEDUPS
    job = in_c.unlink_unchanged_job(*arguments)
    (jobs, to_jobs), (finished, to_finished) = os.pipe(), os.pipe()
    try:
        address = struct.pack("P", in_c.job_address(job))
        os.write(to_jobs, address)
        os.close(to_jobs)
        in_c.run_jobs(jobs, to_finished)
        assert os.read(finished, 100) == address
    finally:
        for fd in (jobs, finished, to_finished):
            os.close(fd)
    return in_c.job_result(job)


UNLINKING = (unlink_unchanged, speedups.in_python.get(unlink_unchanged), run_as_job)
"""The functions that remove files: in C, in Python, and in C as a job."""


class EquivalenceCase(SynchronousTestCase):
    """Calls functions in C and those in Python, which must return the same."""

    def setUp(self):
        """Skip the test without the module in C; in continuous integration it must be built."""
        if speedups.SPEEDUPS is None:
            is_selected = "PURE_PYTHON" in os.environ or not speedups.HAS_STABLE_ABI
            if os.environ.get("CI") and not is_selected:
                self.fail("popserv._speedups was not built")
            raise SkipTest("popserv._speedups is not built, or PURE_PYTHON is set")

    def call(self, function, *arguments):
        """Call a function in C and the one in Python; return what both return."""
        expected = speedups.in_python[function](*arguments)
        self.assertEqual(function(*arguments), expected, (function.__name__, arguments))
        return expected


class EquivalenceTests(EquivalenceCase):
    """The functions that read no files."""

    def test_all(self):
        """Every function of the module is one of those that are tested here."""
        names = {name for name in vars(speedups.SPEEDUPS) if not name.startswith("__")}
        # tests.runtime.test_file_credentials tests the function that only root can call.
        functions = (*FUNCTIONS, set_file_credentials)
        jobs = {"unlink_unchanged_job", "job_address", "job_result", "run_jobs"}
        self.assertEqual(names, {function.__name__ for function in functions} | jobs)

    @given(lines)
    def test_split_line(self, line):
        """A command line of any octets is split."""
        keyword, argument = self.call(split_line, line)
        rest = b"" if argument is None else b" " + argument
        self.assertEqual((keyword + rest).upper(), line.removesuffix(b"\r").upper())

    @example(b".\n", True)
    @given(texts, st.booleans())
    def test_frame_lines(self, text, at_line_start):
        """A part of a message is framed, whichever octets it begins and ends with."""
        framed, octets = self.call(frame_lines, text, at_line_start)
        self.assertEqual(octets, len(text) + text.count(b"\n"))
        self.assertEqual(framed.count(b"\r\n"), text.count(b"\n"))

    @given(texts, st.integers(-2, 2), statuses)
    def test_frame_message(self, text, error, status):
        """A whole message is framed, if it has the octets that LIST has reported."""
        octets = max(0, naive_octets(text) + error)
        framed = self.call(frame_message, text, octets, status)
        self.assertEqual(framed is None, octets != naive_octets(text))

    @given(texts, st.integers(0, 4), st.integers(-2, 2), st.booleans(), statuses)
    def test_frame_top(self, text, lines, error, is_whole, status):
        """The start of a message is framed, if there is enough of it."""
        octets = max(0, naive_octets(text) + error)
        self.call(frame_top, text, lines, octets, is_whole, status)
        self.call(frame_top, text, lines, octets + 100, is_whole, status)

    @given(texts)
    def test_count_message(self, text):
        """The octets of a message are those of its wire form."""
        self.assertEqual(self.call(count_message, text)[0], naive_octets(text))

    def test_long(self):
        """Nothing depends on the length of a message or of its lines."""
        for line in (b"", b".", b"x" * 1000, b"\r" * 70_000, b"y" * 200_000):
            for text in (line, line + b"\n", (line + b"\r\n") * 3, b"a: b\n\n" + line):
                octets, _ = self.call(count_message, text)
                self.call(frame_lines, text, False)
                self.call(frame_message, text, octets, b"+OK\r\n")
                self.call(frame_top, text, 1, octets, True, b"+OK\r\n")

    def test_arguments(self):
        """Arguments of other types are errors, and so are numbers that are too large."""
        for function in (*FUNCTIONS, set_file_credentials):
            self.assertRaises(TypeError, function)
            self.assertRaises(TypeError, function, *[None] * 5)
        self.assertRaises(TypeError, split_line, "NOOP")
        self.assertRaises(OverflowError, frame_message, b"", 1 << 64, b"")
        # TOP has up to ten digits.
        self.call(frame_top, b"a: b\n\nc\n", 9_999_999_999, 12, True, b"")


SIZES = {"small": 5, "empty": 0, "large": SMALL_MESSAGE, "old": SMALL_MESSAGE + 5}
"""The octets of the files that can be removed."""
KINDS = (*SIZES, "missing", "changed", "directory")


def make_file(path, number, kind):
    """Make a file of a kind in a directory; return its stamp."""
    name = os.path.join(path, f"{number}.a")
    with open(name, "wb") as file:
        file.write(b"x" * SIZES.get(kind, 1))
    if kind == "old":
        # Before 1970.
        os.utime(name, ns=(0, -1_234_567_890_123_456_789))
    stamp = stamp_of(os.stat(name)) ^ (kind == "changed")
    if kind in ("missing", "directory"):
        os.unlink(name)
    if kind == "directory":
        os.mkdir(name)
        stamp = stamp_of(os.stat(name))
    return stamp


@contextmanager
def open_directory(path):
    """Return the descriptor of a directory."""
    folder = os.open(path, os.O_RDONLY)
    try:
        yield folder
    finally:
        os.close(folder)


class FileTests(EquivalenceCase):
    """The functions that read files."""

    def setUp(self):
        """Make a folder."""
        super().setUp()
        self.path = os.path.abspath(self.mktemp())
        os.mkdir(self.path)
        self.folder = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, self.folder)

    def write(self, contents):
        """Write a file."""
        self.contents = contents
        with open(os.path.join(self.path, "1.a"), "wb") as file:
            file.write(contents)

    def call(self, function, *arguments):
        """Call the functions, which must leave no file open."""
        before = os.listdir("/dev/fd")
        returned = super().call(function, *arguments)
        self.assertEqual(os.listdir("/dev/fd"), before)
        return returned

    def count(self, *, ascii_only=False):
        """Count the file with each of the functions.

        Return its octets, or None if it is left to the caller.
        """
        arguments = ((b"1.a",), (7,), 0, self.folder, ascii_only)
        octets, stamps, texts = counted = self.call(count_small_files, *arguments, False)
        self.assertEqual((len(octets), texts), (len(stamps), []))
        for each in (count_small_files, speedups.in_python[count_small_files]):
            *cached, texts = each(*arguments, True)
            # The kernel may have the file in the cache, or not.
            if cached != [b"", b""]:
                self.assertEqual(cached, list(counted[:2]))
            self.assertEqual(texts, [self.contents] if cached[0] else [])
        return array("Q", octets)[0] if octets else None

    @given(texts)
    def test_count_small_files(self, text):
        """A file is counted as the message that it contains, unless it is unusual."""
        self.write(text)
        _, has_blank_line = count_message(text)
        expected = naive_octets(text) if text and has_blank_line else None
        self.assertEqual(self.count(), None if text.startswith(STARTS) else expected)

    def test_compressed(self):
        """What may be compressed is left to the caller."""
        for start in STARTS:
            self.write(start + b"\n\n")
            self.assertIsNone(self.count())
            self.write(start[:-1] + b"\n\n")
            self.assertIsNotNone(self.count())

    def test_batches(self):
        """Up to 256 files are counted in one call, from any of them up to an unusual one."""
        names = tuple(b"%d.a" % at for at in range(BATCH + 10))
        for at, name in enumerate(names):
            with open(os.path.join(os.fsencode(self.path), name), "wb") as file:
                file.write(b"a: b\n\n" + b"x" * at)
        inodes = tuple(range(1 << 63, (1 << 63) + len(names)))
        for first in (0, 5, 10, len(names) - 1, len(names), len(names) + 1):
            arguments = (names, inodes, first, self.folder, False, False)
            octets, stamps, _ = self.call(count_small_files, *arguments)
            ats = range(first, min(first + BATCH, len(names)))
            self.assertEqual(list(array("Q", octets)), [10 + at if at else 8 for at in ats])
            self.assertEqual(
                list(array("Q", stamps)), [stamp_of_small(inodes[at], 6 + at) for at in ats]
            )
        os.unlink(os.path.join(self.path, "7.a"))
        octets, *_ = self.call(count_small_files, names, inodes, 4, self.folder, False, False)
        self.assertEqual(len(octets), 3 * 8)

    def test_sizes(self):
        """A file of up to 64 KiB is counted, and one of up to 128 KiB is read."""
        for size in (1, 15, 16, 17, SMALL_MESSAGE - 1, SMALL_MESSAGE, CHUNK, CHUNK + 1):
            self.write(b"\n" * size)
            self.assertEqual(self.count() is None, size >= SMALL_MESSAGE)
            for maximum in (0, 1, size - 1, size, size + 1, 1 << 40):
                self.call(read_cached_file, b"1.a", self.folder, maximum)

    def test_parts(self):
        """A part of a file is read if the file has all of it, and it has up to 128 KiB."""
        self.write(bytes(range(256)) * 1000)
        fd = os.open(os.path.join(self.path, "1.a"), os.O_RDONLY)
        try:
            for octets in (0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 1 << 40):
                for offset in (0, 1, 256_000 - 1000, 256_000, 1 << 40):
                    is_there = octets <= min(CHUNK, 256_000 - offset) or octets == 0
                    part = self.call(read_part, fd, octets, offset)
                    self.assertEqual(part is not None, is_there, (octets, offset))
        finally:
            os.close(fd)
        self.assertIsNone(self.call(read_part, fd, 1, 0))

    def test_8_bit(self):
        """An octet above 127 is found wherever it is."""
        for position in range(40):
            self.write(b"x" * position + b"\xe4" + b"x" * (40 - position) + b"\n\n")
            self.assertIsNotNone(self.count())
            self.assertIsNone(self.count(ascii_only=True))

    def test_special_files(self):
        """What is missing or no regular file, and a closed folder, is left to the caller."""
        path = os.path.join(self.path, "1.a")
        with socket.socket(socket.AF_UNIX) as listener:
            makers = (
                lambda: None,
                lambda: os.mkdir(path),
                lambda: os.mkfifo(path),
                lambda: os.symlink("/etc/passwd", path),
                lambda: listener.bind(os.path.relpath(path)),
            )
            for make in makers:
                make()
                self.assertIsNone(self.count())
                self.assertIsNone(self.call(read_cached_file, b"1.a", self.folder, 10))
                if os.path.isdir(path):
                    os.rmdir(path)
                elif os.path.lexists(path):
                    os.unlink(path)
        for cached in (False, True):
            closed = ((b"1.a",), (7,), 0, 1 << 20, False, cached)
            self.assertEqual(self.call(count_small_files, *closed), (b"", b"", []))
        self.assertIsNone(self.call(read_cached_file, b"1.a", 1 << 20, 10))

    @given(st.lists(st.sampled_from(KINDS), max_size=6))
    def test_unlink_unchanged(self, kinds):
        """Files are removed up to the first that is missing, has changed, or is a directory."""
        first_bad = [kind in SIZES for kind in (*kinds, "missing")].index(False)
        expected = [SIZES[kind] for kind in kinds[:first_bad]]
        left = sum(kind != "missing" for kind in kinds[first_bad:])
        for function in UNLINKING:
            with TemporaryDirectory() as maildir, open_directory(maildir) as maildir_fd:
                path = os.path.join(maildir, "new")
                os.mkdir(path)
                stamps = [make_file(path, at, kind) for at, kind in enumerate(kinds)]
                names = tuple(b"%d.a" % at for at in range(len(kinds)))
                removed = function(names, b"new", tuple(stamps), maildir_fd, True)
                self.assertEqual(removed, (expected, len(expected) == len(kinds)))
                self.assertEqual(len(os.listdir(path)), left)

    def unlink(self, names, stamps, folder=None):
        """Call the functions for a folder of the parent directory, by default the usual one."""
        folder = folder or os.fsencode(os.path.basename(self.path))
        before = os.listdir("/dev/fd")
        with open_directory(os.path.dirname(self.path)) as parent:
            returned = [function(names, folder, stamps, parent, True) for function in UNLINKING]
        self.assertEqual(os.listdir("/dev/fd"), before)
        self.assertEqual(returned, returned[:1] * len(returned))
        return returned[0]

    def test_unlink_nothing(self):
        """Nothing is removed with arguments that do not fit, or in what is not a folder."""
        self.write(b"x")
        stamp = stamp_of(os.stat(self.path + "/1.a"))
        os.symlink(os.path.basename(self.path), self.path + "-link")
        link = os.fsencode(os.path.basename(self.path)) + b"-link"
        for is_done, arguments in (
            (False, ((b"1.a",), (stamp + 1,))),
            (False, ((b"1.a",), (stamp,), b"missing")),
            (False, ((), (), b"missing")),
            (False, ((b"1.a",), (stamp,), link)),
            (True, ((), ())),
        ):
            self.assertEqual(self.unlink(*arguments), ([], is_done))
        for function in UNLINKING:
            removed = function((b"1.a",), os.fsencode(self.path), (stamp + 1,), 1 << 20, False)
            self.assertEqual(removed, ([], False))
        for error, arguments in (
            (ValueError, ((b"1.a",), b"new", ())),
            (ValueError, ((b"1.a\0",), b"new", (stamp,))),
            (ValueError, ((b"1.a",), b"new\0", (stamp,))),
            (TypeError, (("1.a",), b"new", (stamp,))),
            (TypeError, ((b"1.a",), b"new", (None,))),
            (OverflowError, ((b"1.a",), b"new", (1 << 64,))),
        ):
            self.assertRaises(error, unlink_unchanged, *arguments, self.folder, True)
            self.assertRaises(error, run_as_job, *arguments, self.folder, True)
        self.assertEqual(os.listdir(self.path), ["1.a"])

    def test_quota_file(self):
        """A folder is not synced if there may be a quota file in which removals are recorded."""
        new = os.path.join(self.path, "new")
        os.mkdir(new)
        path = os.path.join(new, "1.a")
        for name, target in (
            *(("maildirsize", None), ("maildirfolder", None)),
            *(("maildirsize", "nowhere"), ("maildirfolder", "nowhere"), ("other", None)),
        ):
            there = os.path.join(self.path, name)
            for function in UNLINKING:
                with open(path, "wb") as file:
                    file.write(b"x")
                stamp = stamp_of(os.stat(path))
                if target:
                    os.symlink(target, there)
                else:
                    os.mkdir(there)
                arguments = ((b"1.a",), b"new", (stamp,), self.folder)
                if name != "other":
                    self.assertEqual(function(*arguments, True), ([], False))
                self.assertEqual(function(*arguments, False), ([1], name == "other"))
                (os.unlink if target else os.rmdir)(there)

    def test_not_synced(self):
        """If the folder cannot be synced, that is an error."""
        with open_directory("/proc") as proc:
            for function in UNLINKING:
                with self.assertRaises(OSError) as failed:
                    function((), b"sys", (), proc, False)
                self.assertEqual(failed.exception.errno, errno.EINVAL)

    def test_memory(self):
        """Calls leave no memory behind."""
        self.write(b"a: b\n\n" + b".x\n" * 100)
        text = read_cached_file(b"1.a", self.folder, 1000)
        octets, _ = count_message(text)
        calls = (
            lambda: split_line(b"noop\r"),
            lambda: split_line(b"list 12\r"),
            lambda: frame_lines(text, True),
            lambda: frame_message(text, octets, b"+OK\r\n"),
            lambda: frame_message(text, octets + 1, b"+OK\r\n"),
            lambda: frame_top(text, 1, octets, True, b"+OK\r\n"),
            lambda: count_message(text),
            lambda: read_cached_file(b"1.a", self.folder, 1000),
            lambda: count_small_files((b"1.a",) * 9, (7,) * 9, 1, self.folder, True, False),
            lambda: count_small_files((b"1.a",) * 9, (7,) * 9, 1, self.folder, True, True),
            lambda: unlink_unchanged((b"1.a",) * 9, b"..", (0,) * 9, self.folder, False),
            lambda: run_as_job((b"1.a",) * 9, b"..", (0,) * 9, self.folder, False),
            lambda: unlink_unchanged((), b"..", (), self.folder, False),
        )
        for call in calls:
            call()
            before = sys.getallocatedblocks()
            for _ in range(100):
                call()
            self.assertLess(sys.getallocatedblocks() - before, 20)

    def test_constants(self):
        """The maximum of one read is that of Python."""
        self.write(b"x" * (page_cache.CHUNK + 1))
        read = read_cached_file(b"1.a", self.folder, page_cache.CHUNK + 1)
        self.assertIn(read, (None, b"x" * page_cache.CHUNK))
