"""popserv.maildrops.maildir.quota_file: removals are subtracted in ``maildirsize`` (Maildir++)."""

import errno
import os
from unittest import mock

from popserv.errors import RemovalFailed
from popserv.maildrops.maildir import quota_file
from popserv.maildrops.maildir.store import MaildirMaildrops
from tests.maildrops.maildir.harness import (
    SPECIAL_FILES,
    MaildirCase,
    before_each_call,
    failing,
    result,
    run_inline,
)

QUOTA = b"1000000S,1000C\n"


class QuotaFileTests(MaildirCase):
    """The quota file of the Maildir's root."""

    def setUp(self):
        """Deliver three messages."""
        super().setUp()
        self.put(b"new/1.a", b"x" * 10)
        self.put(b"cur/2.b,S=200,W=210:2,S", b"x" * 20)
        self.put(b"cur/3.c;2,", b"x" * 40)
        self.quota_file = self.path_of(b"maildirsize")
        self.log = mock.Mock()
        self.patch(quota_file, "_log", self.log)

    def write(self, text):
        """Write the quota file."""
        self.put(b"maildirsize", text)

    def lines_after_removal(self, *positions):
        """Remove messages in a session; return the quota file."""
        with self.session() as mailbox:
            result(mailbox.remove([mailbox.messages[at] for at in positions]))
        with open(self.quota_file, "rb") as file:
            return file.read()

    def test_removal(self):
        """One line per QUIT subtracts the messages: their lengths, or what their names say."""
        self.write(QUOTA + b"250 3\n")
        self.assertEqual(self.lines_after_removal(0), QUOTA + b"250 3\n-10 -1\n")
        self.assertEqual(self.lines_after_removal(0, 1), QUOTA + b"250 3\n-10 -1\n-240 -2\n")

    def test_deliveries(self):
        """Messages that are delivered are added, except for those that are trashed."""
        self.write(QUOTA)
        maildir = os.open(self.path_of(b"."), os.O_RDONLY)
        self.addCleanup(os.close, maildir)
        for files in ([], [(b"9.x", 5), (b"9.y:2,T", 6), (b"9.z,S=7:2,S", 8)]):
            quota_file.record_deliveries(maildir, files)
        with open(self.quota_file, "rb") as file:
            self.assertEqual(file.read(), QUOTA + b"12 2\n")

    def test_folder(self):
        """A folder's removals are subtracted in the file of the Maildir that it is in."""
        self.write(QUOTA)
        for folder in (b".Sent/new", b".Sent/cur"):
            os.makedirs(self.path_of(folder))
        maildrops = MaildirMaildrops(f"{self.root}/%u/.Sent", run=run_inline)
        mark = self.path_of(b".Sent/maildirfolder")
        for make, line in (
            (lambda: None, b""),
            (lambda: os.mknod(mark), b"-3 -1\n"),
            (lambda: os.replace(mark, mark + b".old"), b"-3 -1\n"),
            (lambda: os.symlink("nowhere", mark), b"-3 -1\n-3 -1\n"),
        ):
            make()
            self.put(b".Sent/new/9.x", b"1\n\n")
            with self.session(maildrops=maildrops) as mailbox:
                result(mailbox.remove(mailbox.messages))
            with open(self.quota_file, "rb") as file:
                self.assertEqual(file.read(), QUOTA + line)

    def test_unchanged(self):
        """Without removals the file stays as it is."""
        self.write(QUOTA)
        before = os.stat(self.quota_file)
        self.assertEqual(self.lines_after_removal(), QUOTA)
        self.read_in_session()
        self.assertEqual(os.stat(self.quota_file), before)

    def test_only_removed(self):
        """Only files that this session has removed are counted, even if others remain."""
        self.write(QUOTA)
        os.chmod(self.path_of(b"new/1.a"), 0o400)
        with self.session() as mailbox:
            os.unlink(self.path_of(b"cur/3.c;2,"))
            with (
                failing(os, "unlink", PermissionError(13, "no"), lambda name: name == b"1.a"),
                self.assertRaises(RemovalFailed),
            ):
                result(mailbox.remove(mailbox.messages))
        with open(self.quota_file, "rb") as file:
            self.assertEqual(file.read(), QUOTA + b"-200 -1\n")

    def test_renamed(self):
        """What counts is the file that was removed, under the name that it then had."""
        self.write(QUOTA)
        with self.session() as mailbox:
            self.move(b"cur/2.b,S=200,W=210:2,S", b"cur/2.b,S=200,W=210:2,FS")
            result(mailbox.remove(mailbox.messages[1:2]))
        with open(self.quota_file, "rb") as file:
            self.assertEqual(file.read(), QUOTA + b"-200 -1\n")

    def test_trashed(self):
        """A file with the flag T is in no quota, so it is not subtracted."""
        self.write(QUOTA)
        self.move(b"cur/2.b,S=200,W=210:2,S", b"cur/2.b,S=200,W=210:2,ST")
        self.move(b"cur/3.c;2,", b"cur/3.c;2,T")
        self.assertEqual(self.lines_after_removal(1, 2), QUOTA)
        self.assertEqual(self.lines_after_removal(0), QUOTA + b"-10 -1\n")

    def test_no_line_end(self):
        """A last line without its end is ended first."""
        self.write(QUOTA + b"250 3")
        self.assertEqual(self.lines_after_removal(0), QUOTA + b"250 3\n-10 -1\n")

    def test_one_write(self):
        """A line is appended by one write, after what another program has appended meanwhile."""
        self.write(QUOTA)

        def append_other(fd):
            with open(self.quota_file, "ab") as file:
                file.write(b"5 1\n")

        with before_each_call(os, "write", append_other):
            self.assertEqual(self.lines_after_removal(0), QUOTA + b"5 1\n-10 -1\n")

    def test_long(self):
        """A file of more than 5120 octets, which readers calculate again, gets its line as well."""
        self.write(QUOTA + b"1 1\n" * 2000)
        self.assertTrue(self.lines_after_removal(0).endswith(b"\n1 1\n-10 -1\n"))

    def test_none(self):
        """No quota file is made, and none is missed."""
        with self.session() as mailbox:
            result(mailbox.remove(mailbox.messages))
        self.assertFalse(os.path.lexists(self.quota_file))
        self.assertEqual(self.log.warn.mock_calls, [])

    def test_empty(self):
        """An empty file has no quota in its first line, and stays empty."""
        self.write(b"")
        self.assertEqual(self.lines_after_removal(0), b"")
        self.assertEqual(self.log.warn.mock_calls, [])

    def test_may_be_recorded(self):
        """If a name cannot be examined, there may be a quota file or a folder mark."""
        maildir = os.open(self.path_of(b"."), os.O_RDONLY)
        self.addCleanup(os.close, maildir)
        self.assertFalse(quota_file.may_be_recorded(maildir))
        for name in (b"maildirsize", b"maildirfolder"):
            for kind, make in {**SPECIAL_FILES, "a file": os.mknod}.items():
                make(self.path_of(name))
                self.assertTrue(quota_file.may_be_recorded(maildir), kind)
                (os.rmdir if kind == "a directory" else os.unlink)(self.path_of(name))
            with failing(os, "stat", PermissionError(13, "no"), lambda at, name=name: at == name):
                self.assertTrue(quota_file.may_be_recorded(maildir))

    def test_special_files(self):
        """Only a regular file with one name is changed; if it is not, the log says so."""
        self.make_maildir(b"bob")
        self.put(b"target", QUOTA, user=b"bob")
        target = self.path_of(b"target", b"bob")
        kinds = {
            **SPECIAL_FILES,
            "a link to a file": lambda path: os.symlink("../bob/target", path),
            "a hard link": lambda path: os.link(target, path),
        }
        for number, (kind, make) in enumerate(kinds.items(), 1):
            make(self.quota_file)
            self.put(b"new/9.x")
            with self.session() as mailbox:
                result(mailbox.remove(mailbox.messages[-1:]))
            self.assertEqual(self.log.warn.call_count, number, kind)
            with self.session() as mailbox:
                quota_file.record_removals(mailbox.maildir_fd, [])
            self.assertEqual(self.log.warn.call_count, number, kind)
            self.assertNotIn(b"new/9.x", self.file_names())
            (os.rmdir if kind == "a directory" else os.unlink)(self.quota_file)
        with open(target, "rb") as file:
            self.assertEqual(file.read(), QUOTA)

    def test_write_fails(self):
        """If the line cannot be written whole, QUIT succeeds, and the log says so."""
        self.write(QUOTA)
        full = OSError(errno.ENOSPC, "full")
        with failing(os, "write", full, lambda _fd, line: line == b"-10 -1\n"):
            self.lines_after_removal(0)
        error = self.log.warn.call_args.kwargs["error"]
        self.assertEqual(str(error), f"{self.root}/ann/maildirsize: full")
        with mock.patch.object(os, "write", lambda _fd, line: len(line) - 1):
            self.lines_after_removal(0)
        self.assertEqual(self.log.warn.call_count, 2)
        self.assertEqual(self.file_names(), [b"cur/3.c;2,"])
