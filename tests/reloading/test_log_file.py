"""popserv.reloading.log_file: what other programs do to a log file, and what is in it then."""

import errno
import os
import stat
import threading
from unittest.mock import patch

from twisted.logger import ILogObserver
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.reloading.log_file import LogFile


class LogFileTests(SynchronousTestCase):
    """A log file, and its directory."""

    def setUp(self):
        """Open the file."""
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory)
        self.path = os.path.join(self.directory, "log")
        self.log_file = self.open(os.path.relpath(self.path))

    def open(self, *arguments):
        """Return a LogFile, which is closed after the test."""
        log_file = LogFile(*arguments)
        self.addCleanup(log_file._file.close)
        return log_file

    def log(self, *texts):
        """Log events with these texts."""
        for text in texts:
            self.log_file.observer({"log_format": "{text}", "text": text, "log_time": 0.0})

    def read(self, name="log"):
        """Return the messages in a file."""
        with open(os.path.join(self.directory, name), encoding="utf-8") as file:
            return [line.partition("] ")[2].rstrip("\n") for line in file]

    def rename(self):
        """Rename the file, as logrotate does."""
        os.rename(self.path, self.path + ".1")

    def test_append(self):
        """The file is created or continued, under its absolute path, and is not inherited."""
        verifyObject(ILogObserver, self.log_file.observer)
        self.assertEqual(self.log_file.path, self.path)
        self.log("ä")
        self.log_file = self.open(self.path)
        self.log("b")
        self.assertEqual(self.read(), ["ä", "b"])
        self.assertFalse(os.get_inheritable(self.log_file._file.fileno()))

    def test_cannot_open(self):
        """A file that cannot be opened is an error."""
        self.assertRaises(NotADirectoryError, LogFile, self.path + "/log")

    def test_truncated(self):
        """After a truncation the file starts with the next line."""
        self.log("a" * 1000)
        os.truncate(self.path, 0)
        self.log("b")
        self.log_file.reopen()
        self.log("c")
        self.assertEqual(self.read(), ["b", "c"])

    def test_renamed(self):
        """Until it is reopened, a renamed file gets the lines; then the new file gets them."""
        for new_mode in (None, 0o604):
            self.log("a")
            os.chmod(self.path, 0o640)
            self.rename()
            self.log("b")
            if new_mode:
                os.close(os.open(self.path, os.O_CREAT))
                os.chmod(self.path, new_mode)
            umask = os.umask(0o077)
            self.log_file.reopen()
            os.umask(umask)
            self.log("c")
            self.assertEqual((self.read("log.1"), self.read()), (["a", "b"], ["c"]))
            mode = stat.S_IMODE(os.stat(self.path).st_mode)
            self.assertEqual(mode, new_mode or 0o640)
            self.assertFalse(os.get_inheritable(self.log_file._file.fileno()))
            os.truncate(self.path, 0)

    def test_descriptors(self):
        """Reopening leaves no other file open, whether it succeeds or not."""
        before = len(os.listdir("/dev/fd"))
        self.rename()
        self.log_file.reopen()
        self.rename()
        with patch("os.fchmod", side_effect=OSError(errno.EPERM, "no")):
            self.assertRaises(OSError, self.log_file.reopen)
        self.assertEqual(len(os.listdir("/dev/fd")), before)

    def test_cannot_reopen(self):
        """If the new file cannot be opened, the log continues in the previous one."""
        self.log("a")
        self.rename()
        os.mkdir(self.path)
        self.assertRaises(IsADirectoryError, self.log_file.reopen)
        self.log("b")
        self.assertEqual(self.read("log.1"), ["a", "b"])

    def test_threads(self):
        """No line is lost that another thread logs meanwhile."""
        expected = [str(number) for number in range(2000)]
        thread = threading.Thread(target=self.log, args=expected)
        thread.start()
        rotated = 0
        while thread.is_alive():
            rotated += 1
            os.rename(self.path, f"{self.path}.{rotated}")
            self.log_file.reopen()
        thread.join()
        names = [*(f"log.{number + 1}" for number in range(rotated)), "log"]
        self.assertEqual([line for name in names for line in self.read(name)], expected)

    def test_chroot(self):
        """Below --chroot, the file is reopened under the path that it has there."""
        cases = [("jail/var/log", [("/var/log",)]), ("log", []), ("jail2/log", [])]
        for path, expected in cases:
            path = os.path.join(self.directory, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            log_file = self.open(path, os.path.join(self.directory, "jail"))
            found = os.stat(path)
            with patch("popserv.reloading.log_file.os.stat", return_value=found) as examined:
                if expected:
                    log_file.reopen()
                else:
                    error = self.assertRaises(FileNotFoundError, log_file.reopen)
                    self.assertIn("outside of the directory of --chroot", str(error))
            self.assertEqual([call.args for call in examined.call_args_list], expected)
