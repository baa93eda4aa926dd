"""Has the realm, the connections, the commands and the deliveries of a server counted."""

from __future__ import annotations

from typing import Any

from twisted.cred.portal import IRealm

from popserv.delivery.factory import LMTPFactory
from popserv.interfaces import IMaildropFactory, IMeasuredStore
from popserv.metrics import catalogue
from popserv.metrics.commands import MeasuredCommands
from popserv.metrics.counters import Counters
from popserv.metrics.lmtp import MeasuredLMTPServer
from popserv.metrics.protocol import MeasuredServer
from popserv.metrics.realm import MeasuredRealm
from popserv.server.factory import POP3Factory


class Instruments:
    """The instruments of one process, which all count with the same counters."""

    def __init__(self) -> None:
        self.counters = Counters()

    def measure_realm(self, realm: IRealm) -> IRealm:
        """Return a realm that does the same as another one, and counts."""
        return IRealm(MeasuredRealm(realm, self.counters))

    def measure_factory(self, factory: POP3Factory) -> None:
        """Have a factory count its commands, and make connections that count."""
        factory.commands = MeasuredCommands(factory.commands, self.counters)
        protocol: Any = factory.protocol
        factory.protocol = type(
            f"Measured{protocol.__name__}",
            (MeasuredServer, protocol),
            {"counters": self.counters},
        )

    def measure_store(self, store: IMaildropFactory) -> None:
        """Have the statements of a store counted, if it executes any."""
        if IMeasuredStore.providedBy(store):
            IMeasuredStore(store).measure(self._observe)

    def _observe(self, outcome: str, seconds: float) -> None:
        self.counters.add(catalogue.DATABASE_STATEMENTS, (outcome,))
        self.counters.observe(catalogue.DATABASE_SECONDS, seconds)

    def measure_lmtp(self, factory: LMTPFactory) -> None:
        """Have a factory make connections that count deliveries."""
        protocol: Any = factory.protocol
        factory.protocol = type(
            f"Measured{protocol.__name__}",
            (MeasuredLMTPServer, protocol),
            {"counters": self.counters},
        )
