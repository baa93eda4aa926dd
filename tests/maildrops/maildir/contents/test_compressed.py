"""Compressed message files: sent decompressed, with the octets of that form, or refused."""

import bz2
import contextlib
import gzip
import lzma
import os
import zlib
from itertools import islice
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from popserv.errors import MaildropUnavailable, MessageChanged
from popserv.maildrops.maildir.contents import compressed
from popserv.maildrops.maildir.contents.compressed import (
    DecompressedFile,
    UnreadableContents,
    check_contents,
    compression_of,
    compressions,
    import_first,
    read_contents,
)
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.testing import SAMPLE_MESSAGES, naive_octets
from tests.maildrops.maildir.harness import (
    SLOW,
    MaildirCase,
    SizeFileCase,
    read_message,
    result,
    run_inline,
)

zstd = import_first("compression.zstd", "backports.zstd")

COMPRESS = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}

LARGE = b"Subject: large\n\n" + b"".join(b"%d\n" % n for n in range(60_000))

MAGIC = {"gzip": 2, "bzip2": 10, "xz": 6, "zstd": 4}
"""The octets from which a format is recognized."""

LZ4 = b"Dovecot-LZ4\r\x2a\x9b\xc5\0\1\0\0\0\0\0\x04abcd"


class CompressionTests(SynchronousTestCase):
    """Formats are recognized by their first octets."""

    def test_recognized(self):
        """Each format is recognized, also if the contents are empty or incompressible."""
        for name, compress in COMPRESS.items():
            for contents in (b"", b"a: b\n", LARGE, os.urandom(100_000)):
                for level in (1, 9):
                    data = bz2.compress(contents, level) if name == "bzip2" else compress(contents)
                    self.assertEqual(compression_of(data[: compressed.START]).name, name)

    def test_text(self):
        """No message is taken for compressed data, not even one that starts like bzip2's."""
        for start in (
            *(
                b"BZh9: x\n",
                b"BZh91AY&S: x\n",
                b"BZh01AY&SY",
                b"(comment): x\n",
                b"Dovecot-LZ4: x\n",
            ),
            *(b"", b"\x1f", b"\xfd7zXY", b"\x28\xb5\x2f", *SAMPLE_MESSAGES),
        ):
            self.assertIsNone(compression_of(start), start)
        # Two of the octets that follow bzip2's version are not in the names of fields.
        self.assertIsNotNone(compression_of(b"BZh91AY&SY" + bytes(9)))

    def test_not_installed(self):
        """A format whose module is not installed is recognized, and the reason says what to do."""
        self.assertIsNone(import_first("no_such_module_1", "no_such_module_2"))
        found = compressions(None, None, None)
        self.assertEqual({name for name in found if found[name].make}, {"gzip"})
        self.assertIn("pip install 'backports.zstd>=1'", found["zstd"].reason)
        for name in ("bzip2", "xz"):
            self.assertRegex(found[name].reason, "without the module (bz2|lzma)")


