"""size_file: torn, out of date, forged, or missing."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import tracemalloc
from array import array
from contextlib import contextmanager
from hashlib import blake2b
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.file_names import split_name
from popserv.maildrops.maildir.listing import size_file
from popserv.maildrops.maildir.listing.base_names import sort_base_names
from popserv.maildrops.maildir.listing.size_file import (
    MAX_OCTETS,
    NAME,
    Contents,
    decode,
    encode,
    load,
    remove,
    save,
)
from tests.maildrops.maildir.harness import NOBODY, link_made_meanwhile, watch_descriptors

UNFINISHED = size_file.UNFINISHED_NAME
TIMES = [(0, 1, 2, -3, 4), (1, 5, 6, 2**63, 0)]


def some_contents(messages=3, **changes):
    """Return contents that a size file may have."""
    usual = Contents(
        [b"%d.x" % (10**9 + n) for n in range(messages)],
        [b"\0", b"\1:2,S", b"\1:2,", b"\0"][:messages] * -(-messages // 4),
        array("Q", range(100, 100 + messages)),
        array("Q", [2**64 - 1 - n for n in range(messages)]),
        {1: 0, 2: 999} if messages > 2 else {},
        [0],
        TIMES,
    )
    return usual._replace(locations=usual.locations[:messages])._replace(**changes)


def comparable(contents):
    """Return the same contents in types that compare equal."""
    return Contents(
        *map(list, contents[:4]),
        None if contents.downgraded is None else dict(contents.downgraded),
        sorted(contents.header_only),
        contents.times,
    )


def encoded(contents):
    """Return the octets of a size file with these contents."""
    return b"".join(encode(contents))


def with_digest(text):
    """Return octets followed by their digest."""
    return text + blake2b(text, digest_size=32).digest()


def is_accepted(data):
    """Return whether octets are accepted; the only error that others may raise is ValueError."""
    try:
        decode(data)
    except ValueError:
        return False
    return True


BASE_NAMES = (
    st.binary(max_size=20)
    .map(lambda name: name.translate(None, b"/:\0").lstrip(b"."))
    .filter(lambda name: split_name(name)[1] == b"")
)
SIZES = st.integers(0, 2**50)


@st.composite
def any_contents(draw):
    """Return any contents that a size file may have."""
    names = sort_base_names(draw(st.lists(BASE_NAMES, min_size=1, max_size=8, unique=True)))
    locations = st.sampled_from([b"\0", b"\1", b"\1:", b"\0:2,\n", b"\1:2,FS\xff", b"\1;2,S"])
    column = st.lists(st.integers(0, 2**64 - 1), min_size=len(names), max_size=len(names))
    positions = st.integers(0, len(names) - 1)
    return Contents(
        names,
        draw(st.lists(locations, min_size=len(names), max_size=len(names))),
        array("Q", draw(st.lists(SIZES, min_size=len(names), max_size=len(names)))),
        array("Q", draw(column)),
        draw(st.none() | st.dictionaries(positions, SIZES)),
        draw(st.sets(positions)),
        draw(st.sampled_from([None, TIMES])),
    )


class FormatTests(SynchronousTestCase):
    """Encoded contents are decoded again, and nothing else is."""

    @given(any_contents())
    def test_round_trip(self, contents):
        """Any contents of a Maildir are decoded as they were encoded."""
        self.assertEqual(comparable(decode(encoded(contents))), comparable(contents))

    def test_octets(self):
        """The octets are those that other servers of this version write and read."""
        contents = some_contents()
        columns = (contents.octets, contents.stamps)
        times = b"2 0 1 2 -3 4 1 5 6 9223372036854775808 0"
        numbers = ("Q", [1, 2]), ("Q", [0, 999]), ("Q", [0]), ("I", [0, 1, 2])
        for changes, head, others in (
            ({}, b"3 12 38 2 1 " + times, numbers),
            ({"downgraded": None}, b"3 12 38 -1 1 " + times, numbers[2:]),
            ({"times": None}, b"3 12 38 2 1 -1", numbers),
        ):
            text = b"popserv-sizes 3 %b %b\n" % (sys.byteorder.encode("ascii"), head)
            text += b"".join(each.tobytes() for each in columns)
            text += b"".join(array(*each).tobytes() for each in others)
            text += b"0\x001:2,S\x001:2,1000000000.x\x001000000001.x\x001000000002.x"
            self.assertEqual(encoded(contents._replace(**changes)), with_digest(text))

    def test_largest(self):
        """A message may have 2**50 octets, and as many in its downgraded form."""
        contents = some_contents(1, octets=array("Q", [2**50]), downgraded={0: 2**50})
        self.assertEqual(comparable(decode(encoded(contents))), comparable(contents))

    def test_empty_name(self):
        """An empty base name after the last one is rejected, wherever batches end."""
        names = [*some_contents().base_names, b""]
        for batch in (1, 13, 500):
            self.patch(size_file, "_BATCH", batch)
            with self.assertRaises(ValueError):
                decode(encoded(some_contents(base_names=names)))

    def test_long_names(self):
        """A base name may have the octets that file systems allow, 255 characters of UTF-8."""
        for octets in (765, 1024):
            name = b"1000000000.".ljust(octets, b"x")
            contents = some_contents(1, base_names=[name])
            self.assertEqual(decode(encoded(contents)).base_names, (name,))
        contents = some_contents(1, base_names=[name + b"x"])
        self.assertFalse(is_accepted(encoded(contents)))

    def test_negative_number(self):
        """Of negative numbers only -1 means that there is none."""
        data = encoded(some_contents(downgraded=None, times=None))[:-32]
        self.assertEqual(data.partition(b"\n")[0].count(b" -1"), 2)
        self.assertTrue(is_accepted(with_digest(data)))
        self.assertFalse(is_accepted(with_digest(data.replace(b" -1 ", b" -2 ", 1))))

    def test_large(self):
        """Base names of more than one batch are decoded, too."""
        contents = some_contents(100)
        for batch in (1, 11, 12, 13, 500, 5000):
            self.patch(size_file, "_BATCH", batch)
            self.assertEqual(comparable(decode(encoded(contents))), comparable(contents))

    def test_other_info(self):
        """A base name may contain other info if an info suffix follows."""
        names = [b"1000000000.w;2,F", b"1000000001.x;2,F", b"1000000002.y;2"]
        contents = some_contents(base_names=names, locations=[b"\1:2,S", b"\1;2,S", b"\0"])
        self.assertEqual(comparable(decode(encoded(contents))), comparable(contents))

    def test_no_times(self):
        """The times of a folder, or all times, may be missing."""
        for times, locations in (([], None), ([TIMES[0]], [b"\0"] * 3)):
            changes = {"times": times} | (
                {"locations": locations} if locations else {"times": None}
            )
            contents = some_contents(**changes)
            self.assertEqual(comparable(decode(encoded(contents))), comparable(contents))

    def test_flipped(self):
        """A file with any bit flipped is rejected."""
        data = bytearray(encoded(some_contents()))
        for at in range(len(data)):
            for bit in range(8):
                data[at] ^= 1 << bit
                with self.assertRaises(ValueError):
                    decode(bytes(data))
                data[at] ^= 1 << bit

    def test_truncated(self):
        """A file that is too short or too long is rejected."""
        data = encoded(some_contents())
        for length in range(len(data)):
            with self.assertRaises(ValueError):
                decode(data[:length])
        with self.assertRaises(ValueError):
            decode(data + b"\0")

    @given(st.binary(max_size=300))
    def test_forged_head(self, octets):
        """Any octets with a correct digest are accepted or rejected, without another error."""
        for start in (b"", size_file._MAGIC, size_file._MAGIC + b"1 1 1 0 0 -1\n"):
            is_accepted(with_digest(start + octets))

    def test_forged_digits(self):
        """A first line that does not end is rejected quickly, without backtracking."""
        for number in (b"1", b"1 ", b"-1", b"12345678901234567890 "):
            self.assertFalse(is_accepted(with_digest(size_file._MAGIC + number * 10**6)))
            self.assertFalse(is_accepted(with_digest(size_file._MAGIC + number * 16 + b"\0")))

    @given(st.lists(st.integers(-2, 2**40), min_size=6, max_size=16), st.binary(max_size=60))
    def test_forged_numbers(self, numbers, octets):
        """Numbers in the first line that do not fit the rest cause no other error."""
        head = size_file._MAGIC + b" ".join(b"%d" % number for number in numbers) + b"\n"
        is_accepted(with_digest(head + octets))

    def test_forged_columns(self):
        """Contents that no Maildir can have are rejected, although the digest is correct."""
        names = some_contents().base_names
        for wrong in (
            {"base_names": [b"1/x", *names[1:]]},
            {"base_names": [b"../../x", *names[1:]]},
            {"base_names": [b".", *names[1:]]},
            {"base_names": [b"..", *names[1:]]},
            {"base_names": [names[0], b".x", names[2]]},
            {"base_names": [b"", b".x", names[2]]},
            {"base_names": [b"1:x", *names[1:]]},
            {"base_names": [b"1000000000.w;2,", *names[1:]]},
            {"base_names": [b"1000000000.w!2,FS", *names[1:]]},
            {"base_names": [names[0], names[0], names[2]]},
            {"base_names": names[::-1]},
            {"base_names": names[:2]},
            {"base_names": [*names, b"9999999999.x"]},
            {"base_names": [b"a\0b", *names[1:]]},
            {"locations": [b"\2", *some_contents().locations[1:]]},
            {"locations": [b"\0/../x", *some_contents().locations[1:]]},
            {"locations": [b"\0:/x", *some_contents().locations[1:]]},
            {"locations": [b"\0;1,S", *some_contents().locations[1:]]},
            {"locations": [b"\0;2,S/", *some_contents().locations[1:]]},
            {"locations": [b"\0x", *some_contents().locations[1:]]},
            {"octets": array("Q", [2**50 + 1, 1, 1])},
            {"downgraded": {0: 2**50 + 1}},
            {"downgraded": {3: 1}},
            {"header_only": [3]},
            {"header_only": [0, 0, 0, 0]},
            {"base_names": [*names[:2], b"x" * 1025]},
            {"base_names": [b""] * (1 << 16)},
            {"times": TIMES[:1]},
            {"times": []},
        ):
            with self.assertRaises(ValueError, msg=wrong):
                decode(encoded(some_contents(**wrong)))
        data = encoded(some_contents())[:-32]
        kinds = data.index(b"0\x00" + b"1:2,S")
        for number in (b"\3", b"\xff"):
            with self.assertRaises(ValueError):
                decode(with_digest(data[: kinds - 4] + number.ljust(4, b"\0") + data[kinds:]))

    def test_long_heads(self):
        """A long first line that does not match is rejected in linear time."""
        command = [sys.executable, "-c", HEADS]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        # With exponential backtracking, each would never end.
        subprocess.run(command, env=environment, check=True, timeout=60)

    def test_many_locations(self):
        """A file with too many octets of locations is neither read nor written."""
        locations = [b"\0:" + b"%0250d" % n for n in range(300)]
        contents = some_contents(300, locations=locations)
        with self.assertRaises(ValueError):
            encoded(contents)
        octets = sum(map(len, locations)) + 299
        self.patch(size_file, "_MAX_LOCATION_OCTETS", octets - 1)
        with self.assertRaises(ValueError):
            encoded(contents)
        self.patch(size_file, "_MAX_LOCATION_OCTETS", octets)
        data = encoded(contents)
        self.assertEqual(comparable(decode(data)), comparable(contents))
        self.patch(size_file, "_MAX_LOCATION_OCTETS", 1 << 16)
        with self.assertRaises(ValueError):
            decode(data)

    def test_more_than_announced(self):
        """Columns and base names of more messages than announced are rejected without unpacking."""
        head = size_file._MAGIC + b"1 1 %d 0 %d -1\n"
        for names, header_only in ((b"a\0" * 200_000, b""), (b"a", bytes(8 * 200_000))):
            columns = bytes(16) + header_only + bytes(4) + b"0"
            data = with_digest(head % (len(names), len(header_only) // 8) + columns + names)
            self.patch(size_file, "_BATCH", 10)
            tracemalloc.start()
            with self.assertRaises(ValueError):
                decode(data)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.assertLess(peak, 100_000)

    def test_versions(self):
        """A file of another format or another byte order is rejected."""
        data = encoded(some_contents())
        other = {"little": b"big", "big": b"little"}[sys.byteorder]
        for old, new in ((b"sizes 3", b"sizes 2"), (sys.byteorder.encode(), other)):
            with self.assertRaises(ValueError):
                decode(with_digest(data[:-32].replace(old, new, 1)))


class FileTests(SynchronousTestCase):
    """The size file in its directory; no test may leave a file open."""

    def setUp(self):
        """Make a directory."""
        self.path = os.path.abspath(self.mktemp())
        os.mkdir(self.path, 0o700)
        watch_descriptors(self)
        self.fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(lambda: os.close(self.fd))

    def path_of(self, name):
        """Return the path of a name in the directory."""
        return os.path.join(os.fsencode(self.path), name)

    def names(self):
        """Return the names in the directory."""
        return sorted(os.listdir(os.fsencode(self.path)))

    def assert_holds(self, contents):
        """Check the contents of the size file."""
        self.assertEqual(comparable(load(self.fd)), comparable(contents))

    def test_replaced(self):
        """A saved file replaces the former one, and no other file is left."""
        self.assertIsNone(load(self.fd))
        for messages in (3, 500, 1):
            self.assertTrue(save(self.fd, some_contents(messages)))
            self.assert_holds(some_contents(messages))
            self.assertEqual(self.names(), [b"popserv-sizes"])
        self.assertEqual([remove(self.fd), remove(self.fd)], [True, True])
        self.assertEqual(self.names(), [])

    def test_modes(self):
        """The owner has access, the group as to the Maildir, and others never."""
        for mode, wanted in ((0o700, 0o600), (0o755, 0o640), (0o2770, 0o660), (0o777, 0o660)):
            os.chmod(self.path, mode)
            self.assertTrue(save(self.fd, some_contents()))
            self.assertEqual(stat.S_IMODE(os.stat(self.path_of(NAME)).st_mode), wanted)

    def test_owner(self):
        """If the server is root, the file has the owner and group of the Maildir."""
        if os.geteuid():
            self.skipTest("only root can give files away")
        os.chown(self.path, NOBODY, NOBODY)
        self.assertTrue(save(self.fd, some_contents()))
        status = os.stat(self.path_of(NAME))
        self.assertEqual((status.st_uid, status.st_gid), (NOBODY, NOBODY))

    def test_owner_unchanged(self):
        """If the group cannot be changed, only the owner has access."""
        os.chmod(self.path, 0o770)
        other = os.stat_result([0o40770, 0, 0, 0, 12345, 12345, *[0] * 4])
        real = os.fstat
        with (
            mock.patch.object(os, "fchown", side_effect=PermissionError(errno.EPERM, "no")),
            mock.patch.object(os, "fstat", lambda fd: other if fd == self.fd else real(fd)),
        ):
            self.assertTrue(save(self.fd, some_contents()))
        self.assertEqual(stat.S_IMODE(os.stat(self.path_of(NAME)).st_mode), 0o600)

    def test_special_files(self):
        """A special file or a link is not read, and the next save replaces it."""
        target = self.path_of(b"target")
        with open(target, "wb") as file:
            file.write(encoded(some_contents()))
        for make in (
            lambda path: os.symlink(b"target", path),
            lambda path: os.symlink(b"nowhere", path),
            os.mkfifo,
        ):
            make(self.path_of(NAME))
            self.assertIsNone(load(self.fd))
            self.assertTrue(save(self.fd, some_contents(1)))
            self.assert_holds(some_contents(1))
            self.assertTrue(stat.S_ISREG(os.lstat(self.path_of(NAME)).st_mode))
            os.unlink(self.path_of(NAME))
        with open(target, "rb") as file:
            self.assertEqual(file.read(), encoded(some_contents()))

    def test_directory(self):
        """A directory with one of the names is left alone."""
        for name in (NAME, UNFINISHED):
            os.makedirs(self.path_of(name + b"/x"))
            self.assertEqual([load(self.fd), save(self.fd, some_contents())], [None, False])
            self.assertEqual([remove(self.fd), self.names()], [name != NAME, [name]])
            os.removedirs(self.path_of(name + b"/x"))
            os.makedirs(self.path, exist_ok=True)

    def test_leftover(self):
        """An unfinished file of a killed server is replaced, and a link's target is not changed."""
        victim = self.path_of(b"victim")
        with open(victim, "wb") as file:
            file.write(b"precious")
        for make in (
            lambda path: os.symlink(b"victim", path),
            lambda path: os.link(victim, path),
            lambda path: open(path, "wb").close(),
            os.mkfifo,
        ):
            make(self.path_of(b"popserv-sizes.new"))
            self.assertTrue(save(self.fd, some_contents()))
            self.assert_holds(some_contents())
            with open(victim, "rb") as file:
                self.assertEqual(file.read(), b"precious")
            self.assertEqual(self.names(), [NAME, b"victim"])

    def test_link_made_meanwhile(self):
        """A link that another program creates while a file is written is not followed."""
        with link_made_meanwhile(self, self.path_of(UNFINISHED)):
            self.assertFalse(save(self.fd, some_contents()))

    def test_too_large(self):
        """A file longer than the maximum is not read."""
        with open(self.path_of(NAME), "wb") as file:
            file.truncate(MAX_OCTETS + 1)
        with mock.patch.object(os, "read", side_effect=AssertionError):
            self.assertIsNone(load(self.fd))

    def test_shrinking(self):
        """A file that becomes shorter while it is read is ignored."""
        self.assertTrue(save(self.fd, some_contents(500)))
        real = os.read
        with mock.patch.object(os, "read", lambda fd, octets: real(fd, min(octets, 7))):
            self.assert_holds(some_contents(500))
        with mock.patch.object(os, "read", return_value=b""):
            self.assertIsNone(load(self.fd))

    def test_failures(self):
        """After a failure the old file is there, or none if the last step failed."""
        for name in ("open", "fchmod", "fstat", "write", "close", "rename", "unlink"):
            for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES):
                self.assertTrue(save(self.fd, some_contents(1)))
                with self.failing(name, OSError(code, "no")):
                    self.assertFalse(save(self.fd, some_contents(500)), name)
                if os.path.exists(self.path_of(UNFINISHED)):
                    self.assertEqual(name, "unlink")
                    os.unlink(self.path_of(UNFINISHED))
                if name == "rename":
                    self.assertEqual(self.names(), [])
                else:
                    self.assertEqual(self.names(), [NAME])
                    self.assert_holds(some_contents(1))

    @contextmanager
    def failing(self, name, error):
        """Make a function raise an error, ``close`` after it has closed the file."""
        real = getattr(os, name)

        def function(*args, **kwargs):
            if name == "close":
                real(*args)
            if name == "unlink" and args[0] != UNFINISHED:
                return real(*args, **kwargs)
            raise error

        with mock.patch.object(os, name, function):
            yield

    def test_unreadable(self):
        """A file that cannot be opened or read is ignored."""
        self.assertTrue(save(self.fd, some_contents()))
        for name in ("open", "read"):
            with mock.patch.object(os, name, side_effect=OSError(errno.EIO, "broken")):
                self.assertIsNone(load(self.fd))

    def test_full_disk(self):
        """If the disk is full halfway, the old file stays."""
        self.assertTrue(save(self.fd, some_contents(1)))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            self.assertFalse(save(self.fd, some_contents(5000)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
        self.assertEqual(self.names(), [NAME])
        self.assert_holds(some_contents(1))

    def test_too_many(self):
        """A file above one of the maxima is not written."""
        self.patch(size_file, "MAX_MESSAGES", 2)
        self.assertFalse(save(self.fd, some_contents(3)))
        self.patch(size_file, "MAX_MESSAGES", 3)
        self.patch(size_file, "MAX_OCTETS", 100)
        self.assertFalse(save(self.fd, some_contents(3)))
        self.patch(size_file, "_MAX_LOCATION_OCTETS", 3)
        self.assertFalse(save(self.fd, some_contents(3)))
        self.assertEqual(self.names(), [])

    def test_maximum(self):
        """A file with exactly the maximum of messages and octets is written and read."""
        octets = len(encoded(some_contents(3)))
        for messages, maximum, is_saved in ((3, octets - 1, False), (3, octets, True)):
            self.patch(size_file, "MAX_MESSAGES", messages)
            self.patch(size_file, "MAX_OCTETS", maximum)
            self.assertEqual(save(self.fd, some_contents(3)), is_saved)
        self.assert_holds(some_contents(3))
        self.patch(size_file, "MAX_MESSAGES", 2)
        self.assertIsNone(load(self.fd))

    def test_killed(self):
        """A server that is killed at any step leaves the old file, the new one, or none."""
        left = []
        for step in range(40):
            self.assertTrue(save(self.fd, some_contents(1)))
            command = [sys.executable, "-c", KILLED, self.path, str(step)]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            code = subprocess.run(command, env=environment, check=False).returncode
            contents = load(self.fd)
            left.append(contents and len(contents.base_names))
            if contents:
                self.assert_holds(some_contents(len(contents.base_names)))
            self.assertLessEqual(set(self.names()), {NAME, UNFINISHED})
            if code == 0:
                break
            self.assertEqual(code, -signal.SIGKILL)
        self.assertEqual((code, self.names()), (0, [NAME]))
        self.assertEqual([*dict.fromkeys(left)], [1, None, 3])


HEADS = """
from popserv.maildrops.maildir.listing import size_file

for head in (b"0" * 300, b"-1 " * 300, b"00 " * 16, b"-" * 300, b" " * 300):
    for end in (b"", b"x", b" ", b"\\n"):
        try:
            size_file.decode(size_file._MAGIC + head + end)
        except ValueError:
            pass
"""

KILLED = """
import os, signal, sys
from popserv.maildrops.maildir.listing import size_file
from tests.maildrops.maildir.listing.test_size_file import some_contents

path, step = sys.argv[1], int(sys.argv[2])
fd = os.open(path, os.O_RDONLY)
calls = 0

def counted(real):
    def function(*args, **kwargs):
        global calls
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return real(*args, **kwargs)
    return function

for name in ("unlink", "open", "write", "close", "rename"):
    setattr(os, name, counted(getattr(os, name)))
size_file.save(fd, some_contents(3))
os._exit(0)
"""
