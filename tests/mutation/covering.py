"""The tests that run each line of a module, and how long each of them takes."""

import atexit
import json
import os
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from coverage import Coverage, CoverageData
from hypothesis import settings
from twisted.trial.reporter import Reporter
from twisted.trial.runner import TestLoader, TrialRunner

from tests.mutation.mutants import CHECKOUT
from tests.mutation.running import name_of

ALSO = {
    "popserv/commands": (
        "tests.server.test_protocol.InputTests.test_series_only",
        "tests.server.test_reply_writer",
        "tests.test_transcripts",
    ),
    "popserv/core": (
        "tests.commands",
        "tests.server",
        "tests.test_model",
        "tests.test_transcripts",
    ),
    "popserv/maildrops/maildir": (
        "tests.maildrops.maildir.contents",
        "tests.maildrops.maildir.listing",
        "tests.maildrops.test_store_diagnosis",
    ),
    "popserv/maildrops/mbox": (
        "tests.maildrops.test_index_cache",
        "tests.maildrops.test_read_only",
        "tests.maildrops.test_recent",
        "tests.maildrops.test_scans",
        "tests.maildrops.test_store_diagnosis",
    ),
    "popserv/maildrops/mh": (
        "tests.maildrops.test_index_cache",
        "tests.maildrops.test_recent",
        "tests.maildrops.test_scans",
        "tests.maildrops.test_store_diagnosis",
    ),
    "popserv/messages": ("tests.commands.test_sending",),
    "popserv/auth/ldap": ("tests.auth.test_diagnosis.LDAPTests",),
    "popserv/auth/oauth": ("tests.auth.test_diagnosis.OAuthTests",),
    "popserv/auth": ("tests.auth.users.test_service", "tests.commands.test_rfc1225"),
    "popserv/auth/dovecot": ("tests.auth.test_diagnosis.DovecotTests",),
    "popserv/auth/rhosts": ("tests.auth.test_diagnosis.RhostsTests",),
    "popserv/auth/services": ("tests.auth.test_diagnosis.ServicesTests", "tests.docs.test_limits"),
    "popserv/auth/sql": ("tests.auth.test_diagnosis.SQLTests",),
    "popserv/auth/users": (
        "tests.auth.passwords.test_checker.SameWorkTests",
        "tests.docs.test_limits",
    ),
    "popserv/auth/passwords": ("tests.auth.sasl", "tests.auth.sql.test_checker"),
    "popserv/delivery": ("tests.metrics.test_lmtp",),
    "popserv/wiring": ("tests.test_tap",),
    "popserv/server": (
        "tests.auth.throttle.test_login_throttle",
        "tests.auth.throttle.test_starts",
        "tests.commands",
        "tests.metrics.test_protocol",
        "tests.test_transcripts",
    ),
}
"""Tests beside those of a package, by the package: those of what is above it."""

_IMPORT = ""
"""The context of the lines that run before the first test."""


def tests_of(path):
    """Return the names of the modules of tests for a module: those in the same place."""
    package = Path(path).parent
    place = CHECKOUT / "tests" / package.relative_to("popserv")
    names = [f"tests.{'.'.join(package.parts[1:])}.{each.stem}" for each in place.glob("test_*.py")]
    return (*sorted(names), *ALSO.get(str(package), ()))


class Covering:
    """What a run of tests without a mutant has shown.

    :ivar seconds: the duration of each test, by its name.
    :ivar modules: the names of all modules that they import.
    """

    def __init__(self, directory):
        data = CoverageData(str(directory / "coverage"))
        data.read()
        # All at once: in a forked process the object would erase its file.
        self._contexts = {path: data.contexts_by_lineno(path) for path in data.measured_files()}
        self.seconds, self.modules = json.loads((directory / "tests.json").read_text())

    def tests(self, path, lines):
        """Return the names of the tests that run one of these lines of a module, fastest first.

        Those of the module's own file come before the others.  For a line that runs when the module
        is imported, these are all tests, those that run any line of the module first.
        """
        contexts = self._contexts.get(str(CHECKOUT / path), {})
        found = {name for line in lines for name in contexts.get(line, ())}
        using = {name for names in contexts.values() for name in names}
        if not found or _IMPORT in found:
            found = {*self.seconds}
        own = f".test_{Path(path).stem}."
        return sorted(
            found, key=lambda name: (own not in name, name not in using, self.seconds[name])
        )


class _Recorder(Reporter):
    """Tells coverage which test runs, and measures how long it takes."""

    def __init__(self, coverage, seconds, *arguments):
        super().__init__(*arguments)
        self._coverage, self._seconds = coverage, seconds

    def startTest(self, test):
        """Start a test."""
        super().startTest(test)
        self._coverage.switch_context(test.id())
        self._started = time.monotonic()

    def stopTest(self, test):
        """Stop a test."""
        super().stopTest(test)
        self._seconds[test.id()] = time.monotonic() - self._started


def measure(names, package, directory):
    """Run tests, and write to a directory which of them run which line of a package.

    :raises SystemExit: a test fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # The other one records each line once, whichever tests run it.
    os.environ["COVERAGE_CORE"] = "ctrace"
    # The same examples as with the mutants: the profile was chosen before CI was set.
    settings.load_profile("ci")
    coverage = Coverage(
        data_file=str(directory / "coverage"), config_file=False, source=[str(CHECKOUT / package)]
    )
    seconds = {}

    def recorder(*arguments):
        return _Recorder(coverage, seconds, *arguments)

    coverage.erase()
    coverage.start()
    # What a test imports would seem to be run by that test only.
    for path in sorted((CHECKOUT / package).glob("*.py")):
        with suppress(ImportError):
            import_module(name_of(str(path.relative_to(CHECKOUT))))
    # Tests may leave the collection of garbage disabled or the directory changed.
    result = TrialRunner(recorder, workingDirectory=str(directory / "trial")).run(
        TestLoader().loadByNames(names, recurse=True)
    )
    coverage.stop()
    coverage.save()
    (directory / "tests.json").write_text(json.dumps([seconds, sorted(sys.modules)]))
    # Servers that tests share are stopped at the end of a process, which this one leaves otherwise.
    atexit._run_exitfuncs()
    if not result.wasSuccessful():
        sys.exit("tests fail without a mutant")
