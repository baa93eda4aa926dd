"""popserv.maildrops.path_problems; the tests of layout and store have more of its texts."""

import errno
import os
import pwd
import socket
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.path_problems import (
    UnusablePath,
    explain_change,
    explain_directory,
    explain_file,
    explain_in_directory,
    explain_maildrop,
)

ME = pwd.getpwuid(os.geteuid()).pw_name


class PathProblemsTests(SynchronousTestCase):
    """A directory, and what is in it."""

    def setUp(self):
        """Make the directory."""
        self.root = os.path.abspath(self.mktemp())
        os.makedirs(self.root, 0o755)

    def path(self, *parts):
        """Return the path of parts below the directory."""
        return os.path.join(self.root, *parts)

    def denying(self, *denied):
        """Deny this process the search of some directories, as the kernel does not for root."""
        real = {name: getattr(os, name) for name in ("stat", "lstat", "access")}

        def hidden(path):
            return any(os.fsdecode(path).startswith(each + "/") for each in denied)

        def examine(name):
            def function(path, *arguments):
                if hidden(path):
                    raise PermissionError(errno.EACCES, "Permission denied")
                return real[name](path, *arguments)

            return function

        def access(path, mode, *, dir_fd, effective_ids):
            return path not in denied and not hidden(path) and real["access"](path, mode)

        return patch.multiple(os, stat=examine("stat"), lstat=examine("lstat"), access=access)

    def explain(self, code, *parts, root=None):
        """Return the text of the error for a maildrop, and check the error."""
        error = explain_maildrop(
            OSError(code, os.strerror(code)),
            os.fsencode(root or self.root),
            [os.fsencode(part) for part in parts],
        )
        self.assertIsInstance(error, UnusablePath)
        self.assertEqual(error.errno, code)
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_fault(self):
        """A fault of the disk is the reason, whatever the path is."""
        with open(self.path("ann"), "wb"):
            pass
        for user in ("ann", "bob"):
            text = self.explain(errno.EIO, user)
            self.assertEqual(text, f"{self.path(user)}: {os.strerror(errno.EIO)}")

    def test_not_searchable(self):
        """The first directory that cannot be searched is named, with its owner and mode."""
        os.makedirs(self.path("a", "b", "joe"))
        os.chmod(self.path("a"), 0o700)
        text = (
            f"the directory {self.path('a')} cannot be searched by user {ME}; "
            f"it belongs to {ME} and has mode 0700"
        )
        with self.denying(self.path("a")):
            self.assertEqual(self.explain(errno.EACCES, "a", "b", "joe"), text)
            self.assertEqual(self.explain(errno.EACCES, "joe", root=self.path("a", "b")), text)
            self.assertEqual(explain_directory(self.path("a", "b")), text)
            self.assertEqual(explain_directory(self.path("a")), text)

    def test_faulty_directory(self):
        """A directory that cannot be searched because of a fault is no matter of permissions."""
        real = os.stat

        def stat(path, *arguments):
            if path.endswith("/."):
                raise OSError(errno.EIO, "broken")
            return real(path, *arguments)

        with patch.object(os, "stat", stat):
            self.assertEqual(explain_directory(self.root), f"{self.root}: broken")

    def test_not_readable(self):
        """A maildrop that cannot be read is named, with its owner and mode."""
        os.makedirs(self.path("joe"))
        os.chmod(self.path("joe"), 0o711)
        self.assertEqual(
            self.explain(errno.EACCES, "joe"),
            f"{self.path('joe')} cannot be read by user {ME}; it belongs to {ME} and has mode 0711",
        )

    def test_nothing_found(self):
        """If nothing is wrong any more, or the reason is another one, the error's text is kept."""
        os.makedirs(self.path("joe"))
        self.assertEqual(
            self.explain(errno.EMFILE, "joe"), f"{self.path('joe')}: Too many open files"
        )
        self.assertEqual(
            self.explain(errno.ENOTDIR, "joe", "x"),
            f"{self.path('joe', 'x')}: No such file or directory",
        )

    def test_printable(self):
        """What is not printable in a path is escaped, so that no path can forge a line."""
        for name, shown in (("a\nb", r"a\nb"), (b"\xff", r"\xff"), ("\u2028ä", r"\u2028ä")):
            path = os.path.join(os.fsencode(self.root), os.fsencode(name))
            os.close(os.open(path, os.O_CREAT))
            self.assertEqual(
                self.explain(errno.ENOTDIR, name),
                f"{self.path(shown)} is a file, an mbox perhaps",
            )
        long = "a" * 255
        self.assertEqual(
            self.explain(errno.ENOENT, *[long] * 10),
            f"{self.path(long)}: No such file or directory",
        )

    def test_other_files(self):
        """What is neither a file nor a link is not a directory."""
        with socket.socket(socket.AF_UNIX) as listening:
            self.addCleanup(os.chdir, os.getcwd())
            os.chdir(self.root)
            listening.bind("joe")
        for root, parts in ((self.root, ("joe",)), (self.path("joe"), ("x",))):
            self.assertEqual(
                self.explain(errno.ENOTDIR, *parts, root=root),
                f"{self.path('joe')} is not a directory",
            )

    def test_directories(self):
        """A directory, or a link to one, that can be searched has no problem."""
        os.symlink(self.root, self.path("link"))
        self.assertIsNone(explain_directory(self.root))
        self.assertIsNone(explain_directory(self.path("link")))
        os.symlink("link2", self.path("link2"))
        for path, problem in [
            ("nosuch", f"the directory {self.path('nosuch')} does not exist; create it"),
            ("link2", f"{self.path('link2')}: Too many levels of symbolic links"),
        ]:
            self.assertEqual(explain_directory(self.path(path)), problem)

    def test_in_directory(self):
        """The path of an open directory is found; without /proc, the name stands alone."""
        fd = os.open(self.root, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        error = OSError(errno.EIO, "Input/output error")
        for name, path in ((b"new", self.path("new")), (None, self.root), (7, self.root)):
            self.assertEqual(
                str(explain_in_directory(error, fd, name)), f"{path}: Input/output error"
            )
        with patch.object(os, "readlink", side_effect=FileNotFoundError):
            self.assertEqual(
                str(explain_in_directory(error, fd, b"new")), "new: Input/output error"
            )
        vanished = OSError(errno.ENOTDIR, "Not a directory")
        self.assertEqual(
            str(explain_in_directory(vanished, fd, b"x")), f"{self.path('x')}: Not a directory"
        )
        hidden = OSError(errno.EACCES, "Permission denied")
        with patch.object(os, "stat", side_effect=hidden):
            self.assertEqual(
                str(explain_in_directory(hidden, fd, b"x")),
                f"{self.path('x')} cannot be read by user {ME}",
            )

    def test_change(self):
        """What cannot be changed is named, with the user who lacks the permission."""
        fd = os.open(self.root, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        os.symlink("x", self.path("link"))
        for code, name, text in (
            (errno.ENOSPC, b"x", f"{self.path('x')}: No space left on device"),
            (errno.EACCES, b"x", f"{self.path('x')}: Permission denied for user {ME}"),
            (errno.EROFS, None, f"{self.root}: Read-only file system"),
            (
                errno.ELOOP,
                b"link",
                f"{self.path('link')} is a symbolic link that belongs to {ME}",
            ),
        ):
            error = explain_change(OSError(code, os.strerror(code)), fd, name)
            self.assertEqual((error.errno, str(error)), (code, text))
            # One that is explained stays as it is.
            self.assertIs(explain_change(error, fd, b"y"), error)
            self.assertIs(explain_in_directory(error, fd, b"y"), error)
            self.assertIs(explain_file(error, fd), error)

    def test_open_file(self):
        """An open file is named; without /proc, by the name that is given, if there is one."""
        with open(self.path("x"), "wb") as file:
            error = OSError(errno.EIO, "broken")
            self.assertEqual(str(explain_file(error, file.fileno())), f"{self.path('x')}: broken")
            with patch.object(os, "readlink", side_effect=FileNotFoundError):
                self.assertEqual(str(explain_file(error, file.fileno(), b"x")), "x: broken")
                self.assertEqual(str(explain_file(error, file.fileno())), "an open file: broken")
                in_directory = explain_in_directory(error, file.fileno())
                self.assertEqual(str(in_directory), "an open directory: broken")
                in_directory = explain_in_directory(error, file.fileno(), b"x")
                self.assertEqual(str(in_directory), "x: broken")
