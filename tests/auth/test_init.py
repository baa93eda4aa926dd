"""Tests of popserv.auth as a package: what it exports, and what that imports."""

import importlib
import os
import subprocess
import sys
from types import FunctionType

from twisted.trial.unittest import SynchronousTestCase

import popserv

PACKAGES = ["popserv.auth", "popserv.auth.passwords", "popserv.auth.sasl"]


class ExportTests(SynchronousTestCase):
    """The names in ``__all__`` of the packages."""

    def test_exports(self):
        """Each name is exported from the module that defines it."""
        for package in map(importlib.import_module, PACKAGES):
            for name in package.__all__:
                value = getattr(package, name)
                if isinstance(value, (type, FunctionType)):
                    self.assertTrue(value.__module__.startswith(package.__name__), name)
                    self.assertIs(getattr(sys.modules[value.__module__], name), value, name)

    def test_unknown(self):
        """Another name is an AttributeError that names the package and the attribute."""
        for package in map(importlib.import_module, PACKAGES):
            error = self.assertRaises(AttributeError, getattr, package, "nothing")
            self.assertIn(f"module '{package.__name__}' has no attribute 'nothing'", str(error))

    def test_star(self):
        """All exported names can be imported by ``*``."""
        for package in PACKAGES:
            namespace = {}
            exec(f"from {package} import *", namespace)
            self.assertLessEqual(set(sys.modules[package].__all__), set(namespace))

    def test_light(self):
        """The users file can be read without importing a checker, a portal or a thread pool."""
        script = (
            "import sys, popserv.auth.passwords.users_file\n"
            "print(*(name for name in sys.modules if name.startswith('popserv.')))"
        )
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(popserv.__path__[0])}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, check=True, env=environment
        )
        imported = done.stdout.decode().split()
        self.assertIn("popserv.auth.names", imported)
        for name in ("auth.portal", "auth.passwords.checker", "auth.passwords.cache"):
            self.assertNotIn(f"popserv.{name}", imported)
