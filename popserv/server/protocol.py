"""A LineReceiver that turns lines into commands and replies into bytes, one at a time.

Rules of this file:
 1. One command runs at a time.  While one is pending, or its body is being sent,
    or the client does not read what it was sent, no input is taken: pipelining
    needs no queue, and a session no more memory than a read and a few chunks.
 2. A session ends once, and never while a command of it still runs: so no removal
    is interrupted, and no lock that is still being taken is lost.
 3. Once a status line is out there is no -ERR: what fails in mid-body breaks the
    connection, and never passes a stump off as a whole message.
 4. No text of an unexpected exception reaches a client.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from popserv.auth.throttle.login_throttle import ClientThrottle
from popserv.core.grammar import MAX_LINE, MAX_SASL_LINE, split_line
from popserv.core.replies import After, Reply, challenge_line, err_line, ok_line
from popserv.core.session import Release, Session, State
from popserv.errors import BadCommand, LoginFailed, POPError, TryLater
from popserv.interfaces import IMailbox
from popserv.messages.framing import ListingFramer
from popserv.runtime.coroutines import run_eagerly
from popserv.server.body import ENOUGH, BodySender
from popserv.server.idle import IdleTimeoutMixin
from popserv.transports.output import close_now, disable_nagle, write_now
from popserv.transports.peers import has_disconnected, is_private, peer_name
from popserv.transports.starttls import short_reason, start_tls, tls_state

if TYPE_CHECKING:
    from popserv.server.factory import POP3Factory


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class POP3Server(LineReceiver, IdleTimeoutMixin):
    """One connection: RFC 1725's command grammar on the wire, a :class:`Session` behind it."""

    # A bare LF ends a line too, for people who type at it through nc.
    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE + 1

    MAX_FAILED_LOGINS = 3
    """Failed logins that end a connection."""
    MAX_BAD_COMMANDS = 20
    """Lines in a row that are no command, which end a connection: this is no POP3 client."""
    FAILED_LOGIN_DELAY = 2.0
    """Seconds before a failed login is answered, if its network had none before it."""
    MAX_LOGGED_ERRORS = 100
    """Refusals of one connection after which no more reasons are logged."""
    LINES_PER_TURN = 50
    """Pipelined commands answered before other sessions have their turn; a body counts as ten."""

    log = Logger()
    # ITCPTransport and IConsumer in one, for which there is no type.
    transport: Any
    factory: POP3Factory
    session: Session
    _timestamp: bytes | None
    _guard: ClientThrottle

    _busy = False
    _asked: Deferred[bytes] | None = None
    _greeted = False
    _shook_hands = False
    _put_back = False
    _heard = False
    _gathers = False
    _took_line = False
    _unsent = 0
    _out: list[bytes] | None = None
    _output_full = False
    _input_over = False
    _gone = False
    _body: BodySender | None = None
    _late: IDelayedCall | None = None
    _guesses = 0
    _blunders = 0
    _lines = 0
    _logged = 0

    # The connection

    def connectionMade(self) -> None:
        """Begin the session: at once, or once TLS is there."""
        if self._greeted:
            # STLS behind a wrapper: only the transport is new.
            return
        factory = self.factory
        self._timestamp = factory.make_timestamp() if factory.apop_available() else None
        self._begin_session()
        self.start_idle_timer(factory.idle_timeout)
        if not factory.admit():
            self._write_error(TryLater("too many connections, try again later"))
            self.close()
            return
        factory.connections.add(self, self._guard.network)
        if not ISSLTransport.providedBy(self.transport):
            self._start()

    def handshakeCompleted(self) -> None:
        """Greet over TLS, unless that was done before STLS."""
        self._shook_hands = True
        if self.closing:
            return
        if self._greeted:
            self._register_producer()
        else:
            self._start()

    def _begin_session(self) -> None:
        factory, transport = self.factory, self.transport
        has_tls = ISSLTransport.providedBy(transport)
        self._guard = ClientThrottle(factory.throttle, factory.networks.of(transport), self)
        self.session = Session(
            self,
            host=factory.host,
            timestamp=self._timestamp,
            allows_login=has_tls or not factory.require_tls,
            allows_cleartext=factory.allow_plaintext or is_private(transport),
            can_start_tls=factory.tls is not None and not has_tls,
            as_stored=b"UTF8" not in factory.commands,
            workarounds=factory.workarounds,
            tls_state=tls_state(transport) if has_tls else None,
            capabilities=factory.capabilities,
            send_challenge=self._ask,
            peer=self._peer,
        )

    def _peer(self) -> tuple[str, int] | None:
        """Return the client's address and port; see Session."""
        peer: Any = self.transport.getPeer()
        return (peer.host, peer.port) if hasattr(peer, "port") else None

    def _start(self) -> None:
        self._greeted = True
        disable_nagle(self.transport)
        self._register_producer()
        self._greet()

    def _greet(self) -> None:
        """Send the greeting (RFC 1725 section 4)."""
        greeting = self.factory.greeting
        if self._timestamp is not None:
            greeting += b" " + self._timestamp
        self._write(ok_line(greeting))

    def _register_producer(self) -> None:
        # Back-pressure: the transport calls pauseProducing when the client does not read.
        # Over TLS it does so before the handshake, too, and would then never read it.
        self.transport.registerProducer(self, True)

    def _start_tls(self) -> None:
        """Go on over TLS as if nothing had been said (RFC 2595 sections 4 and 7)."""
        self._flush()
        # What came with STLS, whole lines or half a one, came from anybody.
        self.clearLineBuffer()
        self.transport.unregisterProducer()
        # Nobody would say that it has drained, and the handshake must be read.
        self._output_full = False
        start_tls(self.transport, self.factory.tls, self)
        self._begin_session()

    def readConnectionLost(self) -> None:
        """The client will send no more, but what it sent is still answered."""
        self._input_over = True
        self._close_if_over()

    def writeConnectionLost(self) -> None:
        """The client can be told nothing more."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the session, without UPDATE unless QUIT has begun it."""
        self.stop_idle_timer()
        self.factory.connections.remove(self)
        self.closing = self._gone = True
        has_tls = ISSLTransport.providedBy(self.transport)
        # A client that just went away has told nothing.
        if has_tls and not (self._shook_hands or reason.check(ConnectionClosed)):
            self.log.info(
                "{peer}: TLS handshake failed: {reason}",
                peer=peer_name(self.transport),
                reason=short_reason(reason.value),
            )
        if self._body is not None:
            self._body.stop()
            self._body = None
            self._busy = False
        self._guard.cancel()
        if self._late is not None:
            # Nobody waits for the answer; the failed login's turn goes on.
            self._late.reset(0)
        if self._asked is not None:
            asked, self._asked = self._asked, None
            asked.errback(_gone())
        elif not self._busy:
            self._end_session()

    def _end_session(self) -> Deferred[None]:
        """Release what the session has; called once, as the last of a connection."""
        session = self.session
        # It leads back to this very connection.
        session.tls_state = None
        if session.state is not State.AUTHORIZATION:
            self.log.info(
                "{peer}: session of {user!r} ended, {removed} removed, {left} left",
                user=session.name,
                peer=peer_name(self.transport),
                removed=session.removed,
                left=len(session.mailbox.messages) - session.removed,
            )
        return Deferred.fromCoroutine(session.end()).addErrback(
            lambda failure: self.log.failure("cannot release a maildrop", failure)
        )

    # Input: lines to commands

    def dataReceived(self, data: bytes) -> None:
        """Take input, unless closing: TLS goes on reading, for the client's close_notify."""
        if self.closing:
            return
        if not self._heard:
            self._heard = True
            if isinstance(self.transport, ProtocolWrapper):
                # By haproxy: the client's address is known only now.
                self._begin_session()
                self.factory.connections.move(self, self._guard.network)
        if self._gathers:
            super().dataReceived(data)
            return
        self._gathers = True
        # The reactor has just given it a turn.
        self._lines = 0
        super().dataReceived(data)
        while self._put_back:
            self._put_back = False
            super().dataReceived(b"")
        self._gathers = False
        self._flush()
        if self._took_line:
            self._took_line = False
            self.resetTimeout()

    def lineReceived(self, line: bytes) -> None:
        """Run one command."""
        if self.closing:
            return
        self._took_line = True
        self.MAX_LENGTH = MAX_LINE + 1
        line = line.removesuffix(b"\r")
        if self._asked is not None:
            asked, self._asked = self._asked, None
            asked.callback(line)
        else:
            self._run(line)
        self._take_turns()

    def _run(self, line: bytes) -> None:
        self._busy = True
        try:
            keyword, argument = split_line(line)
            command = self.factory.commands.find(self.session, keyword)
            run = command.run(self.session, *command.parse(argument))
            outcome = run if isinstance(run, Reply) else run_eagerly(run)
        except Exception:
            self._refuse(Failure())
        else:
            if isinstance(outcome, Reply):
                self._answer(outcome)
            else:
                outcome.addCallbacks(self._answer, self._refuse)

    def _take_turns(self) -> None:
        """Take no further line while a command is pending, or others should have their turn."""
        self._lines += 1
        if self._busy and self._asked is None:
            LineReceiver.pauseProducing(self)
        elif self._lines >= self.LINES_PER_TURN and not self.paused and not self.closing:
            LineReceiver.pauseProducing(self)
            self.callLater(0, self._take_input)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer once and close: what follows may be anything."""
        if line[:5].upper() == b"AUTH " and self.MAX_LENGTH <= MAX_LINE + 1:
            # RFC 5034 section 4: an initial response may be as long as an answer.
            self.MAX_LENGTH = MAX_SASL_LINE + 1
            # The receiver is busy, so that this only fills its buffer again.
            super().dataReceived(line)
            self._put_back = True
            return
        self._write_error(BadCommand("line too long"))
        self.close()

    def _ask(self, octets: bytes) -> Deferred[bytes]:
        """Send a SASL challenge and hand over the line that answers it; see Session."""
        if self._gone:
            raise _gone()
        asked: Deferred[bytes] = Deferred()
        self._asked = asked
        self._guard.suspend(asked)
        self.MAX_LENGTH = MAX_SASL_LINE + 1
        self._write(challenge_line(octets))
        self._take_input()
        return asked

    # Login, which the session asks for; and Client, which its guard asks

    def supports(self, credentials: type[Interface]) -> bool:
        """See Login."""
        return self.factory.throttle.authenticator.supports(credentials)

    async def authenticate(self, credentials: ICredentials) -> tuple[IMailbox, Release]:
        """See Login."""
        opened = await self._guard.authenticate(self.session.name or b"", credentials)
        self.factory.connections.settle(self)
        return opened

    def is_connected(self) -> bool:
        """See Client."""
        return not (self._gone or has_disconnected(self.transport))

    # Output: replies and bodies

    def _write(self, octets: bytes) -> None:
        """Send now, or together with what else answers the input at hand."""
        if not self._gathers:
            write_now(self.transport, octets)
            return
        if self._out is None:
            self._out = []
        self._out.append(octets)
        self._unsent += len(octets)
        if self._unsent >= ENOUGH:
            self._flush()

    def _flush(self) -> None:
        out, self._out = self._out, None
        if out:
            self._unsent = 0
            write_now(self.transport, out[0] if len(out) == 1 else b"".join(out))

    def _answer(self, reply: Reply) -> None:
        """Send a positive reply, then do what it says comes after."""
        self._blunders = 0
        if reply.body is None:
            self._write(ok_line(reply.text, self.session.language))
            self._done(reply.after)
            return
        self._lines += 9
        framer = reply.framer or ListingFramer()
        head = ok_line(reply.text, self.session.language)
        finished = partial(self._body_sent, reply.after)
        body = BodySender(head, reply.body, framer, self._write, self.callLater, finished)
        if self.closing:
            body.stop()
            self._done(After.CLOSE)
            return
        self._body = body
        if not self._output_full:
            body.resume()

    def _body_sent(self, after: After, failure: Failure | None) -> None:
        self._body = None
        if failure is None:
            self._done(after)
        else:
            self.log.failure("reading a message failed, connection aborted", failure)
            # Before it could be closed in order.
            self.closing = True
            self._out = None
            self.transport.abortConnection()
            self._done(After.CLOSE)

    def _refuse(self, failure: Failure) -> None:
        """Send a negative reply; a failed login waits for it, so that guessing takes time."""
        error = failure.value
        to_log = self._logged < self.MAX_LOGGED_ERRORS
        self._logged += 1
        if not isinstance(error, POPError):
            if to_log:
                self.log.failure("unexpected error in a command", failure)
            error = TryLater()
        elif to_log and error.__cause__ is not None:
            self.log.warn(
                "{peer}: {user!r:.200} was refused with {text!r}: {cause}",
                peer=peer_name(self.transport),
                user=self.session.name,
                text=str(error.text),
                cause=error.__cause__,
            )
        if isinstance(error, LoginFailed):
            self._guesses += 1
            seconds = self._guard.record_failure(self.session.name, self.FAILED_LOGIN_DELAY)
            self._late = self.callLater(0 if self._gone else seconds, partial(self._deny, error))
        else:
            self._guard.release()
            self._blunders = self._blunders + 1 if isinstance(error, BadCommand) else 0
            self._deny(error)

    def _write_error(self, error: POPError) -> None:
        self._write(err_line(error, self.session.language))

    def _deny(self, error: POPError) -> None:
        self._late = None
        self._write_error(error)
        self._done(After.CLOSE if self._has_had_enough() else After.CONTINUE)

    def _has_had_enough(self) -> bool:
        """Whether a refusal ends the session."""
        return (
            self._guesses >= self.MAX_FAILED_LOGINS
            or self._blunders >= self.MAX_BAD_COMMANDS
            or self.session.state is State.UPDATE
        )

    def _done(self, after: After) -> None:
        """The command is over: take the next line, or close."""
        self._busy = False
        if self._gone:
            self._end_session()
        elif after is After.CLOSE:
            self.close()
        else:
            if after is After.START_TLS:
                self._start_tls()
            self._take_input()

    @property
    def _is_listening(self) -> bool:
        """Whether the next line is wanted: as a command, or as an answer to a challenge."""
        return self._asked is not None or not self._busy

    def _take_input(self) -> None:
        if self.paused and self._is_listening and not (self._output_full or self.closing):
            # Runs the lines that are here already, until one of them must wait.
            LineReceiver.resumeProducing(self)
            self._close_if_over()

    def _close_if_over(self) -> None:
        if self._input_over and self._is_listening and not self.paused:
            self.close()

    def close(self) -> None:
        """Close once what was written is out; a body under way stays a stump."""
        if self._body is not None:
            self._body.stop()
        self.clearLineBuffer()
        self._flush()
        # Which ends in connectionLost.
        if self.closing or not close_now(self.transport):
            super().close()

    # IPushProducer: the transport says whether the client reads

    def pauseProducing(self) -> None:
        """The client does not read: write no more, and take no more commands."""
        self._output_full = True
        if self._body is not None:
            self._body.pause()
        if not self.paused:
            LineReceiver.pauseProducing(self)

    def resumeProducing(self) -> None:
        """The client has read: go on."""
        self._output_full = False
        self.resetTimeout()
        if self._body is not None:
            self._body.resume()
        else:
            self._take_input()

    def stopProducing(self) -> None:
        """The connection is lost; connectionLost follows."""
        self.paused = True


def _gone() -> POPError:
    return POPError("client disconnected")
