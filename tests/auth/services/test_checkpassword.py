"""Tests of popserv.auth.services.checkpassword."""

import os
import re
import signal
import time
from contextvars import copy_context
from functools import partial
from pathlib import Path

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from popserv.auth.services import checkpassword
from popserv.auth.services.checkpassword import OUTPUT_TIMEOUT, TIMEOUT, CheckPasswordChecker
from popserv.auth.users.extra_fields import NO_RULES
from popserv.auth.users.user import User
from popserv.core.connection_details import ConnectionDetails, connection_details
from popserv.core.session import client_is_connected
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import TryLater
from tests.auth.harness import ask
from tests.docs.harness import DOCS

READ = "given=$(tr '\\000' '\\n' <&3); "
ANN = b"ann", b"secret"


class HeldReactor(Clock):
    """Stands for a reactor, and for a program that goes on until the test ends it."""

    def __init__(self):
        super().__init__()
        self.killed = []
        self.has_exited = self.is_of_other = False
        self.closed_at = []

    def spawnProcess(self, process, *arguments, **options):
        """See IReactorProcess."""
        self.process = process
        process.makeConnection(self)

    def signalProcess(self, name):
        """See IProcessTransport."""
        if self.has_exited:
            raise ProcessExitedAlready
        if self.is_of_other:
            raise PermissionError
        self.killed.append(name)

    def closeChildFD(self, descriptor):
        """See IProcessTransport."""

    def writeToChild(self, descriptor, data):
        """See IProcessTransport."""

    def loseConnection(self):
        """See IProcessTransport."""
        self.closed_at.append(self.seconds())

    def exit(self, status):
        """Have the program exit, and a child of it hold the pipe."""
        self.has_exited = True
        self.process.processExited(Failure(ProcessTerminated(status)))

    def end(self, status):
        """End the program."""
        self.process.processEnded(Failure(ProcessTerminated(status)))


