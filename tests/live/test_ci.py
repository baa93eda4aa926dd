"""What ``.ci/run``, releases and builds of packages run: what they install, download and sign."""

import os
import re
import runpy

from twisted.trial.unittest import SynchronousTestCase

from tests.live.harness import CHECKOUT, require_programs, run, temporary_directory

SCRIPTS = (
    ".ci/run",
    "debian/package",
    "debian/units",
    "debian/relocate",
    "contrib/certbot/popserv",
)
"""Scripts of the shell."""

FILES = (*SCRIPTS, "Makefile", "noxfile.py", "debian/rules", "contrib/Containerfile")
"""All files that say what is run."""

TESTS = ("lint", "docs", "versions", "test", "audit", "requirements")
"""Targets of the Makefile that ``.ci/run`` and developers use."""

INSTALLS = re.compile(r"\bpip\b.*\s(?:install|wheel|download)\s|pyproject-build")
"""Commands that may take something from an index."""

VERIFIED = re.compile(
    "--require-hashes|--no-index|--no-isolation|--no-deps(?=.*--no-build-isolation)"
)
"""Options with which nothing comes from an index, or only what has a known hash."""

UNSAFE = re.compile(
    r"""
    ^ \W* (?: (?: then | do | else | exec | RUN ) \s+ )*
        (?: curl | wget | npm | npx | pipx | uvx | eval | ADD
          | git\s+(?:clone|fetch|pull|submodule) | go\s+(?:get|install) | cargo\s+install ) \b
    | --trusted-host | --allow-unauthenticated | --allow-insecure | trusted=yes
    """,
    re.VERBOSE,
)
"""Downloads that nobody verifies, and text that becomes a command."""


def commands(text):
    """Return the commands of a text."""
    code = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ")
    return re.split(r"\n|&&|\|\|?|;|\$\(", code)


def unverified(text):
    """Return the commands that install from an index what has no known hash."""
    return [each for each in commands(text) if INSTALLS.search(each) and not VERIFIED.search(each)]


def unsafe(text):
    """Return the commands that download something unverified, or evaluate text."""
    return [each for each in commands(text) if UNSAFE.search(each)]


def is_strict(text):
    """Return whether a script of the shell ends with its first failure."""
    wanted = "set -euo pipefail" if text.splitlines()[0].endswith("bash") else "set -eu"
    return wanted in text.splitlines()


class Session:
    """A session of nox that records the commands which it would run."""

    posargs = ()

    def __init__(self):
        self.commands = []

    def install(self, *arguments):
        """Record an installation."""
        self.run("uv", "pip", "install", *arguments)

    def run(self, *arguments, **_):
        """Record a command."""
        self.commands.append(" ".join(arguments))


class CommandsTests(SynchronousTestCase):
    """The commands of continuous integration, of releases and of packages."""

    def make(self, *arguments):
        """Return the commands that make would run in a directory without an environment."""
        require_programs(self, "make")
        directory = temporary_directory(self)
        for name in ("Makefile", "setup.cfg", "setup.py", "pyproject.toml", "requirements"):
            (directory / name).symlink_to(CHECKOUT / name)
        environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
        done = run("make", "-C", directory, "--dry-run", *arguments, env=environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode()

    def texts(self):
        """Return all commands that may install something, by the file that has them."""
        rules = run(
            "make", "-f", "debian/rules", "--dry-run", "override_dh_auto_install", cwd=CHECKOUT
        )
        session = Session()
        nox = runpy.run_path(str(CHECKOUT / "noxfile.py"))
        nox["tests"](session)
        nox["oldest"](session)
        return {
            **{name: (CHECKOUT / name).read_text() for name in (*SCRIPTS, "contrib/Containerfile")},
            "Makefile": self.make(*TESTS, "dist", "deb"),
            "debian/rules": rules.stdout.decode(),
            "noxfile.py": "\n".join(session.commands),
        }

    def test_installed(self):
        """They take nothing from an index but archives whose hashes are known."""
        require_programs(self, "dh")
        texts = self.texts()
        for name in ("Makefile", "debian/rules", "noxfile.py", "contrib/Containerfile"):
            installing = [each for each in commands(texts[name]) if INSTALLS.search(each)]
            self.assertGreater(len(installing), 1, name)
            for each in installing:
                self.assertEqual(len(unverified(VERIFIED.sub("", each))), 1, each)
        for name, text in texts.items():
            self.assertEqual(unverified(text), [], name)

    def test_unsafe(self):
        """They download nothing else, and evaluate no text."""
        for name in FILES:
            text = (CHECKOUT / name).read_text()
            self.assertEqual(unsafe(text), [], name)
            for fault in (
                "curl -O https://example.org/x",
                "if true; then wget x; fi",
                "x=$(git clone x)",
                "\t@npm ci",
                'eval "$X"',
                "RUN curl -f x | sh",
                "pip install --trusted-host x y",
                "ADD https://example.org/x /x",
            ):
                self.assertEqual(len(unsafe(f"{text}\n{fault}\n")), 1, fault)

    def test_strict(self):
        """Their scripts end with the first command that fails, and so do those of make."""
        found = {
            str(path.relative_to(CHECKOUT))
            for folder in (".ci", "contrib", "debian")
            for path in (CHECKOUT / folder).rglob("*")
            # What dpkg runs gets variables and commands from debhelper.
            if path.suffix not in {".postinst", ".postrm", ".prerm"}
            and path.is_file()
            and re.match(rb"#!.*[/ ](ba)?sh\n", path.read_bytes())
        }
        self.assertEqual(found, set(SCRIPTS))
        for name in SCRIPTS:
            text = (CHECKOUT / name).read_text()
            self.assertTrue(is_strict(text), name)
            self.assertFalse(is_strict(re.sub("(?m)^set -.*", "set -e", text)), name)
        text = (CHECKOUT / "Makefile").read_text()
        makefile = temporary_directory(self) / "Makefile"
        for changed, code in ((text, 2), (text.replace(".SHELLFLAGS", "UNUSED"), 0)):
            makefile.write_text(f"{changed}\nfailing:\n\tfalse | true\n")
            self.assertEqual(run("make", "-f", makefile, "failing").returncode, code)

    def test_key(self):
        """Only make dist uses the key that signs a release, and it runs no tests."""
        signing = self.make("dist", "KEY=/secret")
        self.assertIn("-f /secret dist/SHA256SUMS", signing)
        self.assertNotIn("-m tests", signing)
        testing = self.make(*TESTS, "KEY=/secret")
        self.assertIn("-m tests", testing)
        self.assertNotIn("/secret", testing)
