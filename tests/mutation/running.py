"""Runs tests against a mutant, in a process that is forked for it and has imported the rest."""

import importlib
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from typing import NamedTuple

import grimp
from hypothesis import Phase, settings
from twisted.trial.reporter import Reporter
from twisted.trial.runner import TestLoader, TrialRunner

KILLED, TIMED_OUT, SURVIVED = "killed", "timed out", "survived"

MEMORY = 4 << 30
FILE_SIZE = 2 << 30
"""The maximum octets of the memory and of a file of a process with a mutant."""

PATIENCE = 10
"""A mutant has timed out after so many times the seconds of its tests, and so many seconds more."""

_REACTOR = "twisted.internet.reactor"
_STOPPED_BY = (signal.SIGXCPU, signal.SIGKILL)


class Verdict(NamedTuple):
    """The outcome for a mutant, and the test that failed first, if one did."""

    outcome: str
    test: str = ""


def name_of(path):
    """Return the name of the module in a file."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def in_child(function, *arguments):
    """Call a function in a process of its own; return whether it has returned."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function(*arguments)
            code = 0
        except SystemExit as error:
            print(error, file=sys.stderr)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        # A test of a mutant may send its parent a signal.
        print(f"ended by {signal.Signals(-code).name}", file=sys.stderr)
    return code == 0


def prepare(name, modules):
    """Import those modules that do not import the one with this name, directly or indirectly."""
    settings.register_profile(
        "mutation", settings.get_profile("ci"), phases=(Phase.explicit, Phase.generate)
    )
    settings.load_profile("mutation")
    changed = _importers(name)
    # It has descriptors, which forks would share: what imports it is left to them.
    sys.modules[_REACTOR] = None
    for each in modules:
        # Plugins import what they find.
        if each not in changed and not each.startswith(("tests", "twisted.plugins")):
            with suppress(ImportError):
                importlib.import_module(each)
    del sys.modules[_REACTOR]
    wrong = changed & {*sys.modules}
    if wrong:
        sys.exit(f"imported before the mutant: {wrong}")


def _importers(name):
    """Return the names of a module and of all that import it; a module imports its packages."""
    graph, found, waiting = grimp.build_graph("popserv", cache_dir=None), set(), {name}
    while waiting:
        each = waiting.pop()
        found.add(each)
        waiting |= graph.find_modules_that_directly_import(each) | graph.find_children(each)
        waiting -= found
    return found


class _Finder(MetaPathFinder):
    """Finds the mutant instead of the module."""

    def __init__(self, name, source):
        self._name, self._source = name, source

    def find_spec(self, fullname, path, target=None):
        """Return the specification of the mutant, or None for other modules."""
        if fullname != self._name:
            return None
        spec = PathFinder.find_spec(fullname, path)
        spec.loader = _Loader(fullname, spec.origin, self._source)
        return spec


class _Loader(SourceFileLoader):
    """Loads a text as if it were that of the file."""

    def __init__(self, fullname, path, source):
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname):
        """Return the code of the text."""
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Reporter(Reporter):
    """Ends the process when the first test fails."""

    def __init__(self, output, *arguments):
        super().__init__(*arguments)
        self._output = output

    def _fail(self, test, *reason):
        os.write(self._output, test.id().encode())
        os._exit(1)

    addError = addFailure = addUnexpectedSuccess = _fail


def _run(mutant, name, tests, output, directory):
    """Run tests with a mutant, and end the process."""
    os.setsid()
    # Like /tmp, because tests act as other users, too.
    os.chmod(directory, 0o1777)
    tempfile.tempdir = directory
    sys.meta_path.insert(0, _Finder(name, mutant.source))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)

    def reporter(*arguments):
        return _Reporter(output, *arguments)

    suite = TestLoader().loadByNames(tests)
    TrialRunner(reporter, workingDirectory=os.path.join(directory, "trial")).run(suite)
    os._exit(0)


def judge(mutant, name, tests, seconds):
    """Run tests, of which the first is the likeliest to fail; return the :class:`Verdict`.

    ``seconds`` is how long they take without a mutant.
    """
    if not tests:
        return Verdict(SURVIVED)
    limit = PATIENCE * (1 + seconds)
    directory = tempfile.mkdtemp(prefix="popserv-mutant-")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit)))
            _run(mutant, name, tests, writing, directory)
        finally:
            # The module cannot even be imported.
            os._exit(1)
    os.close(writing)
    try:
        status = _wait(pid, 3 * limit)
        with open(reading, "rb") as pipe:
            failed = pipe.read(1000).decode()
    finally:
        _kill(pid)
        shutil.rmtree(directory, ignore_errors=True)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in _STOPPED_BY:
        return Verdict(TIMED_OUT)
    return Verdict(KILLED, failed) if status else Verdict(SURVIVED)


def _kill(group):
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _wait(pid, seconds):
    """Return the wait status of a process, which is killed after so many seconds."""
    descriptor = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([descriptor], [], [], seconds)
        if not ended:
            _kill(pid)
            os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]
    finally:
        os.close(descriptor)