class CheckPasswordTests(TestCase):
    """The checker, with programs in the language of the shell."""

    def checker(self, program, *arguments):
        """Return a checker for a program with this text."""
        path = Path(self.mktemp()).absolute()
        path.write_text(f"#!/bin/sh\n{program}\n")
        path.chmod(0o700)
        return CheckPasswordChecker.from_argument(" ".join([str(path), *arguments]))

    def ask(self, checker, name=b"ann", password=b"secret", is_connected=lambda: True):
        """Ask a checker, as for a connected client."""

        def call():
            details = ConnectionDetails(("192.0.2.1", 4321), ("198.51.100.2", 110))
            connection_details.set(lambda: details)
            client_is_connected.set(is_connected)
            self.credentials = UsernamePassword(name, password)
            return ask(checker, self.credentials)

        return copy_context().run(call)

    async def problem(self, checker, **options):
        """Return why a program cannot tell."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        with self.assertRaises(TryLater) as caught:
            await self.ask(checker, **options)
        self.assertIsNone(caught.exception.__cause__)
        (line,) = map(formatEvent, log)
        program, _, problem = line.partition(
            " cannot be asked, and logins are refused until it can: it "
        )
        self.assertEqual(program, checker._command[0])
        return problem

    async def test_input(self):
        """The program reads the name, the password and a timestamp, each ended by NUL."""
        checker = self.checker('cat <&3 >"$0.input"; USER=ann exec "$@"')
        self.assertEqual(await self.ask(checker), b"ann")
        written = Path(f"{checker._command[0]}.input").read_bytes()
        self.assertEqual(written, b"ann\0secret\0\0")

    async def test_env(self):
        """The command in the arguments is env, wherever the system has it."""
        checker = self.checker('echo "$1" >"$0.command"; USER=ann exec "$@"')
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.patch(os, "defpath", str(directory))
        for command in ("/usr/bin/env", f"{directory}/env"):
            if command != "/usr/bin/env":
                os.symlink("/usr/bin/env", command)
            self.assertEqual(await self.ask(checker), b"ann")
            written = Path(f"{checker._command[0]}.command").read_text()
            self.assertEqual(written, f"{command}\n")

    async def test_standard_streams(self):
        """The program has an empty standard input, and the standard error of the server."""
        path = Path(self.mktemp())
        saved = os.dup(2)
        self.addCleanup(os.close, saved)
        with path.open("wb") as file:
            os.dup2(file.fileno(), 2)
        self.addCleanup(os.dup2, saved, 2)
        checker = self.checker('cat && echo wrong >&2 && USER=ann exec "$@"')
        self.assertEqual(await self.ask(checker), b"ann")
        self.assertEqual(path.read_text(), "wrong\n")

    async def test_environment(self):
        """The maildrop is that of USER; variables named as fields of popserv have an effect."""
        checker = self.checker(
            "export USER=dora HOME=/home/dora popserv_read_only=yes X='1\n2'; exec \"$@\""
        )
        user = await checker.verify(*ANN)
        rules = NO_RULES._replace(settings=UserSettings(read_only=True))
        self.assertEqual(user, User(b"dora", b"", rules))
        expected = ConfiguredUser(b"dora", UserSettings(read_only=True))
        self.assertEqual(await self.ask(checker), expected)
        self.assertEqual(self.credentials.username, b"dora")

    async def test_clean_environment(self):
        """The program gets the connection, and nothing of the server's environment."""
        self.patch(os, "environ", {**os.environ, "SECRET": "x"})
        checker = self.checker('env >"$0.environment"; USER=ann exec "$@"')
        await self.ask(checker)
        lines = Path(f"{checker._command[0]}.environment").read_text().splitlines()
        names = {line.partition("=")[0] for line in lines} - {"PWD", "SHLVL", "_", "OLDPWD"}
        expected = "PATH PROTO TCPREMOTEIP TCPREMOTEPORT TCPLOCALIP TCPLOCALPORT"
        self.assertEqual(names, set(expected.split()))
        for line in (
            *(f"PATH={os.defpath}", "PROTO=TCP", "TCPREMOTEIP=192.0.2.1", "TCPREMOTEPORT=4321"),
            *("TCPLOCALIP=198.51.100.2", "TCPLOCALPORT=110"),
        ):
            self.assertIn(line, lines)

    async def test_no_addresses(self):
        """On a UNIX socket there are no addresses."""
        checker = self.checker('env >"$0.environment"; USER=ann exec "$@"')
        await checker.verify(*ANN)
        self.assertNotIn("TCPREMOTE", Path(f"{checker._command[0]}.environment").read_text())

    async def test_arguments(self):
        """Arguments are passed without a shell."""
        checker = self.checker(
            '[ "$1" = "a  b" ] && [ "$2" = "\\$HOME" ] && shift 2 && USER=ann exec "$@"',
            "'a  b'",
            "'$HOME'",
        )
        self.assertEqual(await self.ask(checker), b"ann")
        # They may be passwords, and are not logged.
        self.assertIn("exit code 7", await self.problem(self.checker("exit 7", "s3cret")))

    async def test_refused(self):
        """The exit code 1 refuses the login."""
        with self.assertRaises(UnauthorizedLogin):
            await self.ask(self.checker("exit 1"))

    async def test_cannot_tell(self):
        """With any other exit code but 0, the login fails as temporary."""
        for program, problem in (
            ("exit 111", "has the exit code 111, a temporary failure"),
            ("exit 2", "has the exit code 2, it was misused"),
            ("exit 100", "has the exit code 100, it cannot work"),
            ("exit 7", "has the exit code 7"),
            ("kill -9 $$", "was ended by a signal"),
            ("exit 0", "did not run the command in its arguments"),
            ("echo USER=root; exit 0", "did not run the command in its arguments"),
            ("exec true", "did not run the command in its arguments"),
            *(
                (f'{program} "$@"', "did not set USER, or wrote to standard output")
                for program in (
                    "exec",
                    "USER=",
                    "echo a; env -i USER=ann",
                    "echo a=b; env -i USER=ann",
                )
            ),
        ):
            self.assertEqual(await self.problem(self.checker(program)), problem, program)

    async def test_not_runnable(self):
        """A program that cannot be run later is reported, too."""
        checker = self.checker("exit 1")
        os.unlink(checker._command[0])
        with self.assertRaises(TryLater):
            await self.ask(checker)
        self.assertEqual(checker._slots.tokens, checkpassword.MAX_PROCESSES)
        reactor = type("Reactor", (), {"spawnProcess": self.fail_to_fork, "seconds": time.time})()
        reactor.callLater = lambda *args: None
        checker = CheckPasswordChecker(["/bin/true"], reactor)
        self.assertIn("cannot be run: ", await self.problem(checker))
        self.assertEqual(checker._slots.tokens, checkpassword.MAX_PROCESSES)

    def fail_to_fork(self, *args, **options):
        """Fail as with the greatest number of processes."""
        raise OSError(11, "Resource temporarily unavailable")

    async def test_too_long(self):
        """A name and a password that are too long for programs are refused without asking."""
        checker = self.checker("exit 111")
        length = 512 - len(b"ann\0\0\0")
        with self.assertRaises(UnauthorizedLogin):
            await self.ask(checker, password=b"x" * (length + 1))
        await self.problem(checker, password=b"x" * length)

    async def test_flood(self):
        """A program that writes without end is killed."""
        self.assertEqual(await self.problem(self.checker("yes")), "has written too much")

    async def test_timeout(self):
        """A program that does not end is killed, whether its children end or not."""
        self.patch(checkpassword, "TIMEOUT", 1.5)
        for program in ("exec sleep 1000", "sleep 5 & exec sleep 1000"):
            problem = await self.problem(self.checker(program))
            self.assertEqual(problem, "did not end in 1.5 seconds")

    def test_watched(self):
        """A program has its time, and is killed within a second after its client is gone."""
        for seconds, is_gone in ((0, True), (5, True), (TIMEOUT - 1, False)):
            reactor, connected = HeldReactor(), [True]
            checker = CheckPasswordChecker(["/bin/true"], reactor)
            asked = self.ask(checker, is_connected=partial(all, connected))
            reactor.pump([1] * int(seconds))
            self.assertEqual(reactor.killed, [])
            connected.append(not is_gone)
            reactor.advance(1)
            self.assertEqual(reactor.killed, ["KILL"])
            reactor.end(None)
            self.failureResultOf(asked, TryLater)
            self.assertEqual(reactor.getDelayedCalls(), [])

    async def test_client_gone(self):
        """A program is killed when the client has disconnected, and not started after that."""
        checker = self.checker('echo $$ >"$0.pid"; exec sleep 1000')
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        with self.assertRaises(TryLater):
            await self.ask(checker, is_connected=iter([True, False, False]).__next__)
        self.assertEqual(len(log), 0)
        pid = int(Path(f"{checker._command[0]}.pid").read_text())
        self.assertRaises(ProcessLookupError, os.kill, pid, signal.SIGCONT)
        checker = self.checker('echo >"$0.ran"; exit 1')
        with self.assertRaises(TryLater):
            await self.ask(checker, is_connected=lambda: False)
        self.assertFalse(Path(f"{checker._command[0]}.ran").exists())
        self.assertEqual(checker._slots.tokens, checkpassword.MAX_PROCESSES)

    def test_killed_once(self):
        """The first reason to kill a program is the one that is reported."""
        self.patch(checkpassword, "MAX_OUTPUT", 2)
        reactor = HeldReactor()
        asked = self.ask(CheckPasswordChecker(["/bin/true"], reactor))
        for data, killed in ((b"12", []), (b"3", ["KILL"]), (b"4", ["KILL"])):
            reactor.process.childDataReceived(1, data)
            self.assertEqual(reactor.killed, killed)
        reactor.pump([1] * int(TIMEOUT))
        expected = (killed, "has written too much")
        self.assertEqual((reactor.killed, reactor.process.problem), expected)
        reactor.end(None)
        self.failureResultOf(asked, TryLater)

    async def test_children(self):
        """A program has ended when it exits, even if children of it keep its output open."""
        begun = time.monotonic()
        with self.assertRaises(UnauthorizedLogin):
            await self.ask(self.checker("sleep 60 & exit 1"))
        self.assertEqual(await self.ask(self.checker('sleep 60 & USER=ann exec "$@"')), b"ann")
        problem = await self.problem(self.checker("sleep 60 & exit 7"))
        self.assertEqual(problem, "has the exit code 7")
        self.assertLess(time.monotonic() - begun, 30)

    def test_children_watched(self):
        """What children write or keep open changes no exit code, and delays no refusal."""
        for status, seconds in ((1, 0), (7, OUTPUT_TIMEOUT)):
            reactor = HeldReactor()
            asked = self.ask(CheckPasswordChecker(["/bin/true"], reactor))
            reactor.pump([1] * 5)
            reactor.exit(status)
            reactor.pump([0] + [0.125] * 8)
            self.assertEqual((reactor.closed_at, reactor.killed), ([5 + seconds], []))
            self.assertEqual(reactor.getDelayedCalls(), [])
            reactor.end(status)
            self.failureResultOf(asked, UnauthorizedLogin if status == 1 else TryLater)

    def test_children_flood(self):
        """A child that writes too much once the program has exited is not listened to."""
        self.patch(checkpassword, "MAX_OUTPUT", 2)
        reactor = HeldReactor()
        asked = self.ask(CheckPasswordChecker(["/bin/true"], reactor))
        reactor.exit(7)
        reactor.process.childDataReceived(1, b"123")
        self.assertEqual(reactor.closed_at, [0])
        reactor.end(7)
        self.failureResultOf(asked, TryLater)
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_killed_after_exit(self):
        """A program that exits as it is killed gives its slot back."""
        reactor, connected = HeldReactor(), [True]
        checker = CheckPasswordChecker(["/bin/true"], reactor)
        asked = self.ask(checker, is_connected=partial(all, connected))
        connected.append(False)
        # It has exited, but the reactor does not know that yet.
        reactor.has_exited = True
        reactor.advance(1)
        self.assertEqual(reactor.closed_at, [1])
        reactor.end(1)
        self.failureResultOf(asked, TryLater)
        self.assertEqual(checker._slots.tokens, checkpassword.MAX_PROCESSES)

    def test_not_killed(self):
        """A program that this user cannot kill has its slot until it ends, but no login waits."""
        for is_gone, data in ((False, b""), (True, b""), (False, b"x" * (1 << 17))):
            reactor, connected = HeldReactor(), [True]
            reactor.is_of_other = True
            checker = CheckPasswordChecker(["/bin/true"], reactor)
            log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
            asked = self.ask(checker, is_connected=partial(all, connected))
            connected.append(not is_gone)
            reactor.process.childDataReceived(1, data)
            reactor.pump([1] * int(TIMEOUT))
            self.failureResultOf(asked, TryLater)
            told = [formatEvent(event).endswith(", and this user cannot kill it") for event in log]
            self.assertEqual(told, [True] * (not is_gone))
            self.assertEqual(len(reactor.closed_at), 1)
            self.assertEqual(checker._slots.tokens, checkpassword.MAX_PROCESSES - 1)
            reactor.end(None)
            self.assertEqual(checker._slots.tokens, checkpassword.MAX_PROCESSES)
            self.assertEqual(reactor.getDelayedCalls(), [])

    async def test_many(self):
        """The number of programs at a time is limited, and that of logins that wait."""
        self.patch(checkpassword, "MAX_QUEUED", 1)
        self.patch(checkpassword, "MAX_PROCESSES", 1)
        checker = self.checker(READ + "exit 1")
        first, second, third = (self.ask(checker) for _ in range(3))
        self.failureResultOf(third, TryLater)
        for each in (first, second):
            with self.assertRaises(UnauthorizedLogin):
                await each

    def test_argument(self):
        """The program must exist and be executable; its path becomes absolute."""
        for argument in ("", "  ", "/nowhere", "/etc", "/etc/passwd", "'unbalanced"):
            with self.assertRaises(ValueError):
                CheckPasswordChecker.from_argument(argument)
        relative = os.path.relpath("/bin/true")
        self.assertEqual(
            CheckPasswordChecker.from_argument(f"{relative} -x")._command, ("/bin/true", "-x")
        )

    async def test_guide(self):
        """The program of the guide works."""
        text = (DOCS / "howto/checkpassword.rst").read_text("utf-8")
        program = re.search(r"   #!/bin/sh\n((?:   .*\n)+)", text)[1]
        checker = self.checker(program.replace("\n   ", "\n"))
        self.assertEqual(await self.ask(checker, password=b"tanstaaf"), b"ann")
        for password in (b"wrong", b"tanstaaf "):
            with self.assertRaises(UnauthorizedLogin):
                await self.ask(checker, password=password)
