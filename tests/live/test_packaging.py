"""The packages: what is in them, and that twistd finds the plugin in each kind of install."""

import shutil
import sys
import tarfile
import zipfile
from functools import cache

from twisted.trial.unittest import SkipTest, TestCase

from popserv import __version__
from tests.live.harness import BIN, CHECKOUT, run, temporary_directory

LEAVE = (".git", ".venv", "*.egg-info", "build", "dist", "_build", "sample", "__pycache__")
LEAVE += ("_trial_temp*", ".coverage*", ".*_cache", ".hypothesis", "dropin.cache")
"""What in a checkout was made and not written."""


def must_run(*command, **options):
    """Run a program of another environment; raise if it fails."""
    done = run(*command, **options)
    if done.returncode:
        raise AssertionError(f"{command}:\n{(done.stdout + done.stderr).decode()}")
    return done.stdout.decode()


def copied():
    """Return a new copy of the checkout, so that nothing is built in the checkout itself."""
    copy = temporary_directory() / "copy"
    shutil.copytree(CHECKOUT, copy, ignore=shutil.ignore_patterns(*LEAVE))
    return copy


@cache
def built():
    """Return the names of the checkout's files, an sdist, and the wheel built from that."""
    copy, out = copied(), temporary_directory()
    written = {str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file()}
    if not (BIN / "pyproject-build").exists():
        raise SkipTest("build is not installed")
    must_run("pyproject-build", "--outdir", out, copy, cwd=out)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return written, sdist, wheel


class PackageTests(TestCase):
    """What the packages hold."""

    def test_sdist(self):
        """The sdist holds all that the checkout does, tests, docs and examples included."""
        written, sdist, _ = built()
        with tarfile.open(sdist) as archive:
            held = {name.partition("/")[2] for name in archive.getnames()}
        folders = ("popserv/", "twisted/", "tests/", "docs/", "man/", "examples/", "newsfragments/")
        wanted = {name for name in written if name.startswith(folders)}
        wanted |= {"Makefile", "LICENSE", "README.rst", "CHANGELOG.rst", "pyproject.toml"}
        self.assertEqual({name for name in wanted - held if ".gitignore" not in name}, set())

    def test_wheel(self):
        """The wheel holds the code, its type marker, the plugin and the manual pages alone."""
        written, _, wheel = built()
        with zipfile.ZipFile(wheel) as archive:
            held = set(archive.namelist())
        wanted = {name for name in written if name.startswith(("popserv/", "twisted/"))}
        self.assertTrue({"popserv/py.typed", "twisted/plugins/popserv_plugin.py"} <= wanted)
        wanted |= {
            f"popserv-{__version__}.data/data/share/man/{section}/{page}"
            for section, page in (("man1", "popserv.1"), ("man8", "twistd-pop3.8"))
        }
        metadata = f"popserv-{__version__}.dist-info/"
        self.assertEqual({name for name in held if not name.startswith(metadata)}, wanted)
        self.assertIn(f"{metadata}entry_points.txt", held)


class InstallTests(TestCase):
    """Installs in an empty environment, used from another directory."""

    def assert_installs(self, *what):
        """Install it, and have twistd list it and tell its version."""
        home = temporary_directory(self)
        must_run(sys.executable, "-m", "venv", home / "venv")
        programs = home / "venv" / "bin"
        must_run(programs / "python", "-m", "pip", "install", "--quiet", *what, cwd=home)
        self.assertRegex(must_run(programs / "twistd", "--help", cwd=home), r"(?m)^ +pop3 +\S")
        for command in ((programs / "twistd", "pop3"), (programs / "popserv",)):
            said = must_run(*command, "--version", cwd=home)
            self.assertEqual(said, f"popserv {__version__}\n")

    def test_wheel(self):
        """The wheel's plugin is found."""
        self.assert_installs(built()[-1])

    def test_editable(self):
        """An editable install's plugin is found, too."""
        self.assert_installs("--editable", copied())
