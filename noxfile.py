"""Run the tests with every Python that popserv supports, and the oldest libraries.

``make versions`` runs all sessions.  A Python that is not installed is skipped,
unless ``--error-on-missing-interpreters`` is given.
"""

from pathlib import Path

import nox

nox.needs_version = ">= 2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False

HERE = Path(__file__).parent
# Not free-threaded ones: psycopg[binary], which the extra "sql" requires, has no wheels for them.
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def names_of_tests():
    """Return the names of all tests but those of other programs, which take most of the time.

    The tests of ``make mutation`` are left out as well, as they require tools for development.
    """
    packages = {path.parent.name for path in HERE.glob("tests/*/__init__.py")}
    modules = {path.stem for path in HERE.glob("tests/test_*.py")}
    left_out = {"live", "docs", "soak", "endurance", "mutation"}
    return sorted(f"tests.{name}" for name in (packages | modules) - left_out)


def run_tests(session):
    """Run the tests that are named after ``--``, or all but those with other programs."""
    command = ("python", "-bb", "-W", "error", "-m", "tests")
    session.run(*command, *(session.posargs or names_of_tests()), env={"CI": "1"})


def install(session, name):
    """Install popserv and the libraries of a file in ``requirements``, whose hashes uv verifies."""
    locked = ("--quiet", "--no-build-isolation", "--require-hashes", "--requirement")
    session.install(*locked, "requirements/build.txt")
    session.install(*locked, f"requirements/{name}.txt")
    # Without an index, this fails if the requirements lack something.
    offline = ("--quiet", "--no-build-isolation", "--no-index")
    session.install(*offline, "--editable", ".[test]")


@nox.session(python=PYTHONS)
def tests(session):
    """Run the tests with the libraries of ``requirements/test.txt``."""
    install(session, "test")
    run_tests(session)


@nox.session(python=PYTHONS[0])
def oldest(session):
    """Run the tests with the oldest libraries that setup.cfg permits."""
    install(session, "oldest")
    run_tests(session)
