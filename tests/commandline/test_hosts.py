"""popserv who, kick and so on with --store, for hosts that share a store in memory."""

import json
from unittest.mock import patch

from zope.interface import implementer

from popserv.commandline import hosts
from popserv.commandline.parsing import CONTROL_COMMANDS
from popserv.control.host_client import HostClient
from popserv.errors import TryLater
from popserv.interfaces import ISharedStore
from tests.commandline.harness import CommandCase
from tests.control.host_harness import ANN, HostCase
from tests.control.test_process import FewCertificates
from tests.control.test_responder import FakeWorkers


@implementer(ISharedStore)
class Store:
    """A store with hosts."""

    def __init__(self, directory):
        self.hosts = directory


class HostCommandTests(HostCase, CommandCase):
    """The output and the exit codes of the commands, for two hosts."""

    certificates = FewCertificates()

    def setUp(self):
        """Start the hosts, which are the same server."""
        HostCase.setUp(self)
        CommandCase.setUp(self)
        self.store = Store(self.shared)
        self.patch(hosts, "make_store", lambda description, settings: self.store)
        self.patch(hosts, "run_in_reactor", lambda work, reactor: self.wait_for(work))
        self.patch(hosts, "HostClient", lambda hosts, _: HostClient(hosts, self.clock, timeout=2))
        self.start()
        self.start("mx2")

    def wait_for(self, coroutine, seconds=20):
        """Return what a coroutine returns, or raise what it raises."""

        async def work():
            try:
                return await coroutine, None
            except Exception as error:
                return None, error

        result, error = super().wait_for(work(), seconds)
        if error is not None:
            raise error
        return result

    def command(self, *arguments, code=0):
        """Run a command, and return what it has printed."""
        result = self.run_command([arguments[0], "--store", "sql:FILE", *arguments[1:]])
        self.assertEqual(result[0], code, result)
        return result[2] if code else result[1]

    def test_who(self):
        """The sessions of all hosts, or of one, are listed."""
        self.logged_in()
        heading, first, second = self.command("who").splitlines()
        self.assertEqual(heading.split()[:4], ["HOST", "ID", "USER", "ADDRESS"])
        self.assertEqual([first.split()[0], second.split()[0]], ["mx1", "mx2"])
        [line] = self.command("who", "--json", "--host", "mx2").splitlines()
        session = json.loads(line)
        self.assertEqual((session["host"], session["user"]), ("mx2", "ann"))

    def test_kick(self):
        """Sessions are ended on all hosts; an ID needs a host, because others may have it."""
        self.logged_in()
        self.assertEqual(self.command("kick", "ann"), "2 connections ended\n")
        self.logged_in()
        *_, line = self.command("who", "--json", "--host", "mx2").splitlines()
        id_ = json.loads(line)["id"]
        self.assertIn("--host is missing", self.command("kick", id_, code=2))
        kicked = self.command("kick", id_, "--host", "mx2", "--json")
        self.assertEqual(json.loads(kicked), {"kicked": 1})
        self.assertEqual(self.command("kick", "eve", code=1), "popserv: eve has no connection\n")

    def test_status(self):
        """The hosts are listed; of one that does not answer, when it was last seen."""
        self.shared.found = [ANN]
        code, output, error = self.run_command(["status", "--store", "sql:FILE"])
        heading, *rows = output.splitlines()
        self.assertEqual(
            heading.split(),
            [
                "HOST",
                "ID",
                "VERSION",
                "STATE",
                "UPTIME",
                "CONNECTIONS",
                "SESSIONS",
                "LOGINS",
                "SEEN",
            ],
        )
        self.assertEqual([row.split()[0] for row in rows], ["mx1", "mx2", "mx9"])
        self.assertEqual(
            rows[2].split(), ["mx9", "00000001", "1.0", "silent", "9.0", "-", "-", "-", "4.0"]
        )
        self.assertEqual(
            (code, error),
            (1, "popserv: host mx9, ID 00000001, has not answered in time, or only in part\n"),
        )
        self.is_draining = True
        self.clock.advance(1)
        status = json.loads(self.command("status", "--json", "--host", "mx1"))
        self.assertEqual((status["state"], status["connections"]), ("draining", 0))

    def test_status_json(self):
        """The JSON of a host has all that that of one server has; less if it does not answer."""
        self.start("mx3", workers=FakeWorkers())
        self.shared.found = [ANN._replace(uptime=9.06, unseen=3.14)]
        code, output, _ = self.run_command(["status", "--store", "sql:FILE", "--json"])
        self.assertEqual(code, 1)
        one, _, three, silent = map(json.loads, output.splitlines())
        self.assertEqual((one["host"], one["workers"], three["host"]), ("mx1", [], "mx3"))
        self.assertEqual([each["pid"] for each in three["workers"]], [101, 102])
        for host in (one, three):
            files = [each["file"] for each in host["certificates"]]
            self.assertEqual(files, ["0.pem", "1.pem", "2.pem"])
            self.assertLessEqual({"logins", "caches", "log_level"}, host.keys())
        self.assertEqual(
            silent,
            {
                "host": "mx9",
                "id": "00000001",
                "state": "silent",
                "seen": 3.1,
                "version": "1.0",
                "uptime": 9.1,
            },
        )

    def test_state(self):
        """A host is silent once it was not seen for more than three seconds."""
        for unseen, state in ((3.0, "serving"), (3.1, "silent")):
            self.shared.found = [ANN._replace(unseen=unseen)]
            code, output, _ = self.run_command(
                ["status", "--store", "sql:FILE", "--json", "--host", "mx9"]
            )
            self.assertEqual((code, json.loads(output)["state"]), (1, state))

    def test_status_error(self):
        """What one of the questions raises is an error."""
        with patch.object(HostClient, "listing", side_effect=TryLater):
            self.assertIn("try again later", self.command("status", "--json", code=1))

    def test_others(self):
        """The other commands print what they have done."""
        for arguments, text in [
            (("reload",), "changed files are read again; problems are logged"),
            (("log-level", "error"), "HOST  LEVEL\nmx1   error\nmx2   error"),
            (("log-level", "--json", "--host", "mx1"), '{"host": "mx1", "level": "error"}'),
            (("unblock", "192.0.2.1"), "0 failed logins forgotten"),
            (("drain", "--host", "mx2"), "the server stops; sessions have 60 seconds to end"),
        ]:
            self.assertEqual(self.command(*arguments), f"{text}\n")
        self.assertEqual(self.calls, ["reload", "reload", ("drain", 60), ("stop", 60)])

    def test_errors(self):
        """What is refused is an error in one line, and so is what cannot be done."""
        self.assertIn("--host is missing: drain one", self.command("drain", code=2))
        self.assertEqual(
            self.command("unblock", "x", code=1), "popserv: mx1: 'x' is no IP address\n"
        )
        self.assertIn("there is no host mx3", self.command("who", "--host", "mx3", code=1))
        self.shared.error = TryLater()
        self.shared.error.__cause__ = OSError("no answer")
        for name in CONTROL_COMMANDS:
            more = {"kick": ("ann",), "unblock": ("192.0.2.1",), "drain": ("--host", "mx1")}
            output = self.command(name, *more.get(name, ()), code=1)
            self.assertEqual(output, "popserv: no answer\n")

    def test_usage(self):
        """A store that is not shared, and options that do not fit together, are refused."""
        self.assertIn("--host requires --store", self.run_command(["who", "--host", "mx1"])[2])
        self.store = object()
        self.assertIn("no servers share this store", self.command("who", code=2))

    def test_interrupted(self):
        """Whoever interrupts a command is told that it may be carried out."""

        def interrupt(work, reactor):
            work.close()
            raise KeyboardInterrupt

        self.patch(hosts, "run_in_reactor", interrupt)
        self.assertIn("may carry out", self.command("kick", "ann", code=1))