class FileTests(SynchronousTestCase):
    """The contents of a compressed file are exactly what was compressed, or an error."""

    def setUp(self):
        """Open a file."""
        self.fd = os.open(self.mktemp(), os.O_RDWR | os.O_CREAT)
        self.addCleanup(os.close, self.fd)

    def contents(self, data):
        """Return the contents of a file with this data."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, data, 0)
        return b"".join(read_contents(self.fd, 1 << 17))

    def assert_error(self, data, reason=""):
        """Check that a file with this data cannot be decompressed."""
        with self.assertRaises(UnreadableContents) as raised:
            self.contents(data)
        self.assertIn(reason, str(raised.exception))

    @SLOW
    @given(
        st.lists(st.binary(max_size=200) | st.integers(0, 300_000).map(bytes), max_size=3),
        st.sampled_from([1, 7, 1 << 16]),
        st.sampled_from([64, 1 << 17]),
    )
    def test_whole(self, contents, input_size, piece):
        """Streams one after the other are their contents, however the file is read."""
        if input_size == 1:
            contents = [each[:2000] for each in contents]
        with (
            mock.patch.object(compressed, "_INPUT", input_size),
            mock.patch.object(compressed, "PIECE", piece),
        ):
            for compress in COMPRESS.values():
                data = b"".join(map(compress, contents))
                self.assertEqual(self.contents(data), b"".join(contents))

    def test_pieces(self):
        """A file is read in pieces of at most 128 KiB, whatever its contents."""
        for compress in COMPRESS.values():
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, compress(bytes(1 << 20)) + compress(LARGE), 0)
            file = DecompressedFile(self.fd, compression_of(os.pread(self.fd, 16, 0)))
            pieces = []
            while not file.is_at_end:
                pieces.append(file.read())
            self.assertEqual(b"".join(pieces), bytes(1 << 20) + LARGE)
            self.assertEqual(max(map(len, pieces)), 1 << 17)

    @SLOW
    @given(st.binary(max_size=300))
    def test_truncated(self, contents):
        """A file that was truncated anywhere is an error; its start is never taken for it."""
        for name, compress in COMPRESS.items():
            data = compress(contents)
            for end in range(MAGIC[name], len(data)):
                self.assert_error(data[:end], "ends too early")

    @SLOW
    @given(st.binary(min_size=1, max_size=40), st.binary(max_size=100))
    def test_trailing_garbage(self, garbage, contents):
        """Anything after a stream must be another stream."""
        # zstd has streams that are skipped, whose contents may be anything.
        if not (garbage[1:4] == b"\x2a\x4d\x18" and garbage[0] >> 4 == 5):
            for compress in COMPRESS.values():
                self.assert_error(compress(contents) + b"\1" + garbage)
                self.assert_error(compress(contents) + bytes(len(garbage)))

    def test_damaged(self):
        """A damaged octet is an error or changes nothing; other contents are never returned."""
        for name, compress in COMPRESS.items():
            data = compress(SAMPLE_MESSAGES[1] * 3)
            if name == "zstd":
                checksum = {zstd.CompressionParameter.checksum_flag: 1}
                data = zstd.compress(SAMPLE_MESSAGES[1] * 3, options=checksum)
            for at in range(MAGIC[name], len(data)):
                damaged = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
                with contextlib.suppress(UnreadableContents):
                    self.assertEqual(self.contents(damaged), SAMPLE_MESSAGES[1] * 3)

    def test_bomb(self):
        """A file whose contents exceed the limit is an error, and is not read to its end."""
        with mock.patch.object(compressed, "MAX_OCTETS", 1 << 18):
            for compress in COMPRESS.values():
                self.assertEqual(len(self.contents(compress(bytes(1 << 18)))), 1 << 18)
                self.assert_error(compress(bytes((1 << 18) + 1)), "more than 262144 octets")

    def test_stored(self):
        """A file that is not compressed has the same limit, and is not read beyond its start."""
        with mock.patch.object(compressed, "MAX_OCTETS", 1 << 18):
            self.assertEqual(len(self.contents(bytes(1 << 18))), 1 << 18)
            self.assert_error(bytes((1 << 18) + 1), "it has more than 262144 octets")
            self.assertEqual(os.lseek(self.fd, 0, os.SEEK_CUR), 1 << 17)

    def test_grown(self):
        """A file that grows while it is read is not read beyond the limit."""
        os.pwrite(self.fd, bytes(1 << 17), 0)
        with mock.patch.object(compressed, "MAX_OCTETS", 1 << 18):
            chunks = read_contents(self.fd, 1 << 17)
            next(chunks)
            os.truncate(self.fd, (1 << 18) + 1)
            next(chunks)
            with self.assertRaisesRegex(UnreadableContents, "^it has more than 262144 octets"):
                next(chunks)

    def test_limit(self):
        """The limit is 1 GiB."""
        mebibyte = zstd.compress(bytes(1 << 20))
        os.pwrite(self.fd, mebibyte * 1024, 0)
        check_contents(self.fd)
        os.pwrite(self.fd, zstd.compress(b"x"), len(mebibyte) * 1024)
        with self.assertRaisesRegex(UnreadableContents, "more than 1073741824 octets"):
            check_contents(self.fd)

    def test_window(self):
        """Windows of xz and zstd have up to 64 MiB, as all levels but the last of zstd need."""
        for mebibytes, is_accepted in ((64, True), (96, False)):
            lzma2 = {"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": mebibytes << 20}
            data = lzma.compress(LARGE, filters=[lzma2])
            if is_accepted:
                self.assertEqual(self.contents(data), LARGE)
            else:
                self.assert_error(data, "Memory usage limit exceeded")
        for bits, is_accepted in ((26, True), (27, False)):
            options = {zstd.CompressionParameter.window_log: bits}
            # The size, if it is known, would make the window smaller.
            compressor = zstd.ZstdCompressor(options=options)
            data = compressor.compress(LARGE) + compressor.flush()
            if is_accepted:
                self.assertEqual(self.contents(data), LARGE)
            else:
                self.assert_error(data, "too much memory")


class StoreTests(MaildirCase):
    """Compressed messages in a Maildir."""

    def setUp(self):
        """Record the log."""
        super().setUp()
        self.patch(compressed, "_announced", set())
        observer = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        self.log_lines = lambda: [formatEvent(event) for event in observer]

    def test_sent_decompressed(self):
        """Every message is read, and counted, in its decompressed form."""
        for n, message in enumerate(SAMPLE_MESSAGES):
            for m, compress in enumerate(COMPRESS.values()):
                self.put(b"cur/1%03d.%d,S=7:2,S" % (n, m), compress(message))
        expected = [message for message in SAMPLE_MESSAGES for _ in COMPRESS]
        self.assertEqual(self.read_in_session(), expected)
        with self.session() as mailbox:
            self.assertEqual([*mailbox.messages.octets], [*map(naive_octets, expected)])

    def test_announced(self):
        """One line of the log says that there are compressed messages, for each format."""
        for n, compress in enumerate(COMPRESS.values()):
            self.put(b"new/%d.a" % n, compress(b"a: b\n"))
            self.put(b"new/%d.b" % n, compress(b"a: b\n"))
        self.put(b"new/9.c", LZ4)
        with self.session():
            pass
        self.assertEqual(
            sorted(self.log_lines()),
            [
                "message files are compressed with LZ4, and cannot be sent: "
                "popserv does not support Dovecot's LZ4",
                *(
                    f"message files are compressed with {name}, and are sent decompressed"
                    for name in sorted(COMPRESS)
                ),
            ],
        )
        with self.session():
            pass
        self.assertEqual(len(self.log_lines()), 5)

    def assert_refused_message(self, mailbox, position, reason):
        """Check that a message is refused for a reason that names its file."""
        with self.assertRaises(MaildropUnavailable) as refused:
            read_message(mailbox, position)
        self.assertEqual(refused.exception.code, b"SYS/PERM")
        self.assertIn(f"/{position}.a", str(refused.exception.__cause__))
        self.assertIn(reason, str(refused.exception.__cause__))

    def test_damaged(self):
        """A message that cannot be decompressed has 0 octets, is refused, and stays."""
        datas = [
            *(compress(LARGE)[:-20] for compress in COMPRESS.values()),
            *(compress(b"a: b\n")[:-1] for compress in COMPRESS.values()),
            *(compress(LARGE) + b"garbage" for compress in COMPRESS.values()),
            LZ4,
        ]
        for n, data in enumerate(datas):
            self.put(b"new/%d.a" % n, data)
        self.put(b"new/100.b", b"whole\n")
        for _ in range(2):
            with self.session() as mailbox:
                self.assertEqual([*mailbox.messages.octets], [0] * len(datas) + [7])
                self.assertEqual(mailbox.messages.header_only, frozenset([len(datas)]))
                for position in range(len(datas)):
                    self.assert_refused_message(mailbox, position, "")
                self.assertEqual(read_message(mailbox, len(datas)), b"whole\n")
        self.assertEqual(len(self.file_names()), len(datas) + 1)
        os.utime(self.path_of(b"new/0.a"), ns=(5, 5))
        with self.session() as mailbox:
            self.assert_refused_message(mailbox, 0, "gzip")
            result(mailbox.remove(mailbox.messages[:1]))
        self.assertEqual(len(self.file_names()), len(datas))

    def test_damaged_later(self):
        """A message that was damaged after it was counted is refused, or breaks off as changed."""
        data = gzip.compress(LARGE)
        self.put(b"new/0.a", data)
        status = os.stat(self.path_of(b"new/0.a"))
        with self.session() as mailbox:
            for end in (20, len(data) - 20):
                self.put(b"new/0.a", data[:end] + bytes(len(data) - end))
                os.utime(self.path_of(b"new/0.a"), ns=(0, status.st_mtime_ns))
                if end == 20:
                    self.assert_refused_message(mailbox, 0, "not valid gzip data")
                    continue
                body = result(mailbox.open(mailbox.messages[0]))
                with self.assertRaises(MessageChanged) as changed:
                    for chunk in islice(body, 1, None):
                        result(chunk)
                self.assertIsInstance(changed.exception.__cause__, UnreadableContents)
                body.close()

    def test_extra_installed_later(self):
        """A format that can be decompressed since the last login is a changed message, once."""
        self.put(b"new/0.a", zstd.compress(b"a: b\n"))
        without = {**compressed._COMPRESSIONS, "zstd": compressions(bz2, lzma, None)["zstd"]}
        with mock.patch.object(compressed, "_COMPRESSIONS", without), self.session() as mailbox:
            self.assertEqual([*mailbox.messages.octets], [0])
            self.assert_refused_message(mailbox, 0, "pip install 'backports.zstd>=1'")
        with self.session() as mailbox:
            # The framer refuses it, and then has the sizes discarded.
            self.assertEqual(read_message(mailbox, 0), b"a: b\n")
            result(mailbox.discard_sizes())
        self.assertEqual(self.read_in_session(), [b"a: b\n"])

    def test_ascii_bzip2(self):
        """Data of bzip2 that happens to be ASCII is not taken for text."""
        self.put(b"new/0.a", b"BZh91AY&SYtruncated")
        self.put(b"new/1.b", b"BZh9: a field\n")
        with self.session() as mailbox:
            self.assertEqual([*mailbox.messages.octets], [0, 15])
            self.assert_refused_message(mailbox, 0, "not valid bzip2 data")
            self.assertEqual(read_message(mailbox, 1), b"BZh9: a field\n")

    def test_changed(self):
        """A compressed message with other contents is refused; its file's stamp tells."""
        self.put(b"new/0.a", gzip.compress(b"a: b\n"))
        with self.session() as mailbox:
            self.put(b"new/0.a", gzip.compress(b"a: longer\n"))
            with self.assertRaises(MessageChanged):
                read_message(mailbox, 0)
        self.assertEqual(self.read_in_session(), [b"a: longer\n"])
        with self.session() as mailbox:
            self.put(b"new/0.a", bz2.compress(b"a: LONGER\n"))
            self.assertEqual(read_message(mailbox, 0), b"a: LONGER\n")

    def test_not_cached(self):
        """The octets of a compressed file are not taken for those of a message."""
        for n, data in enumerate((LZ4, *(compress(b"a: b\n") for compress in COMPRESS.values()))):
            self.put(b"new/%d.a" % n, data)
        self.put(b"new/9.a", b"a: b\n")
        with self.session() as mailbox:
            cached = [mailbox.read_cached(message, 1000) for message in mailbox.messages]
        self.assertEqual(cached, [None] * 5 + [b"a: b\n"])

    def test_threads(self):
        """Data is decompressed in threads only, and one piece at a time."""
        self.put(b"new/0.a", gzip.compress(LARGE))
        functions = []

        async def run(function, *args):
            functions.append(function.__name__)
            with mock.patch.object(zlib, "decompressobj", real):
                return function(*args)

        real = zlib.decompressobj
        self.maildrops = MaildirMaildrops(self.root, run=run)
        with mock.patch.object(zlib, "decompressobj", None), self.session() as mailbox:
            self.assertEqual(read_message(mailbox, 0), LARGE)
        self.assertEqual(functions[:2], ["_open", "read"])
        self.assertEqual(set(functions[2:]), {"_decompress"})


class SizeFileTests(SizeFileCase):
    """The size file has the octets of the decompressed form, and the stamp of the file."""

    def test_restart(self):
        """After a restart no message is counted again, and compressed ones are sent."""
        for n, compress in enumerate(COMPRESS.values()):
            self.put(b"cur/1600000009.%d:2," % n, compress(LARGE))
        self.put(b"cur/1600000010.x:2,", gzip.compress(b"x")[:-1])
        before = self.listing()
        self.restart()
        self.assertEqual(self.files_read_after_restart(), [])
        self.assertEqual(self.listing(), before)
        with self.session() as mailbox:
            for position in range(3, 7):
                self.assertEqual(read_message(mailbox, position), LARGE)
            with self.assertRaises(MaildropUnavailable):
                read_message(mailbox, 7)
        self.assertEqual(self.maildrops.run, run_inline)
