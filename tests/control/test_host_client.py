"""popserv.control.host_client: asks the hosts that share a store."""

from uuid import UUID

from twisted.internet.defer import Deferred
from twisted.protocols import amp

from popserv.control import commands, sessions
from popserv.control.client import ControlError
from popserv.control.host_messages import encode_part
from popserv.errors import TryLater
from tests.control.host_harness import ANN, HostCase


class ClientTests(HostCase):
    """What somebody learns who asks."""

    def test_commands(self):
        """All hosts are asked, and answer as over their control sockets."""
        self.start()
        self.start("mx2")
        self.logged_in()
        answers = self.call(commands.GetStatus)
        self.assertEqual([answers[name]["status"]["sessions"] for name in ("mx1", "mx2")], [1, 1])
        self.assertEqual(
            {name: answer["level"] for name, answer in self.call(commands.SetLogLevel).items()},
            {"mx1": "debug", "mx2": "debug"},
        )
        self.assertEqual(self.client.silent, {})
        self.assertEqual(self.shared.requests, {})

    def test_listing(self):
        """A listing has all parts of all hosts, also of those that come later than others."""
        self.patch(sessions, "MAX_ITEMS", 2)
        for name in ("ann", "b\u00f6b"):
            self.logged_in(name)
        for _ in range(3):
            self.connect()
        self.start()
        self.start("mx2")

        async def listing():
            return await self.client.listing(await self.client.hosts(), "sessions")

        items = self.wait_for(listing())
        self.assertEqual([host.name for host, _ in items], ["mx1"] * 5 + ["mx2"] * 5)
        self.assertEqual([item["user"] for _, item in items[:2]], ["ann", "b\u00f6b"])

    def test_lost_part(self):
        """A host that could not give a part of a listing is told of; the others have answered."""
        self.patch(sessions, "MAX_ITEMS", 2)
        for name in ("ann", "bob", "cid", "dan", "eve"):
            self.logged_in(name)
        self.start()
        [losing] = self.shared.announced.values()
        self.start("mx2")
        give = self.shared.answer

        async def lose(request, host, part, text):
            if host == losing.id and part == 2:
                raise TryLater
            await give(request, host, part, text)

        self.patch(self.shared, "answer", lose)
        hosts = self.wait_for(self.client.hosts())
        items = self.wait_for(self.client.listing(hosts, "sessions"))
        self.assertEqual(
            [(host.name, item["user"]) for host, item in items],
            [("mx1", name) for name in ("ann", "bob")]
            + [("mx2", name) for name in ("ann", "bob", "cid", "dan", "eve")],
        )
        self.assertEqual(self.client.silent, {losing.id: losing})

    def test_not_forgotten(self):
        """The answers are shown also if the store cannot be told that they have arrived."""
        self.start()

        async def fail(request):
            raise TryLater

        self.patch(self.shared, "forget", fail)
        self.assertEqual(list(self.call(commands.GetStatus)), ["mx1"])

    def test_named(self):
        """A host is found by its name, if only one has it, or by its ID."""
        self.assertIn("no server uses the store", self.refused(self.client.hosts()))
        self.assertIn("the hosts are: none", self.refused(self.client.hosts("mx1")))
        self.shared.found = [ANN, ANN._replace(id=UUID(int=2 << 96))]
        self.start("mx1")
        self.assertEqual([each.name for each in self.wait_for(self.client.hosts("mx1"))], ["mx1"])
        for name in ("00000001", ANN.id.hex):
            self.assertEqual(self.wait_for(self.client.hosts(name)), [ANN])
        self.assertIn("the hosts are: mx1, mx9, mx9", self.refused(self.client.hosts("mx7")))
        self.assertIn("by its ID: 00000001, 00000002;", self.refused(self.client.hosts("mx9")))

    def test_silent(self):
        """A host that does not answer in time is told of, and so is one with such a process."""
        self.shared.found = [ANN]
        self.bus.ask_here = self.patched_ask(self.bus.ask_here)
        self.start()
        answers = self.call(commands.GetStatus)
        self.assertEqual(list(answers), ["mx1"])
        self.assertEqual(sorted(each.name for each in self.client.silent.values()), ["mx9"])
        self.client.silent.clear()
        [host] = self.shared.announced.values()
        self.missing = 1
        self.call(commands.GetStatus, [host])
        self.assertEqual(list(self.client.silent.values()), [host])

    missing = 0

    def patched_ask(self, ask):
        """Return what asks, of whose processes some have not answered."""

        def patched(*arguments):
            return ask(*arguments).addCallback(
                lambda answers: answers._replace(missing=self.missing)
            )

        return patched

    def test_refused(self):
        """A host that refuses a command is named."""
        self.start()

        async def call(command, **arguments):
            return await self.client.call(await self.client.hosts(), command, **arguments)

        self.assertEqual(
            self.refused(call(commands.Unblock, address="x")), "mx1: 'x' is no IP address"
        )
        self.assertEqual(
            self.refused(call(commands.Drain, seconds=-1, workers=False)),
            "mx1: the seconds must be from 0 to 86400",
        )

    def test_faults(self):
        """A command that fails, or that the host does not know, is one that is refused."""

        class Unknown(amp.Command):
            pass

        def reload():
            raise ValueError("secret")

        self.start(reload=reload)

        async def call(command, **arguments):
            return await self.client.call(await self.client.hosts(), command, **arguments)

        self.assertEqual(
            self.refused(call(Unknown)), "mx1: this version of popserv has no such command"
        )
        self.assertIn("mx1: the command has failed;", self.refused(call(commands.Reload)))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_older_host(self):
        """A host of an older version, which does not tell what is missing, has been drained."""
        self.shared.found = [ANN]
        arguments = {"seconds": None, "workers": False}
        running = Deferred.fromCoroutine(self.client.call([ANN], commands.Drain, **arguments))
        [request] = self.shared.requests
        text = encode_part({amp.ANSWER: b"1", b"seconds": b"60"}, more=False)
        self.shared.given[request].append((ANN.id, 0, text))
        self.clock.advance(1)
        [(host, answer)] = self.successResultOf(running)
        self.assertEqual((host, answer["seconds"], self.client.silent), (ANN, 60, {}))

    def test_invalid_answers(self):
        """An answer that is none is an error of its host, and the request is forgotten."""
        self.shared.found = [ANN]
        for text in ("", "[]", "{}", '{"box": 1, "more": 1}', encode_part({}, more=False)):
            running = Deferred.fromCoroutine(self.client.call([ANN], commands.GetStatus))
            [request] = self.shared.requests
            self.shared.given[request].append((ANN.id, 0, text))
            self.clock.advance(1)
            error = self.failureResultOf(running, ControlError).value
            self.assertEqual(str(error), "mx9 has sent an invalid answer")
            self.assertEqual(self.shared.requests, {})
