"""Releases: their contents, signature and SBOM, the libraries, and each kind of install."""

import json
import os
import re
import shutil
import sys
import tarfile
import zipfile
from functools import cache
from hashlib import sha256

from packaging.utils import canonicalize_name
from twisted.trial.unittest import SkipTest, TestCase

from popserv import __version__
from tests.docs.harness import DOCS, blocks
from tests.live.guide import Guide
from tests.live.harness import BIN, CHECKOUT, run, temporary_directory
from tests.live.test_requirements import MINORS, applies, read_requirements

GENERATED = (".git", ".venv", "*.egg-info", "build", "dist", "_build", "sample", "__pycache__")
GENERATED += ("_trial_temp*", ".coverage*", ".*_cache", ".hypothesis", "dropin.cache", "*.so")
GENERATED += (".nox",)
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


@cache
def signing_key():
    """Return the path of a new key of ssh."""
    path = temporary_directory() / "key"
    check_output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
    return path


def make_dist(copy, *arguments, **options):
    """Run make dist in a copy of the checkout, with the environment that runs the tests.

    Return the completed process.
    """
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    environment["SOURCE_DATE_EPOCH"] = "1700000000"
    make = ("make", "-C", copy, "dist", "-o", ".venv/dev", f"BIN={BIN}", *arguments)
    return run(*make, env=environment, **options)


def build(mask):
    """Build a signed release in a new directory with this umask, and files of another time.

    Return the names of the checkout's files, and the directory of the release.
    """
    for name in ("pyproject-build", "ssh-keygen", "make"):
        if not ((BIN / name).exists() or shutil.which(name)):
            raise SkipTest(f"{name} is not installed")
    copy = temporary_directory() / "source" / f"{mask:o}"
    shutil.copytree(copy_checkout(), copy)
    source_files = {str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file()}
    for path in copy.rglob("*"):
        path.chmod(path.stat().st_mode & ~mask)
        os.utime(path, (mask, mask))
    done = make_dist(copy, f"KEY={signing_key()}", umask=mask)
    if done.returncode:
        raise AssertionError((done.stdout + done.stderr).decode())
    return source_files, copy / "dist"


@cache
def first_build():
    """Return the names of the checkout's files, and the directory of the first release."""
    return build(0o022)


def built(pattern):
    """Return the file of the first release whose name has this pattern."""
    (found,) = first_build()[1].glob(pattern)
    return found


class PackageTests(TestCase):
    """The contents of the packages."""

    def test_sdist(self):
        """The sdist contains the checkout, including tests, docs and examples."""
        source_files, _ = first_build()
        with tarfile.open(built("*.tar.gz")) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        folders = ("popserv/", "twisted/", "tests/", "docs/", "man/", "contrib/", "completions/")
        folders += ("examples/", "newsfragments/", "debian/", "release/", "requirements/")
        expected = {name for name in source_files if name.startswith(folders)}
        expected |= {"Makefile", "LICENSE", "README.rst", "CHANGELOG.rst", "pyproject.toml"}
        self.assertEqual({name for name in expected - names if ".gitignore" not in name}, set())

    def test_wheel(self):
        """The wheel has the code, the module in C, the plugins, manual pages and completions."""
        source_files, _ = first_build()
        with zipfile.ZipFile(built("*.whl")) as archive:
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
        """Both releases have the same octets, whatever directory, times and umask they have."""
        builds = (first_build(), build(0o077))
        one, other = ({path.name: path for path in files.iterdir()} for _, files in builds)
        self.assertEqual(sorted(one), sorted(other))
        for name in one:
            self.assertTrue(one[name].read_bytes() == other[name].read_bytes(), name)


FINGERPRINT = "SHA256:mQ8X"
"""The fingerprint of the maintainers' key in the guide."""


