"""Tests of popserv.pytest_plugin, in the process of the tests and with pytest itself."""

import os
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import EntryPoint

from twisted.trial.unittest import SynchronousTestCase

from popserv import pytest_plugin
from popserv.testing import RunningServer
from tests.docs.harness import ROOT

TESTS = """
import poplib
import sys

def test_servers(pop3_server):
    first = pop3_server({"ann": "secret"}, mail={"ann": [b"one"]})
    second = pop3_server({"bob": "secret"})
    assert poplib.POP3(first.host, first.port).quit().startswith(b"+OK")
    assert (first.commands(), second.commands()) == (["QUIT"], [])

def test_nothing_imported():
    assert not [name for name in sys.modules if name.startswith("twisted")]
"""


class PytestPluginTests(SynchronousTestCase):
    """The fixture starts servers, and stops them after the test."""

    def test_fixture(self):
        """The function returns running servers; the end of the test stops all of them."""
        running = pytest_plugin.start_servers()
        start = next(running)
        servers = [start({"ann": "secret"}, tls=True), start({"ann": "secret"})]
        for server in servers:
            self.assertIsInstance(server, RunningServer)
            self.assertEqual(server.commands(), [])
        self.assertRaises(StopIteration, next, running)
        for server in servers:
            self.assertIsNotNone(server._last_state)

    def test_entry_point(self):
        """Pytest finds the plugin by its entry point, which names the module."""
        config = ConfigParser()
        config.read(ROOT / "setup.cfg")
        name, _, value = config["options.entry_points"]["pytest11"].strip().partition(" = ")
        self.assertIs(EntryPoint(name, value, "pytest11").load(), pytest_plugin)

    def test_pytest(self):
        """Pytest has the fixture, and imports nothing of Twisted for tests that do not use it."""
        directory = self.mktemp()
        os.mkdir(directory)
        with open(os.path.join(directory, "test_it.py"), "w") as file:
            file.write(TESTS)
        for arguments in (["-k", "servers"], ["-k", "nothing"]):
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-p", "popserv.pytest_plugin", *arguments],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                capture_output=True,
                check=False,
            )
            self.assertEqual(done.returncode, 0, done.stdout.decode())
            self.assertIn(b"1 passed, 1 deselected", done.stdout)
