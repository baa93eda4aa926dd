"""The sdist and the wheel: their contents, and the twistd plugin after each kind of install."""

import os
import shutil
import sys
import tarfile
import zipfile
from functools import cache

from twisted.trial.unittest import SkipTest, TestCase

from popserv import __version__
from tests.live.harness import BIN, CHECKOUT, run, temporary_directory

GENERATED = (".git", ".venv", "*.egg-info", "build", "dist", "_build", "sample", "__pycache__")
GENERATED += ("_trial_temp*", ".coverage*", ".*_cache", ".hypothesis", "dropin.cache", "*.so")
"""Generated files in a checkout."""


def check_output(*command, **options):
    """Run a program; return its output.

    :raises AssertionError: it failed.
    """
    done = run(*command, **options)
    if done.returncode:
        raise AssertionError(f"{command}:\n{(done.stdout + done.stderr).decode()}")
    return done.stdout.decode()


def copy_checkout():
    """Return a copy of the checkout, so that nothing is built in the checkout itself."""
    copy = temporary_directory() / "copy"
    shutil.copytree(CHECKOUT, copy, ignore=shutil.ignore_patterns(*GENERATED))
    return copy


def build(mask):
    """Build in a new directory with this umask, and files of another time.

    Return the names of the checkout's files, the sdist, and the wheel built from it.
    """
    if not (BIN / "pyproject-build").exists():
        raise SkipTest("build is not installed")
    out = temporary_directory()
    copy = out / "source" / f"{mask:o}"
    shutil.copytree(copy_checkout(), copy)
    source_files = {str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file()}
    for path in copy.rglob("*"):
        path.chmod(path.stat().st_mode & ~mask)
        os.utime(path, (mask, mask))
    check_output(
        *("pyproject-build", "--outdir", out / "dist", copy),
        umask=mask,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )
    sdist, wheel = sorted((out / "dist").iterdir(), key=lambda path: path.suffix)
    return source_files, sdist, wheel


@cache
def first_build():
    """Return what the first build has made."""
    return build(0o022)


class PackageTests(TestCase):
    """The contents of the packages."""

    def test_sdist(self):
        """The sdist contains the checkout, including tests, docs and examples."""
        source_files, sdist, _ = first_build()
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        folders = ("popserv/", "twisted/", "tests/", "docs/", "man/", "contrib/", "completions/")
        folders += ("examples/", "newsfragments/", "debian/")
        expected = {name for name in source_files if name.startswith(folders)}
        expected |= {"Makefile", "LICENSE", "README.rst", "CHANGELOG.rst", "pyproject.toml"}
        self.assertEqual({name for name in expected - names if ".gitignore" not in name}, set())

    def test_wheel(self):
        """The wheel has the code, the module in C, the plugins, manual pages and completions."""
        source_files, _, wheel = first_build()
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
        expected = {name for name in source_files if name.startswith(("popserv/", "twisted/"))}
        self.assertTrue({"popserv/py.typed", "twisted/plugins/popserv_plugin.py"} <= expected)
        expected -= {"popserv/_speedups.c"}
        expected |= {"popserv/_speedups.abi3.so"}
        shared = ("man/man1/popserv.1", "man/man8/twistd-pop3.8", "zsh/site-functions/_popserv")
        shared += tuple(f"bash-completion/completions/{name}" for name in ("popserv", "twistd"))
        expected |= {f"popserv-{__version__}.data/data/share/{path}" for path in shared}
        metadata = f"popserv-{__version__}.dist-info/"
        self.assertEqual({name for name in names if not name.startswith(metadata)}, expected)
        self.assertIn(f"{metadata}entry_points.txt", names)


class ReproducibleTests(TestCase):
    """Two builds of one version."""

    def test_same(self):
        """Both builds have the same octets, whatever directory, times and umask they have."""
        for one, other in zip(first_build()[1:], build(0o077)[1:], strict=True):
            self.assertEqual(one.name, other.name)
            self.assertTrue(one.read_bytes() == other.read_bytes(), one.name)


HAS_SPEEDUPS = "from popserv.runtime import speedups; print(speedups.SPEEDUPS is not None)"


class InstallTests(TestCase):
    """Installations in an empty environment, used from another directory."""

    def assert_installs(self, *arguments, speedups=True, **options):
        """Install with pip; twistd must list the plugin, and the commands print the version."""
        home = temporary_directory(self)
        check_output(sys.executable, "-m", "venv", home / "venv")
        programs = home / "venv" / "bin"
        install = (programs / "python", "-m", "pip", "install", "--quiet", *arguments)
        check_output(*install, cwd=home, **options)
        has_speedups = check_output(programs / "python", "-c", HAS_SPEEDUPS, cwd=home)
        self.assertEqual(has_speedups, f"{speedups}\n")
        self.assertRegex(check_output(programs / "twistd", "--help", cwd=home), r"(?m)^ +pop3 +\S")
        for command in ((programs / "twistd", "pop3"), (programs / "popserv",)):
            output = check_output(*command, "--version", cwd=home)
            self.assertEqual(output, f"popserv {__version__}\n")

    def test_wheel(self):
        """Twistd finds the plugin of the wheel."""
        self.assert_installs(first_build()[-1])

    def test_editable(self):
        """Twistd finds the plugin of an editable install."""
        self.assert_installs("--editable", copy_checkout())

    def test_without_compiler(self):
        """If the module in C cannot be built, popserv is installed without it."""
        self.assert_installs(copy_checkout(), speedups=False, env={**os.environ, "CC": "false"})
