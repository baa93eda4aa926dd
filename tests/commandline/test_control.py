"""popserv who, kick and so on, with a server in the same process."""

import io
import json
import os
import socket
from contextlib import redirect_stderr, redirect_stdout

from twisted.internet import reactor
from twisted.internet.defer import succeed
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from popserv.commandline.main import main
from popserv.commandline.parsing import CONTROL_COMMANDS
from popserv.control.responder import Responder
from popserv.control.server import ControlFactory
from popserv.runtime.bus import Answers
from popserv.workers.shared_port import SharedPort
from tests.control.harness import ControlMixin


class FakeWorkers:
    """One worker."""

    is_replacing = False

    def overview(self):
        """Describe it."""
        return [{"number": 1, "pid": 17, "state": "serving", "uptime": 1.5}]

    def replace_workers(self):
        """Replace it."""


class Certificates:
    """One certificate."""

    def overview(self):
        """Describe it."""
        return [{"file": "a\x1b.pem", "names": ["a.example", "b.example"], "ends": "2030"}]


class ControlCommandTests(ControlMixin, TestCase):
    """The output and the exit codes of the commands."""

    workers = FakeWorkers()
    certificates = Certificates()

    def listen(self, **changes):
        """Listen on a UNIX socket, whose path is short."""
        self.path = f"/tmp/popserv-test-{os.getpid()}"
        factory = ControlFactory(Responder(self.operations(**changes)))
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        self.addCleanup(os.unlink, self.path)
        listening.listen()
        listening.setblocking(False)
        port = SharedPort(listening, factory, reactor)
        self.addCleanup(port.stopListening)

    async def run_command(self, *arguments):
        """Run a command; return its exit code, and what it has printed."""
        output = io.StringIO()

        def run():
            with redirect_stdout(output), redirect_stderr(output):
                return main([arguments[0], "--control", f"unix:{self.path}", *arguments[1:]])

        code = await deferToThread(run)
        return code, output.getvalue()

    async def json(self, *arguments):
        """Run a command; return the JSON that it has printed."""
        code, output = await self.run_command(*arguments, "--json")
        self.assertEqual(code, 0, output)
        return json.loads(output)

    async def test_who(self):
        """The connections are listed as a table, or as one JSON object in each line."""
        self.listen()
        code, output = await self.run_command("who")
        self.assertEqual((code, len(output.splitlines())), (0, 1))
        self.logged_in()
        self.connect()
        code, output = await self.run_command("who")
        heading, first, second = output.splitlines()
        self.assertEqual(
            heading.split(), "ID USER ADDRESS TLS METHOD STATE AGE IDLE MESSAGES OCTETS".split()
        )
        self.assertIn("  ann   127.0.0.1:54321  -    PASS    TRANSACTION  ", first)
        self.assertIn("AUTHORIZATION  -    ", second)
        _, output = await self.run_command("who", "--json")
        self.assertEqual([json.loads(line)["user"] for line in output.splitlines()], ["ann", None])

    async def test_kick(self):
        """It is an error if there is nobody to kick."""
        self.listen()
        self.logged_in()
        self.connect()
        self.assertEqual(await self.run_command("kick", "ann"), (0, "1 connection ended\n"))
        self.logged_in()
        self.assertEqual((await self.json("kick", "127.0.0.1"))["kicked"], 3)
        code, output = await self.run_command("kick", "eve\x1b")
        self.assertEqual((code, output), (1, "popserv: eve\\x1b has no connection\n"))

    async def test_status(self):
        """The state is printed as a table, or as one JSON object."""
        self.listen(ask=self.ask_with_caches)
        status = await self.json("status")
        self.assertEqual(status["caches"], {"maildrops": 7})
        self.assertEqual([each["pid"] for each in status["workers"]], [17])
        self.assertEqual(status["certificates"][0]["names"], ["a.example", "b.example"])
        code, output = await self.run_command("status")
        self.assertEqual(code, 0)
        for line in (
            "networks with failures  0",
            "caches, maildrops       7",
            "worker                  number 1; pid 17; state serving; uptime 1.5",
            "certificate             file a\\x1b.pem; names a.example, b.example; ends 2030",
        ):
            self.assertIn(line, output.splitlines())

    def ask_with_caches(self, topic, question):
        """Ask the process, and add a cache to its status."""
        answers = self.successful(self.bus.ask_here(topic, question))
        if topic == "control status":
            answers.given[0]["caches"]["maildrops"] = 7
        return succeed(answers)

    def successful(self, deferred):
        """Return the result of a Deferred that has one."""
        results = []
        deferred.addCallback(results.append)
        return results[0]

    async def test_others(self):
        """The other commands print what they have done."""
        self.listen()
        for arguments, text in [
            (("reload",), "changed files are read again; problems are logged"),
            (("log-level",), "debug"),
            (("log-level", "error"), "error"),
            (("unblock", "192.0.2.1"), "0 failed logins forgotten"),
            (("drain",), "the server stops; sessions have 60 seconds to end"),
            (
                ("drain", "--workers", "--seconds", "5"),
                "the workers are replaced; sessions have 5 seconds to end",
            ),
        ]:
            self.assertEqual(await self.run_command(*arguments), (0, f"{text}\n"))
        self.assertEqual(self.calls, ["reload", ("drain", 60), ("stop", 60), ("drain", 5)])
        self.factory.throttle.penalties.record_failure("192.0.2.1", [b"ann", b"pw"])
        self.assertEqual(
            await self.run_command("unblock", "192.0.2.1"), (0, "1 failed login forgotten\n")
        )

    async def test_others_json(self):
        """With --json they print a JSON object."""
        self.listen()
        for arguments, expected in [
            (("reload",), {}),
            (("log-level",), {"level": "debug"}),
            (("unblock", "192.0.2.1"), {"failures": 0}),
            (("drain",), {"seconds": 60}),
        ]:
            self.assertEqual(await self.json(*arguments), expected)

    async def test_missing(self):
        """If processes have not answered, what they have is missing: the exit code is 1."""
        self.listen(ask=lambda *_: succeed(Answers([{"pid": 9}], 2)))
        code, output = await self.run_command("who", "--json")
        self.assertEqual(
            (code, output), (1, "popserv: 2 of the processes have not answered in time\n")
        )

    async def test_missing_after_error(self):
        """That is said, too, if the others have nobody to kick."""
        self.listen(ask=lambda *_: succeed(Answers([0], 1)))
        code, output = await self.run_command("kick", "ann")
        self.assertEqual(
            (code, output.splitlines()),
            (
                1,
                [
                    "popserv: ann has no connection",
                    "popserv: 1 of the processes have not answered in time",
                ],
            ),
        )

    async def test_errors(self):
        """A refusal, and a server that is not there, are errors in one line."""
        self.listen()
        code, output = await self.run_command("unblock", "x")
        self.assertEqual((code, output), (1, "popserv: 'x' is no IP address\n"))
        self.path = "/nowhere"
        for name in CONTROL_COMMANDS:
            arguments = {"kick": ("ann",), "unblock": ("192.0.2.1",)}.get(name, ())
            code, output = await self.run_command(name, *arguments)
            self.assertEqual((code, output.count("\n")), (1, 1), output)
