"""popserv.maildrops.maildir.details: flags and times of message files."""

import errno
import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.details import flags_at, info_of
from popserv.maildrops.maildir.file_names import FLAGS_INFO
from popserv.messages.details import NO_DETAILS, Flags, MessageDetails
from tests.maildrops.maildir.harness import MaildirCase, failing

FLAGS = st.sets(st.sampled_from([*Flags])).map(lambda each: sum((f.value for f in each), 0))


class InfoTests(SynchronousTestCase):
    """Flags are letters in the info suffix."""

    @given(FLAGS.map(Flags), st.sampled_from(FLAGS_INFO))
    def test_inverse(self, flags, start):
        """The info suffix of flags has these flags, in the order of ASCII."""
        info = info_of(flags, start)
        self.assertEqual(flags_at(b"\1" + info), flags)
        self.assertEqual(bytes(sorted(info[3:])), info[3:])
        self.assertEqual(info == b"", flags == Flags.NONE)

    def test_other_info(self):
        """Unknown letters, and info that is no list of flags, have no flags."""
        for info, flags in (
            (b"", Flags.NONE),
            (b":1,SRF", Flags.NONE),
            (b":2,abSx", Flags.SEEN),
            (b":2,PT", Flags.FORWARDED | Flags.DELETED),
        ):
            self.assertEqual(flags_at(b"\1" + info), flags)


class DetailsTests(MaildirCase):
    """The details of the messages of a session."""

    def test_details(self):
        """Each has the time of its file and its flags, also if it was renamed or removed since."""
        for at, name in enumerate((b"cur/1.a:2,FS", b"new/2.b", b"cur/3.c:2,", b"cur/4.d:2,")):
            self.put(name)
            os.utime(self.path_of(name), (at, at))
        with self.session() as mailbox:
            self.move(b"new/2.b", b"cur/2.b:2,D")
            os.unlink(self.path_of(b"cur/3.c:2,"))
            expected = [
                MessageDetails(0, Flags.FLAGGED | Flags.SEEN),
                MessageDetails(1, Flags.DRAFT),
                NO_DETAILS,
                MessageDetails(3),
            ]
            self.assertEqual(mailbox.details(), expected)
            self.assertEqual(mailbox.details(), expected)

    def test_fault(self):
        """An error names the file with its whole path."""
        self.put(b"cur/1.a:2,")
        error = OSError(errno.EIO, "I/O error", b"1.a:2,")
        with self.session() as mailbox:
            faulty = failing(os, "stat", error, lambda name, *_: name == b"1.a:2,")
            with faulty, self.assertRaises(OSError) as failed:
                mailbox.details()
        path = os.fsdecode(self.path_of(b"cur/1.a:2,"))
        self.assertEqual(str(failed.exception), f"{os.path.abspath(path)}: I/O error")
