"""The checker that runs a program with the interface of qmail's checkpassword.

The program reads the name and the password from descriptor 3, and, if the password is right, runs
the command in its arguments with the user's environment; see https://cr.yp.to/checkpwd/interface.html.
Here that command is ``env``, which reports the environment.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from popserv.auth.users.outages import NotAsked, ServerUnavailable
from popserv.auth.users.records import service_user
from popserv.auth.users.service import PasswordService
from popserv.auth.users.user import User
from popserv.core.connection_details import connection_details
from popserv.core.findings import Finding, error
from popserv.core.session import client_is_connected
from popserv.errors import TryLater
from popserv.interfaces import IDiagnosed
from popserv.runtime.permissions import this_user

TIMEOUT = 30.0
"""Seconds after which a program is killed."""

OUTPUT_TIMEOUT = 1.0
"""Seconds for which the output is read once the program has exited: its children may hold it."""

MAX_PROCESSES = 20
MAX_QUEUED = 200
"""The programs that run at a time, and the logins that may wait for one to end."""

MAX_OUTPUT = 1 << 16
"""Octets of output with which a program is killed."""

MAX_INPUT = 512
"""The octets that programs accept; checkpassword refuses more."""

_VARIABLE = re.compile(rb"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@implementer(IDiagnosed)
class CheckPasswordChecker(PasswordService):
    """Runs a program for each login, without a shell; ``command`` are the program and arguments.

    The program has no environment but ``PATH`` and the variables of UCSPI about the connection.
    Variables that it sets are fields of the user, if their names are those of fields of popserv.
    """

    def __init__(self, command: Sequence[str], reactor: Any = None) -> None:
        super().__init__(command[0])
        self._command = tuple(command)
        self._reactor = reactor
        self._slots = DeferredSemaphore(MAX_PROCESSES)

    @classmethod
    def from_argument(cls, argument: str) -> CheckPasswordChecker:
        """Return a checker for a program and its arguments, quoted as for a shell.

        :raises ValueError: the program cannot be run.
        """
        command = shlex.split(argument)
        if not command:
            raise ValueError("the program is missing; use checkpassword:/path/to/program")
        path = os.path.abspath(command[0])
        if not (os.path.isfile(path) and os.access(path, os.X_OK)):
            raise ValueError(f"{path} is not a program that this user can run")
        return cls([path, *command[1:]])

    async def diagnose(self) -> Iterable[Finding]:
        """See :class:`popserv.interfaces.IDiagnosed`: the program is not run."""
        path = self._command[0]
        if os.access(path, os.X_OK):
            return []
        what = f"{this_user()} cannot run it"
        return [error("checkpassword", path, what, "correct its mode, or those of its directories")]

    async def verify(self, name: bytes, password: bytes) -> User:
        """See :class:`PasswordService`."""
        # Programs for qmail would take the timestamp for one of APOP; it is empty.
        text = b"%b\0%b\0\0" % (name, password)
        if len(text) > MAX_INPUT:
            raise NotAsked(f"the name and the password have more than {MAX_INPUT} octets")
        if len(self._slots.waiting) >= MAX_QUEUED:
            raise TryLater("server too busy, try again later")
        is_connected, environment = client_is_connected.get(), _environment()
        await self._slots.acquire()
        if self._reactor is None:
            # twistd chooses the reactor after everything is imported.
            from twisted.internet import reactor

            self._reactor = reactor
        process = _Process(self._reactor, text, is_connected)
        try:
            if not is_connected():
                raise TryLater
            output = await self._run(process, environment, is_connected)
        finally:
            # One that cannot be killed goes on.
            process.when_gone(self._slots.release)
        return service_user(output[b"USER"], output)

    async def _run(
        self, process: _Process, environment: Any, is_connected: Any
    ) -> dict[bytes, bytes]:
        mark = b"POPSERV_CHECKPASSWORD=%b" % secrets.token_hex(16).encode("ascii")
        # A chroot jail may have env in /bin only.
        report = (shutil.which("env", path=os.defpath) or "/usr/bin/env", "-0", mark)
        try:
            self._reactor.spawnProcess(
                process,
                self._command[0],
                [*self._command, *report],
                environment,
                childFDs={0: "w", 1: "r", 2: 2, 3: "w"},
            )
        except OSError as error:
            raise ServerUnavailable(f"it cannot be run: {error.strerror}") from error
        status = await process.ended
        if status == 1:
            raise UnauthorizedLogin("unknown user or wrong password")
        if not is_connected():
            raise TryLater
        entries = bytes(process.output).split(b"\0")
        if status != 0 or mark not in entries:
            how = process.problem or (
                "did not run the command in its arguments" if status == 0 else _described(status)
            )
            raise ServerUnavailable(f"it {how}")
        variables = {match[1]: match[2] for match in map(_VARIABLE.fullmatch, entries) if match}
        # The first variable is lost if the program has written something before.
        if not variables.get(b"USER"):
            raise ServerUnavailable("it did not set USER, or wrote to standard output")
        return variables


class _Process(ProcessProtocol):
    """One run of the program.

    ``ended`` fires with the exit code, or None if a signal has ended the program, or if it cannot
    be killed; ``problem`` is why it was to be killed.
    """

    transport: Any

    def __init__(self, reactor: Any, text: bytes, is_connected: Any) -> None:
        self.ended: Deferred[int | None] = Deferred()
        self.output = bytearray()
        self.problem = ""
        self._is_running = False
        self._gone: Callable[[], object] | None = None
        self._text = text
        self._is_connected = is_connected
        self._reactor = reactor
        self._deadline = reactor.seconds() + TIMEOUT
        self._check: Any = None

    def connectionMade(self) -> None:
        """Send the name and the password."""
        self._is_running = True
        self._check = self._reactor.callLater(1, self._look)
        self.transport.closeChildFD(0)
        self.transport.writeToChild(3, self._text)
        self.transport.closeChildFD(3)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Collect the output."""
        self.output += data
        if len(self.output) > MAX_OUTPUT:
            self._kill("has written too much")

    def _look(self) -> None:
        """Kill the program if nobody waits for it any more, or if it takes too long."""
        if not self._is_connected():
            self._kill("was killed, because its client has disconnected")
        elif self._reactor.seconds() >= self._deadline:
            self._kill(f"did not end in {TIMEOUT:g} seconds")
        else:
            self._check = self._reactor.callLater(1, self._look)

    def _kill(self, problem: str) -> None:
        if not self.problem:
            self.problem = problem
            try:
                self.transport.signalProcess("KILL")
            except ProcessExitedAlready:
                pass
            except PermissionError:
                # It has become another user, as sudo does; its client need not wait.
                self.problem += ", and this user cannot kill it"
                self.ended.callback(None)
            # Its children may keep the pipe open.
            self.transport.loseConnection()

    def processExited(self, reason: Failure) -> None:
        """Wait for the rest of the output, which the exit code 1 does not need, but not for long.

        Children of the program may keep the pipe open as long as they like.
        """
        self._stop_check()
        seconds = 0 if _exit_code(reason) == 1 else OUTPUT_TIMEOUT
        self._check = self._reactor.callLater(seconds, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        """Report the exit code."""
        self._stop_check()
        self._is_running = False
        if self._gone is not None:
            self._gone()
        if not self.ended.called:
            self.ended.callback(None if self.problem else _exit_code(reason))

    def when_gone(self, call: Callable[[], object]) -> None:
        """Call a function when the program has ended, or now if it does not run."""
        if self._is_running:
            self._gone = call
        else:
            call()

    def _stop_check(self) -> None:
        if self._check.active():
            self._check.cancel()


def _exit_code(reason: Failure) -> int | None:
    code: int | None = getattr(reason.value, "exitCode", None)
    return code


def _environment() -> dict[bytes, bytes]:
    details = connection_details.get()()
    environment = {b"PATH": os.fsencode(os.defpath), b"PROTO": b"TCP"}
    for name, end in ((b"REMOTE", details.remote), (b"LOCAL", details.local)):
        if end is not None:
            environment[b"TCP%bIP" % name] = end[0].encode("ascii", "replace")
            environment[b"TCP%bPORT" % name] = b"%d" % end[1]
    return environment


def _described(status: int | None) -> str:
    if status is None:
        return "was ended by a signal"
    known = {2: ", it was misused", 100: ", it cannot work", 111: ", a temporary failure"}
    return f"has the exit code {status}{known.get(status, '')}"
