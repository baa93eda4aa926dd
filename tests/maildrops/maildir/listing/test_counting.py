"""counting: octets are counted from the bytes (RFC 1725 section 10)."""

import errno
import gzip
import os
import shutil
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from popserv.errors import MaildropUnavailable
from popserv.maildrops.maildir import folders
from popserv.maildrops.maildir.contents import compressed
from popserv.maildrops.maildir.listing import counting
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.sizes import measure
from popserv.testing import SAMPLE_MESSAGES, naive_octets
from tests.maildrops.maildir.harness import (
    SLOW,
    SPECIAL_FILES,
    MaildirCase,
    before_each_call,
    failing,
    read_message,
    result,
    uids_of,
)
from tests.messages.harness import texts


class OctetsTests(MaildirCase):
    """Octets are those of the bytes that are read."""

    def test_wrong_names(self):
        """Sizes in file names are not used."""
        for n, message in enumerate(SAMPLE_MESSAGES):
            self.put(b"new/%d.x,S=1,W=1" % n, message)
            self.put(b"cur/%d.y,W=7,S=7:2,S" % n, message)
        self.assertEqual(
            self.read_in_session(), [m for message in SAMPLE_MESSAGES for m in (message, message)]
        )

    def test_lengths(self):
        """Octets are right on either side of the lengths at which the way of counting changes."""
        for n, edge in enumerate((counting.SMALL_MESSAGE, counting.CHUNK)):
            for length in range(edge - 2, edge + 3):
                for m, line in enumerate((b"x\n", b"x\r\n", b"\xe9\n")):
                    message = (line * edge)[:length]
                    self.put(b"new/16000000%d%d.%d" % (n, m, length), message)
        self.assertEqual(len(self.read_in_session()), 2 * 5 * 3)

    @SLOW
    @given(st.lists(st.one_of(texts, st.binary(max_size=40)), max_size=5), st.integers(1, 40))
    def test_ways_of_counting(self, messages, small):
        """A message has the same sizes and stamp whichever way it is counted."""
        self.make_empty()
        for n, message in enumerate(messages):
            self.put(b"new/%d.x" % n, message)
        for self.downgrader in (None, Downgrader):
            counted = []
            # Nothing is less than 0 octets, so that all messages are counted in chunks.
            for each in (0, small, counting.SMALL_MESSAGE):
                self.restart()
                with mock.patch.object(counting, "SMALL_MESSAGE", each), self.session() as mailbox:
                    counted.append(([*mailbox.messages.sizes()], mailbox.index.stamps))
            self.assertEqual(counted[1:], counted[:1] * 2)
            self.assertEqual(
                [each.octets for each in counted[0][0]], [*map(naive_octets, messages)]
            )

    def test_columns(self):
        """Which messages have no blank line, and which have another size without UTF-8."""
        self.downgrader = Downgrader
        self.restart()
        utf8 = "Subject: \u00fc\n\nx\n".encode()
        for n, message in enumerate((b"a: b\n\n", b"a: b\n", utf8, b"a: c\n")):
            self.put(b"new/%d.x" % n, message)
        with self.session() as mailbox:
            self.assertEqual({*mailbox.messages.header_only}, {1, 3})
            octets = measure([utf8], Downgrader).downgraded
            self.assertEqual(dict(mailbox.messages.downgraded), {2: octets})

    def test_one_piece(self):
        """A small message is counted in one piece; one with 8-bit text, only without UTF8."""
        text = "Subject: \u00fc\n\n\u00fc\n".encode()
        self.put(b"new/1.a", text)
        error = AssertionError("counted in chunks")
        for self.downgrader in (None, Downgrader):
            self.restart()
            with mock.patch.object(counting, "measure", side_effect=error) as measure:
                if self.downgrader is None:
                    self.assertEqual(self.read_in_session(), [text])
                else:
                    self.assertRaises(AssertionError, self.read_in_session)
            self.assertEqual(measure.called, self.downgrader is not None)

    def test_other_messages(self):
        """A message that has ended a batch of small ones is counted next, and the batch goes on."""
        small, large = b"a: b\n\n", b"x" * counting.SMALL_MESSAGE
        for n, message in enumerate((small, small, large, b"a: b\n", small)):
            self.put(b"new/%d.x" % n, message)
        count = counting.count_small_files
        with mock.patch.object(counting, "count_small_files", side_effect=count) as batches:
            self.assertEqual(len(self.read_in_session()), 5)
        self.assertEqual([call.args[2] for call in batches.call_args_list], [0, 3, 4])

    def test_changing(self):
        """If a message grows or shrinks while it is counted, the octets are those it has then."""
        for after in (b"longer than before\n", b"x\n", b""):
            self.restart()
            self.put(b"new/1.a", b"before\n")

            def change(fd, after=after):
                self.put(b"new/1.a", after)

            with before_each_call(os, "pread", change), self.session() as mailbox:
                self.assertEqual([*mailbox.messages.octets], [naive_octets(after)])
            self.assertEqual(self.read_in_session(), [after])

    def test_unreadable(self):
        """A message that the server may not read is left out, with a warning in the log."""
        self.put(b"cur/1.a:2,S")
        self.put(b"new/2.b", b"b\n")
        denied = PermissionError(errno.EACCES, "denied")
        with (
            failing(os, "open", denied, lambda name, *_: name == b"1.a:2,S"),
            mock.patch.object(counting, "_log") as log,
        ):
            self.assertEqual(self.read_in_session(), [b"b\n"])
        log.warn.assert_called_once()
        problem = str(log.warn.call_args.kwargs["problem"])
        self.assertTrue(problem.startswith(f"{self.root}/ann/cur/1.a:2,S cannot be read"), problem)
        self.assertEqual(len(self.read_in_session()), 2)

    def test_errors(self):
        """If a message cannot be opened or read for another reason, the maildrop is refused."""
        self.put(b"cur/1.a:2,S", b"x" * counting.SMALL_MESSAGE)
        broken = OSError(errno.EIO, "broken")
        for call, when in (
            ("open", lambda name, *_: name == b"1.a:2,S"),
            ("read", lambda *_: True),
        ):
            with failing(os, call, broken, when):
                cause = self.assert_refused(MaildropUnavailable)
            self.assertEqual(str(cause), f"{self.root}/ann/cur/1.a:2,S: broken")
        self.assertEqual(len(self.read_in_session()), 1)

    def test_damaged(self):
        """A compressed message that cannot be decompressed has 0 octets."""
        self.put(b"new/1.a", gzip.compress(b"x")[:-1])
        with self.session() as mailbox:
            self.assertEqual([*mailbox.messages.octets], [0])

    def test_too_large(self):
        """A message of more than 1 GiB is not read, and has 0 octets; RETR names its file."""
        for name in (b"new/1.a", b"cur/1.a:2,S", b"cur/2.b:2,"):
            self.put(name, b"Subject: x\n\n")
            os.truncate(self.path_of(name), (1 << 30) + 1)
        reads = []
        real = os.read

        def read(fd, size):
            reads.append(size)
            return real(fd, size)

        with mock.patch.object(os, "read", read), self.session() as mailbox:
            self.assertEqual([*mailbox.messages.octets], [0, 0, 0])
            self.assertEqual(len(set(uids_of(mailbox))), 3)
            with self.assertRaises(MaildropUnavailable) as refused:
                read_message(mailbox, 2)
            problem = f"{self.root}/ann/cur/2.b:2,: it has more than 1073741824 octets"
            self.assertEqual(str(refused.exception.__cause__), problem)
            result(mailbox.remove(mailbox.messages))
        self.assertLess(len(reads), 10)
        self.assertEqual(self.read_in_session(), [])

    def test_largest(self):
        """A message of exactly the limit is read."""
        self.patch(compressed, "MAX_OCTETS", 1 << 17)
        for name, octets in ((b"new/1.a", 1 << 17), (b"new/2.b", (1 << 17) + 1)):
            self.put(name, b"Subject: x\n\n" + bytes(octets - 12))
        with self.session() as mailbox:
            self.assertEqual([*mailbox.messages.octets], [(1 << 17) + 4, 0])

    def test_special_files(self):
        """A file that becomes a special file before it is counted is left out."""
        for make in SPECIAL_FILES.values():
            self.put(b"new/1.a")
            self.put(b"cur/2.b")

            def swap(make=make):
                os.unlink(self.path_of(b"new/1.a"))
                make(self.path_of(b"new/1.a"))

            with (
                mock.patch.object(folders, "times_of", return_value=(0, 0)),
                self.acting_during_scan([swap]),
                self.session() as mailbox,
            ):
                self.assertEqual(uids_of(mailbox), [b"2.b"])
            shutil.rmtree(self.path_of(b"new"))
            os.mkdir(self.path_of(b"new"))
