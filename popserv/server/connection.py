"""The life of a connection: greeting, TLS, back-pressure, the end of its session.

Rules of this file:
 1. A session ends once, and never while one of its commands still runs: no removal is
    interrupted, and no lock that is being taken is lost.
 2. While the client does not read, nothing is read from it: a session needs no more
    memory than one read and a few chunks of a body.
The module has more than 300 lines, because all that starts or ends a session is in one place.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed, ConnectionDone
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from popserv.auth.throttle.login_throttle import ClientThrottle
from popserv.core.connection_details import ConnectionDetails
from popserv.core.holder import client_holder
from popserv.core.replies import err_line, ok_line
from popserv.core.session import Release, Session
from popserv.errors import POPError, TryLater
from popserv.interfaces import IMailbox
from popserv.runtime.coroutines import run_eagerly
from popserv.server.hand_over import HandOverMixin
from popserv.server.idle import IdleTimeoutMixin
from popserv.server.line_receiver import CommandLineReceiver
from popserv.server.reply_writer import ReplyWriter
from popserv.server.session_events import EndReason, SessionEvents
from popserv.transports.output import close_now, disable_nagle
from popserv.transports.peers import (
    details_of,
    has_disconnected,
    host_and_port,
    is_behind_twisted_proxy,
    is_local,
    uses_tls,
)
from popserv.transports.starttls import can_start_tls, short_reason, tls_state

if TYPE_CHECKING:
    from popserv.server.factory import POP3Factory


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class Connection(CommandLineReceiver, IdleTimeoutMixin, HandOverMixin):
    """A connection with a session, without commands.

    A subclass runs the commands: it provides the abstract methods.  ``is_disconnected`` tells
    whether the connection is lost, and ``input_is_over`` whether the client has closed its end
    and will send no more, ``command_pending`` whether a command is running, ``has_greeted``
    whether the greeting was sent, and ``is_new_turn`` whether the next input begins a turn of the
    reactor, which over TLS is known to ServerConnection.
    """

    log = Logger()
    # ITCPTransport and IConsumer in one, for which there is no type.
    transport: Any
    factory: POP3Factory
    peer: Any
    session: Session
    output: ReplyWriter
    events: SessionEvents
    throttle: ClientThrottle
    is_disconnected = False
    input_is_over = False
    command_pending = False
    has_greeted = False
    is_new_turn: bool

    make_events: Any = SessionEvents
    """Returns what logs the events of the connection, for its transport."""

    _timestamp: bytes | None
    _has_completed_handshake = _has_ended = False

    def connectionMade(self) -> None:
        """Start the session at once or after the TLS handshake, or when the throttle permits it."""
        factory = self.factory
        self.peer = self.transport.getPeer()
        # One for the whole connection: a login after STLS discounts the start before it.
        self.throttle = ClientThrottle(factory.throttle, factory.networks.of(self.peer), self)
        self.output = self.make_writer()
        self.events = self.make_events(self.transport)
        self._timestamp = factory.make_timestamp() if factory.apop_available() else None
        self.start_session()
        self.start_idle_timer(factory.idle_timeout)
        if is_behind_twisted_proxy(self.transport):
            self.log.critical(
                "connection closed: Twisted's endpoint haproxy: believes every client; "
                "use popserv.server.ProxyFactory instead"
            )
            self.close()
            return
        has_tls = ISSLTransport.providedBy(self.transport)
        if not factory.admit():
            self.write_error(TryLater("too many connections, try again later"))
            if has_tls:
                # The connection limit does not count it, and without a handshake it would stay.
                self.transport.abortConnection()
            else:
                self.close()
            return
        factory.connections.add(self, self.throttle.network)
        if not self.throttle.may_start(self._start_later):
            self.paused = True
            # Without TLS, the transport reads until the client sends something, and so notices one
            # that disconnects.
            if has_tls:
                self.transport.pauseProducing()
        elif not has_tls:
            self._start()

    def callLater(self, period: float, func: Callable[[], object]) -> Any:
        """Call a function after a number of seconds; see TimeoutMixin."""
        return self.factory.timeouts.call_later(period, func)

    def seconds(self) -> float:
        """See Client."""
        return self.factory.timeouts.now()

    def make_writer(self) -> ReplyWriter:
        """Return the writer of the connection's output."""
        return ReplyWriter(self.transport)

    def handshakeCompleted(self) -> None:
        """Send the greeting over TLS, unless it was sent before STLS."""
        self._has_completed_handshake = True
        # Each record is passed on by itself.
        self.is_new_turn = False
        if self.closing:
            return
        if self.has_greeted:
            self._register_producer()
        else:
            self._start()

    def tls_version(self) -> str | None:
        """Return the version of TLS, also when the session has ended; None before a handshake."""
        if not (self._has_completed_handshake and ISSLTransport.providedBy(self.transport)):
            return None
        return tls_state(self.transport).version()

    def start_session(self) -> None:
        """Start a new session, with no state of an earlier session on this connection."""
        factory, transport = self.factory, self.transport
        has_tls = ISSLTransport.providedBy(transport)
        is_over_tls = has_tls or uses_tls(transport)
        self.session = Session(
            self,
            host=factory.host,
            timestamp=self._timestamp,
            allows_login=is_over_tls or not factory.require_tls,
            allows_cleartext=is_over_tls or factory.allow_plaintext or is_local(self.peer),
            can_start_tls=not is_over_tls and factory.tls is not None and can_start_tls(transport),
            downgrader=factory.downgrader,
            workarounds=factory.workarounds,
            tls_state=tls_state(transport) if has_tls else None,
            capabilities=factory.capabilities,
            send_challenge=self.send_challenge,
            peer=self._peer,
            logged_in=self._logged_in,
            read_ahead=factory.read_ahead,
        )

    def _peer(self) -> tuple[str, int] | None:
        """Return the client's address and port; see Session."""
        return host_and_port(self.peer)

    def _logged_in(self) -> None:
        self.events.log_login(self.session)
        # Nothing needs the address any more, and most connections are idle.
        self.peer = None

    def _start(self) -> None:
        self.has_greeted = True
        disable_nagle(self.transport)
        self._register_producer()
        self.greet()

    def _start_later(self) -> None:
        """Start the session or the TLS handshake of one that has waited; see StartQueue."""
        if not self.closing:
            self.resetTimeout()
            self.factory.connections.renew(self)
            if not ISSLTransport.providedBy(self.transport):
                self._start()
            self.resume_input()

    def greet(self) -> None:
        """Send the greeting (RFC 1725 section 4)."""
        greeting = self.factory.greeting
        if self._timestamp is not None:
            greeting += b" " + self._timestamp
        self.output.write(ok_line(greeting))

    def _register_producer(self) -> None:
        # The transport calls pauseProducing when the client does not read.  Over TLS it also
        # does so before the handshake, which would then never be read.
        self.transport.registerProducer(self, True)

    def upgrade_to_tls(self) -> None:
        """Start TLS and a new session (RFC 2595 sections 4 and 7)."""
        self.output.flush()
        # An attacker may have injected octets that arrived with STLS, whole lines or a part of one.
        self.clearLineBuffer()
        self.transport.unregisterProducer()
        # Without a producer the transport does not report that the output has drained, and the
        # handshake must be read.
        self.output.is_paused = False
        self.transport.startTLS(self.factory.tls)
        self.start_session()

    # Authenticator, for the session, and Client, for its throttle

    def supports(self, credentials: type[Interface]) -> bool:
        """See Authenticator."""
        return self.factory.throttle.authenticator.supports(credentials)

    def relayed_mechanisms(self) -> Mapping[bytes, bool]:
        """See Authenticator."""
        return self.factory.throttle.authenticator.relayed_mechanisms()

    async def authenticate(self, credentials: ICredentials) -> tuple[IMailbox, Release]:
        """See Authenticator."""
        client_holder.set(self)
        opened = await self.throttle.authenticate(self.session.name or b"", credentials)
        self.factory.connections.mark_authenticated(self)
        return opened

    def is_connected(self) -> bool:
        """See Client."""
        return not (self.is_disconnected or has_disconnected(self.transport))

    def details(self) -> ConnectionDetails:
        """See Client."""
        return details_of(self.transport)

    # For the subclass

    @abstractmethod
    def send_challenge(self, challenge: bytes) -> Deferred[bytes]:
        """Send a SASL challenge and return the line of the response; see Session."""

    @abstractmethod
    def resume_input(self) -> None:
        """Process the next line, if one may be processed now."""

    @abstractmethod
    def abandon_command(self) -> bool:
        """Abandon a body, reply or challenge in progress; return whether no command is running."""

    # The end

    def readConnectionLost(self) -> None:
        """Note that the client will send no more; commands received are still answered."""
        self.input_is_over = True
        if self.has_greeted or self.unprocessed_octets:
            self.close_if_input_is_over()
        else:
            # The connection waits to be started, and there is nothing to answer.
            self.close()

    def writeConnectionLost(self) -> None:
        """Abort the connection, because the client reads no more."""
        self.transport.abortConnection()

    @abstractmethod
    def close_if_input_is_over(self) -> None:
        """Close if the client will send no more and all commands are answered."""

    def body_octets(self) -> int:
        """Return how many octets of the body that is being sent were written."""
        return self.output.body_octets

    def timed_out(self) -> None:
        """Close the connection, which was inactive for too long."""
        self.events.note_end(EndReason.TIMEOUT)
        super().timed_out()

    def abort(self, reason: EndReason) -> None:
        """Abort the connection, for a reason that is logged, unless it is lost already."""
        if not self.is_disconnected:
            self.events.note_end(reason)
            self.transport.abortConnection()

    def close(self) -> None:
        """Close once all output is sent; a body that is being sent is truncated."""
        self.output.stop_body()
        self.clearLineBuffer()
        self.output.flush(is_last=True)
        # close_now calls connectionLost.
        if self.closing or not close_now(self.transport):
            super().close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the session, without UPDATE unless QUIT has entered it."""
        self.stop_idle_timer()
        self.factory.connections.remove(self)
        self.factory.throttle.starts.remove(self)
        self.closing = self.is_disconnected = True
        if isinstance(reason.value, ConnectionDone):
            self.events.note_end(EndReason.CLOSED)
        elif self.factory.is_stopped:
            # A reactor that stops breaks the connections once the ports are closed.
            self.events.note_end(EndReason.SHUTDOWN)
        # A client that just closed the connection did not fail.
        failed = not (self._has_completed_handshake or isinstance(reason.value, ConnectionClosed))
        if failed and ISSLTransport.providedBy(self.transport):
            self.events.log_failed_handshake(short_reason(reason.value))
        self.throttle.cancel()
        # A login that is cancelled ends the session.
        if self.abandon_command():
            self.end_session()

    def end_session(self) -> None:
        """Release the mailbox of the session, if that has not been done yet."""
        if self._has_ended:
            return
        self._has_ended = True
        # It refers to this connection.
        self.session.tls_state = None
        self.events.log_end(self.session)
        run_eagerly(self._release())

    async def _release(self) -> None:
        try:
            await self.session.end()
        except Exception:
            self.events.log_failed_release(Failure())
        self.session_ended()
        if self.is_disconnected:
            # What refers to this connection: Python frees all of it now, and not when it next looks
            # for cycles, which takes a tenth of the time of a short session.
            self.session.detach()
            self.throttle.detach()

    def session_ended(self) -> None:
        """Do nothing more, now that the mailbox is released."""

    def write_error(self, error: POPError) -> None:
        """Write ``-ERR`` in the session's language."""
        self.output.write(err_line(error, self.session.language))

    # IPushProducer: the transport tells whether the client reads

    def pauseProducing(self) -> None:
        """Write no more, and accept no more commands, because the client does not read."""
        self.output.pause()
        LineReceiver.pauseProducing(self)

    def resumeProducing(self) -> None:
        """Continue, because the client has read."""
        self.resetTimeout()
        if not self.output.resume():
            self.resume_input()

    def stopProducing(self) -> None:
        """Read no more, because the connection is lost; connectionLost follows."""
        self.paused = True
