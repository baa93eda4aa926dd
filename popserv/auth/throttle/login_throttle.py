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
from popserv.errors import LoginFailed
from popserv.interfaces import IMailbox, ITokenCredentials
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
        self.slots = LoginSlots(self.penalties.is_known_name, self.penalties.known_secret_hash)
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

    __slots__ = (
        *("_attempt", "_begun", "_client", "_is_counted", "_reply_due", "_throttle"),
        "network",
    )

    def __init__(self, throttle: LoginThrottle, network: str | None, client: Client) -> None:
        self.network = network
        self._throttle = throttle
        self._client = client
        self._attempt: LoginAttempt | None = None
        # When the check of the credentials has begun, or has gone on after a challenge; None while
        # the client answers one, because its time is none of the check.
        self._begun: float | None = None
        # When the reply is due to a failed login that has been recorded already.
        self._reply_due: float | None = None
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
        try:
            opened = await throttle.authenticator.authenticate(credentials)
        except LoginFailed:
            await self._forget_secret(name, credentials)
            raise
        if network is not None:
            self.release()
            self._record_success(network, name, credentials)
            if self._is_counted:
                throttle.starts.discount()
        return opened

    def _record_success(self, network: str, name: bytes, credentials: ICredentials) -> None:
        penalties = self._throttle.penalties
        penalties.record_success(network, name, attempted_secrets(name, credentials))
        found: bytes = getattr(credentials, "username", b"")
        if not name and found:
            # The client has not named the user; it may do so in another way.
            penalties.record_success(network, found)

    async def _forget_secret(self, name: bytes, credentials: ICredentials) -> None:
        """Forget a secret that is refused; a login with its slot waits for another one."""
        throttle, network, attempt = self._throttle, self.network, self._attempt
        if network is not None:
            throttle.penalties.forget_secret(network, attempted_secrets(name, credentials))
        # The failure of a token has been recorded, with its slot.
        if attempt is not None:
            waiting = throttle.slots.give_up_secret(attempt)
            if waiting is not None:
                await waiting
                self._begun = self._client.seconds()

    def suspend(self, response: Deferred[bytes], delay: float) -> None:
        """Release the slot while the client answers a SASL challenge.

        When ``response`` fires, its other callbacks wait until the login has a slot again.

        The challenge to a client with a token tells that the login has failed.  That is recorded
        now, as by :meth:`record_failure`: the client may not answer.
        """
        attempt = self._attempt
        if attempt is not None and ITokenCredentials.providedBy(attempt.credentials):
            seconds = self.record_failure(attempt.name, delay)
            self._reply_due = self._client.seconds() + seconds
        elif attempt is not None:
            self._begun = None
            self._throttle.slots.release(attempt)
            response.addCallback(self._reacquire, attempt)
        response.addCallback(self._resume)

    def _reacquire(self, response: bytes, attempt: LoginAttempt) -> bytes | Deferred[bytes]:
        waiting = self._throttle.slots.reacquire(attempt)
        return response if waiting is None else waiting.addCallback(lambda _: response)

    def _resume(self, response: bytes) -> bytes:
        self._begun = self._client.seconds()
        return response

    def release(self) -> None:
        """Release the slot, if the connection has one."""
        self._begun = self._reply_due = None
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            self._throttle.slots.release(attempt)

    def record_failure(self, name: bytes | None, delay: float) -> float:
        """Record a failed login; return the delay of its reply, and release its slot after that.

        ``delay`` is the base delay.  Both delays are in seconds.  That of the reply includes the
        time that the check has taken, which may tell something, such as whether the user exists.
        """
        due = self._reply_due
        if due is not None:
            self.release()
            return max(0.0, due - self._client.seconds())
        attempt, self._attempt = self._attempt, None
        if self.network is not None:
            if self._is_counted:
                self._throttle.starts.count(self._client)
            credentials = attempt.credentials if attempt is not None else None
            attempted = attempted_secrets(name, credentials)
            delay *= self._throttle.penalties.record_failure(self.network, attempted)
        seconds = self._without_check(delay)
        if attempt is not None:
            if attempt.slot is None:
                # The client has disconnected instead of answering a challenge.
                self._throttle.slots.take_extra(attempt)
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
