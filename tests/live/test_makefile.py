"""The Makefile: which Python it uses, and what it prints.  No test installs anything."""

import os
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.live.harness import CHECKOUT, require_programs, run, temporary_directory


class MakefileTests(SynchronousTestCase):
    """Targets, in a directory of their own with Pythons that do nothing."""

    def setUp(self):
        """Create the directory, with the files on which the environment depends."""
        require_programs(self, "make")
        self.directory = temporary_directory(self)
        for name in ("Makefile", "setup.cfg", "setup.py", "pyproject.toml"):
            (self.directory / name).write_bytes((CHECKOUT / name).read_bytes())

    def program(self, name, code):
        """Write a shell script; return its path."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{code}\n")
        path.chmod(0o755)
        return path

    def python(self, version):
        """Return a Python that says it has this version, and makes environments that do nothing."""
        patched = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
        make = "mkdir -p $4/bin && printf '#!/bin/sh\\n' >$4/bin/python && chmod +x $4/bin/python"
        return self.program(
            "python" + "".join(map(str, version)),
            f'[ "$1" = -c ] && exec {sys.executable} -c "{patched}" "$2"\nrm -fr "$4"; {make}',
        )

    def make(self, *arguments):
        """Run make; return its exit code, its output and its errors."""
        # Without what make itself has set, if it runs the tests.
        environment = {name: os.environ[name] for name in os.environ if "MAKE" not in name}
        command = ("make", "-C", self.directory, "--no-print-directory", *arguments)
        done = run(*command, env=environment)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def test_old_python(self):
        """A Python that is too old is refused in one line, and leaves nothing behind."""
        for version in ((2, 7), (3, 6), (3, 9)):
            python, number = self.python(version), ".".join(map(str, version))
            code, output, errors = self.make(".venv/serve", f"PYTHON={python}")
            self.assertEqual((code, output), (2, ""))
            self.assertRegex(
                errors,
                rf"\Apopserv requires Python 3\.10 or newer, and {python} is {number}"
                r": name another one, as in make PYTHON=python3\.12\nmake: .*\n\Z",
            )
            self.assertFalse((self.directory / ".venv").exists())

    def test_other_python(self):
        """An environment is made again if another Python is named, and only then."""
        first, second = self.python((3, 10)), self.python((3, 14))
        for arguments, is_made in [
            ((f"PYTHON={first}",), True),
            ((f"PYTHON={first}",), False),
            ((f"PYTHON={second}",), True),
            ((), False),
        ]:
            code, output, _ = self.make(".venv/serve", *arguments)
            self.assertEqual((code, "-m venv --clear" in output), (0, is_made), arguments)
            self.assertEqual("installing Twisted in .venv: takes" in output, is_made)

    def test_coverage(self):
        """The coverage is reported after a failure, and the exit code is that of the tests."""
        self.program(".venv/bin/python", 'echo "$@"; exec test "$3" != report')
        report = "-m coverage combine --quiet\n-m coverage report\n"
        for code in (0, 7):
            failed, output, errors = self.make(
                "test", "-o", ".venv/dev", f"RUN_TESTS=sh -c 'echo tested; exit {code}'"
            )
            self.assertRegex(output, r"\Amake test: .*about \d+ minutes on 2 cores\n")
            self.assertTrue(output.endswith(f"tested\n{report}"), output)
            self.assertEqual(failed, 2)
            self.assertIn(f"Error {code or 1}", errors)
