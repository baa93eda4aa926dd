"""What is installed is what is here: wheel, sdist and editable install, each in a new place."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from popserv import __version__
from tests.live.harness import CHECKOUT, temporary_directory

LEFT_OUT = shutil.ignore_patterns(
    ".*", "*.egg-info", "__pycache__", "_trial_temp*", "_build", "build", "dist", "sample"
)


def run(*command, cwd):
    """Run a command elsewhere than here; return what it prints."""
    # Nothing of the environment that runs the tests shows through.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True
    )
    if done.returncode:
        raise AssertionError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


class PackagingTests(SynchronousTestCase):
    """Each kind of package gives twistd its pop3, from whatever directory."""

    def setUp(self):
        """Copy the checkout, so that building leaves nothing in it."""
        self.place = temporary_directory(self)
        self.source = self.place / "source"
        shutil.copytree(CHECKOUT, self.source, ignore=LEFT_OUT)

    def environment(self, *packages):
        """Return the bin directory of a new environment with these packages alone."""
        path = self.place / "environment"
        venv.create(path, with_pip=True)
        pip = [path / "bin" / "python", "-m", "pip", "install", "--quiet"]
        run(*pip, "--disable-pip-version-check", *packages, cwd=self.place)
        return path / "bin"

    def build(self, kind):
        """Return the path of a new package."""
        run(sys.executable, "-m", "build", f"--{kind}", "-o", self.place, self.source, cwd="/")
        (package,) = self.place.glob("popserv-*")
        return package

    def assert_works(self, programs):
        """Check that twistd lists and runs pop3, and popserv runs, from another directory."""
        elsewhere = temporary_directory(self)
        self.assertIn("pop3", run(programs / "twistd", "--help", cwd=elsewhere))
        for command in (["twistd", "pop3", "--version"], ["popserv", "--version"]):
            said = run(programs / command[0], *command[1:], cwd=elsewhere)
            self.assertEqual(said, f"popserv {__version__}\n")
        help_auth = run(programs / "twistd", "pop3", "--help-auth", cwd=elsewhere)
        self.assertIn("passwd-file", help_auth)

    def test_wheel(self):
        """A wheel holds what runs and no more, and works."""
        wheel = self.build("wheel")
        names = set(zipfile.ZipFile(wheel).namelist())
        modules = {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("popserv/**/*.py")}
        self.assertLessEqual(modules | {"popserv/py.typed"}, names)
        self.assertIn("twisted/plugins/popserv_plugin.py", names)
        self.assertNotIn("twisted/__init__.py", names)
        tops = {Path(name).parts[0] for name in names}
        self.assertEqual(tops, {"popserv", "twisted", f"popserv-{__version__}.dist-info"})
        self.assert_works(self.environment(wheel))

    def test_sdist(self):
        """An sdist holds the tests, the documents and the examples."""
        with tarfile.open(self.build("sdist")) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        for wanted in (
            "tests/test_wire.py",
            "tests/live/harness.py",
            "tests/transcripts/rfc1725_section_9.txt",
            "docs/conf.py",
            "docs/index.rst",
            "examples/sample_maildrop.py",
            "LICENSE",
            "CHANGELOG.rst",
            "Makefile",
            "popserv/py.typed",
        ):
            self.assertIn(wanted, names)

    def test_editable(self):
        """An editable install shows twistd the plugin, too."""
        self.assert_works(self.environment("--editable", self.source))