class SignatureTests(TestCase):
    """The guide on verifying releases."""

    def setUp(self):
        """Copy the first release, and write down who may sign."""
        self.directory = temporary_directory(self) / "release"
        shutil.copytree(first_build()[1], self.directory)
        public = signing_key().with_suffix(".pub")
        kind, key, _ = public.read_text().split()
        allowed = f'popserv namespaces="file" {kind} {key}\n'
        (self.directory / "allowed_signers").write_text(allowed)
        fingerprint = check_output("ssh-keygen", "-l", "-f", public).split()[1]
        replaced = {FINGERPRINT: fingerprint, "26.11.0": __version__}
        self.guide = Guide(self, "verify", replaced, self.directory)

    def test_release(self):
        """The commands of the guide accept a release."""
        self.guide.run("verify")

    def test_changed(self):
        """They refuse a changed file, changed hashes, and a key of somebody else."""
        sums = (self.directory / "SHA256SUMS").read_bytes()
        names = [line.split()[1].decode() for line in sums.splitlines()]
        others = {"SHA256SUMS", "SHA256SUMS.sig", "allowed_signers"}
        self.assertEqual({path.name for path in self.directory.iterdir()}, {*names, *others})
        for name in (*names, *others):
            path = self.directory / name
            content = path.read_bytes()
            changed = bytearray(content)
            changed[len(content) // 2] ^= 1
            path.write_bytes(changed)
            with self.subTest(name=name):
                self.assertRaises(self.failureException, self.guide.run, "verify")
            path.write_bytes(content)
        self.guide.run("verify")

    def test_no_key(self):
        """Without a key, make dist says that nothing is signed, and what to do."""
        done = make_dist(CHECKOUT, "--dry-run")
        self.assertIn(b"is not signed: name a key of ssh, as in make dist KEY=", done.stdout)
        self.assertNotIn(b"ssh-keygen", done.stdout)


class SBOMTests(TestCase):
    """The software bill of materials."""

    def setUp(self):
        """Read it."""
        self.text = built("*.cdx.json").read_text()
        self.bom = json.loads(self.text)

    def test_schema(self):
        """It is valid in the schema of CycloneDX 1.6."""
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        validator = JsonStrictValidator(SchemaVersion.V1_6)
        self.assertIsNone(validator.validate_str(self.text))
        self.assertIsNotNone(validator.validate_str(self.text.replace('"library"', '"book"')))

    def test_wheel(self):
        """It is about the wheel of the release."""
        about = self.bom["metadata"]["component"]
        digest = sha256(built("*.whl").read_bytes()).hexdigest()
        self.assertEqual((about["name"], about["version"]), ("popserv", __version__))
        self.assertEqual(about["hashes"], [{"alg": "SHA-256", "content": digest}])

    def test_libraries(self):
        """It has each library of the release's requirements, with its hashes."""
        shown = {
            f"{each['name']}=={each['version']}": {
                found["content"] for found in each["externalReferences"][0]["hashes"]
            }
            for each in self.bom["components"]
        }
        locked = {
            f"{canonicalize_name(requirement.name)}{requirement.specifier}": set(hashes)
            for requirement, hashes in read_requirements("server")
            if any(applies(requirement, minor) for minor in MINORS)
        }
        self.assertEqual(shown, locked)

    def test_extras(self):
        """It names the extras that need a library, and what each library needs."""
        needing = {
            each["name"]: {
                one["value"] for one in each.get("properties", ()) if one["name"] == "popserv:extra"
            }
            for each in self.bom["components"]
        }
        self.assertEqual(needing["twisted"], set())
        self.assertEqual(needing["cryptography"], {"tls", "oauth"})
        self.assertEqual(needing["python-ldap"], {"ldap"})
        # Only what Python 3.10 has needs it.
        self.assertEqual(needing["greenlet"], {"sql"})
        dependencies = {
            re.sub(r"pkg:pypi/|@.*", "", each["ref"]): each.get("dependsOn", ())
            for each in self.bom["dependencies"]
        }
        self.assertTrue(any("zope-interface@" in ref for ref in dependencies["twisted"]))
        self.assertTrue(any("pamela@" in ref for ref in dependencies["popserv"]))
        self.assertEqual(set(dependencies), {*needing, "popserv"})


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
        self.assert_works(home, speedups)

    def assert_works(self, home, speedups=True):
        """Run the commands of the environment ``venv`` in a directory."""
        programs = home / "venv" / "bin"
        has_speedups = check_output(programs / "python", "-c", HAS_SPEEDUPS, cwd=home)
        self.assertEqual(has_speedups, f"{speedups}\n")
        self.assertRegex(check_output(programs / "twistd", "--help", cwd=home), r"(?m)^ +pop3 +\S")
        for command in ((programs / "twistd", "pop3"), (programs / "popserv",)):
            output = check_output(*command, "--version", cwd=home)
            self.assertEqual(output, f"popserv {__version__}\n")

    def test_wheel(self):
        """The guide on verifying releases installs the libraries by their hashes, and the wheel."""
        home = temporary_directory(self)
        lines = dict(blocks(DOCS / "howto/verify.rst", "console"))["install"].splitlines()
        self.assertEqual([line[:2] for line in lines], ["$ "] * 3)
        for line in lines:
            command = line[2:].replace("python3", sys.executable).replace("26.11.0", __version__)
            command = command.replace("/opt/popserv", str(home / "venv"))
            check_output("bash", "-c", command, cwd=first_build()[1])
        self.assert_works(home)

    def test_editable(self):
        """Twistd finds the plugin of an editable install."""
        self.assert_installs("--editable", copy_checkout())

    def test_without_compiler(self):
        """If the module in C cannot be built, popserv is installed without it."""
        self.assert_installs(copy_checkout(), speedups=False, env={**os.environ, "CC": "false"})
