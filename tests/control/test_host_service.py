"""popserv.control.host_service: a server is found and steered by the store that it shares."""

import json
from uuid import uuid4

from twisted.internet.defer import Deferred

from popserv import __version__
from popserv.control import commands
from popserv.control.host_service import INTERVAL, MAX_SILENCE, HostService
from popserv.runtime.bus import Answers
from tests.control.host_harness import HostCase


class ServiceTests(HostCase):
    """What a host does."""

    def test_announcement(self):
        """A host is there from its start, tells when it drains, and has gone when it stops."""
        service = self.start()
        [host] = self.shared.announced.values()
        self.assertEqual((host.name, host.version, host.is_draining), ("mx1", __version__, False))
        self.is_draining = True
        self.clock.advance(INTERVAL)
        [host] = self.shared.announced.values()
        self.assertTrue(host.is_draining)
        self.successResultOf(service.stopService())
        self.assertEqual(self.shared.announced, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_never_started(self):
        """A service that has not started can be stopped, and does not use the store."""
        service = HostService(None, "mx1", None, None, self.contact, self.clock)
        self.successResultOf(service.stopService())

    def test_contact(self):
        """The store counts as reachable from the first answer on until it is silent too long."""
        self.shared.is_away = True
        service = self.start()
        self.assertFalse(self.contact.is_reachable())
        self.shared.is_away = False
        self.clock.advance(INTERVAL)
        self.assertTrue(self.contact.is_reachable())
        self.shared.is_away = True
        self.clock.advance(MAX_SILENCE)
        self.assertTrue(self.contact.is_reachable())
        self.clock.advance(INTERVAL)
        self.assertFalse(self.contact.is_reachable())
        # It does not wait once more for what cannot be reached.
        self.shared.error = AssertionError()
        self.successResultOf(service.stopService())

    def test_unusable_store(self):
        """A store that cannot be used is logged once, and again after it could be used."""
        self.shared.error = ValueError("no such table")
        self.start()
        self.clock.pump([INTERVAL] * 3)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.shared.error = None
        self.clock.advance(INTERVAL)
        self.shared.error = ValueError("no such table")
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_once(self):
        """A request is carried out once, however often it is seen, and whatever it answers."""
        self.start()
        [host] = self.shared.announced
        box = {"_command": "reload", "_ask": "1"}
        for request in (uuid4(), uuid4()):
            self.wait_for(self.shared.ask(request, json.dumps(box), [host]), 3)
            self.wait_for(self.shared.forget(request), 3)
        self.assertEqual(self.calls, ["reload", "reload"])

    def test_other_requests(self):
        """What is no request, as one of another version of popserv may be, is left alone."""
        self.start()
        [host] = self.shared.announced
        for text in ("", "[]", "{}", '{"x": 1}', "{"):
            self.wait_for(self.shared.ask(uuid4(), text, [host]), 2)
        self.assertEqual({len(given) for given in self.shared.given.values()}, {0})

    def test_stop_while_busy(self):
        """A host that stops answers first what it has begun."""
        allowed = Deferred()
        service = self.start(allow_drain=lambda seconds: allowed)
        running = Deferred.fromCoroutine(self._drain())
        self.clock.advance(INTERVAL)
        stopped = service.stopService()
        self.assertNoResult(stopped)
        allowed.callback(Answers(()))
        self.successResultOf(stopped)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.successResultOf(running)[0][1], {"seconds": 7, "missing": 0})

    async def _drain(self):
        return await self.client.call(
            await self.client.hosts(), commands.Drain, seconds=7, workers=False
        )

    def test_stop_while_announcing(self):
        """A host that stops waits for an announcement that is under way."""
        waiting = Deferred()

        async def announce(*arguments):
            await waiting
            return []

        self.shared.announce = announce
        service = self.start()
        stopped = service.stopService()
        self.assertNoResult(stopped)
        waiting.callback(None)
        self.successResultOf(stopped)
