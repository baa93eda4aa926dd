"""Tests of popserv.options.pidfile; tests.live.test_container runs twistd."""

import os

from twisted.python.usage import Options as ParentOptions

from popserv.options.pidfile import remove_own_pidfile
from popserv.options.server import Options
from tests.options.harness import OptionsCase


class PidfileTests(OptionsCase):
    """A pidfile from an earlier run."""

    def test_remove(self):
        """Only a file with the ID of this process is removed."""
        own = os.getpid()
        for octets, is_removed in [
            (b"%d" % own, True),
            (b"%d\n" % own, True),
            (b"%d" % os.getppid(), False),
            (b"", False),
            (b"twistd", False),
            (b"\xff", False),
        ]:
            path = self.write("twistd.pid", octets)
            remove_own_pidfile(path)
            self.assertEqual(os.path.exists(path), not is_removed, octets)
        remove_own_pidfile(self.root)
        remove_own_pidfile(os.path.join(self.root, "missing"))

    def test_option(self):
        """The pidfile is that of twistd's --pidfile, if it has one."""
        for value in (self.write("twistd.pid", b"%d" % os.getpid()), ""):
            parent = ParentOptions()
            parent["pidfile"] = value
            options = Options()
            options.parent = parent
            options.parseOptions(["--maildir", self.root])
            self.assertFalse(os.path.exists(value))
        self.parse()
