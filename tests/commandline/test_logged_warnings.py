"""Tests of popserv.commandline.logged_warnings."""

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline.logged_warnings import logged_warnings


class LoggedWarningsTests(SynchronousTestCase):
    """What is collected."""

    def test_lines(self):
        """Warnings and errors are collected as one line each, also if parsing fails."""
        log = Logger("test")
        with self.assertRaises(ValueError), logged_warnings() as lines:
            log.info("no")
            log.warn("first\nline")
            log.critical("second")
            raise ValueError
        log.warn("too late")
        self.assertEqual(len(lines), 2)
        self.assertNotIn("\n", lines[0])
        self.assertEqual(lines[1], "second")
