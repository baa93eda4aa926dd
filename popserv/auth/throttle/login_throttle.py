"""The login throttle, which slows down password guessing.

It limits the concurrent logins of a network (:mod:`popserv.auth.throttle.slots`) and the rate at
which connections of unknown networks are started (:mod:`popserv.auth.throttle.starts`), and delays
the replies to failed logins (:mod:`popserv.auth.throttle.penalties`).  A network is one IPv4
address or one IPv6 /64.  A server has one :class:`LoginThrottle`, and each connection a
:class:`ClientThrottle`.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Protocol

from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred

from popserv.auth.throttle.penalties import Penalties, attempted_secrets
from popserv.auth.throttle.slots import LoginAttempt, LoginSlots
from popserv.auth.throttle.starts import Starter, StartQueue
from popserv.core.connection_details import ConnectionDetails, connection_details
from popserv.core.session import Authenticator, Release, client_is_connected
from popserv.interfaces import IMailbox
from popserv.runtime.bus import WorkerBus


class Client(Starter, Protocol):
    """The interface of a connection that a client throttle requires."""

    def details(self) -> ConnectionDetails:
        """Return what is known of the connection; called while a login runs."""


class LoginThrottle:
    """The throttle of a server: the penalties and slots of all networks, and the queue of starts.

    ``authenticator`` checks the credentials.  ``bus`` connects the server's workers, which
    share the penalties.  Each worker has slots and a queue of starts of its own.
    """

    def __init__(self, authenticator: Authenticator, bus: WorkerBus) -> None:
        self.authenticator = authenticator
        self.penalties = Penalties(bus)
        self.slots = LoginSlots(self.penalties.is_known_name)
        self.starts = StartQueue()

    def with_authenticator(self, authenticator: Authenticator) -> LoginThrottle:
        """Return a throttle for another service, such as SMTP; all but the authenticator is shared.

        A failed login at one of the services then delays the replies of both.
        """
        other = copy(self)
        other.authenticator = authenticator
        return other


class ClientThrottle:
    """The throttle of one connection, which runs one login at a time.

    ``network`` is the name of the client's network.  If it is None, neither logins nor
    starts are throttled.
    """

    __slots__ = ("_attempt", "_begun", "_client", "_is_counted", "_throttle", "network")

    def __init__(self, throttle: LoginThrottle, network: str | None, client: Client) -> None:
        self.network = network
        self._throttle = throttle
        self._client = client
        self._attempt: LoginAttempt | None = None
        # When the check of the credentials has begun, or has gone on after a challenge.
        self._begun: float | None = None
        # Whether the start of the connection is limited.
        self._is_counted = False

    def may_start(self, start: Callable[[], object]) -> bool:
        """Return whether the connection may be started now; otherwise ``start`` is called later."""
        throttle = self._throttle
        if self.network is None or throttle.penalties.is_known_network(self.network):
            return True
        self._is_counted = True
        return throttle.starts.may_start(self._client, self.network, start)

    async def authenticate(
        self, name: bytes, credentials: ICredentials
    ) -> tuple[IMailbox, Release]:
        """Wait for a slot, and log in.

        If the login fails, the slot is kept until :meth:`release` or :meth:`record_failure`.

        :raises popserv.errors.POPError: the authenticator raised it, the queue is full, or the
            client disconnected.
        """
        throttle, network, client = self._throttle, self.network, self._client
        if network is not None:
            attempt = LoginAttempt(network, name, credentials, client.is_connected)
            waiting = throttle.slots.acquire(attempt)
            self._attempt = attempt
            if waiting is not None:
                await waiting
        client_is_connected.set(client.is_connected)
        connection_details.set(client.details)
        self._begun = client.seconds()
        opened = await throttle.authenticator.authenticate(credentials)
        if network is not None:
            self.release()
            throttle.penalties.record_success(network, name)
            if self._is_counted:
                throttle.starts.discount()
        return opened

    def suspend(self, response: Deferred[bytes]) -> None:
        """Release the slot while the client answers a SASL challenge.

        When ``response`` fires, its other callbacks wait until the login has a slot again.
        """
        if self._attempt is not None:
            self._throttle.slots.release(self._attempt)
            response.addCallback(self._reacquire, self._attempt)
        response.addCallback(self._resume)

    def _reacquire(self, response: bytes, attempt: LoginAttempt) -> bytes | Deferred[bytes]:
        waiting = self._throttle.slots.reacquire(attempt)
        return response if waiting is None else waiting.addCallback(lambda _: response)

    def _resume(self, response: bytes) -> bytes:
        self._begun = self._client.seconds()
        return response

    def release(self) -> None:
        """Release the slot, if the connection has one."""
        self._begun = None
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            self._throttle.slots.release(attempt)

    def record_failure(self, name: bytes | None, delay: float) -> float:
        """Record a failed login; return the delay of its reply, and release its slot after that.

        ``delay`` is the base delay.  Both delays are in seconds.  That of the reply includes the
        time that the check has taken, which may tell something, such as whether the user exists.
        """
        attempt, self._attempt = self._attempt, None
        if self.network is not None:
            if self._is_counted:
                self._throttle.starts.count(self._client)
            credentials = attempt.credentials if attempt is not None else None
            attempted = attempted_secrets(name, credentials)
            delay *= self._throttle.penalties.record_failure(self.network, attempted)
        seconds = self._without_check(delay)
        if attempt is not None:
            self._client.callLater(seconds, partial(self._throttle.slots.release, attempt))
        return seconds

    def _without_check(self, delay: float) -> float:
        """Return what is left of a delay that began with the check, or of the next one."""
        begun, self._begun = self._begun, None
        if begun is None or not delay:
            return delay
        return delay - (self._client.seconds() - begun) % delay

    def cancel(self) -> None:
        """Leave the queue, because the client disconnected."""
        if self._attempt is not None:
            self._throttle.slots.cancel(self._attempt)

    def detach(self) -> None:
        """Drop the connection, after the end; no login may run any more."""
        del self._client
