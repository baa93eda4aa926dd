"""Tests of popserv.runtime.extras."""

import shlex
import sys
from configparser import ConfigParser
from pathlib import Path
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.extras import EXTRAS, how_to_install

ROOT = Path(__file__).resolve().parents[2]


class ExtrasTests(SynchronousTestCase):
    """The commands in error messages."""

    def test_requirements(self):
        """They are those of setup.cfg, with those of other extras in their place."""
        config = ConfigParser()
        config.read(ROOT / "setup.cfg")
        declared = config["options.extras_require"]

        def requirements(extra):
            for line in declared[extra].split("\n"):
                if line.startswith("popserv["):
                    yield from requirements(line[len("popserv[") : -1])
                elif line:
                    # Markers say on which Pythons it is required.
                    yield line.partition(";")[0].replace(" ", "")

        for extra, packages in EXTRAS.items():
            self.assertEqual(packages, tuple(requirements(extra)))

    def test_command(self):
        """The command is for the Python that runs, and a shell can run it."""
        command = shlex.split(how_to_install("oauth"))
        self.assertEqual(command[:4], [sys.executable, "-m", "pip", "install"])
        self.assertEqual(tuple(command[4:]), EXTRAS["oauth"])
        with patch.object(sys, "executable", ""):
            self.assertTrue(how_to_install("tls").startswith("python3 -m pip install "))
