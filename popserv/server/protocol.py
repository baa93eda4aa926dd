"""A LineReceiver that turns lines into commands and replies into octets, one at a time.

Rules of this file:
 1. One command runs at a time.  While one is pending, or its body is being sent, no input
    is processed: pipelining needs no queue.
 2. After a status line there is no ``-ERR``: a body that fails later aborts the connection, so
    that the client does not take a part of a message for the whole.
 3. No text of an unexpected exception reaches a client.

The module has more than 300 lines, because input, replies and bodies depend on what is pending.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from popserv.core.grammar import MAX_LINE, MAX_SASL_LINE, split_line
from popserv.core.replies import After, Reply, challenge_line, ok_line
from popserv.core.session import State
from popserv.errors import BadCommand, LoginFailed, MessageChanged, POPError, TryLater
from popserv.messages.framing import MessageFramer
from popserv.runtime.coroutines import run_eagerly
from popserv.server.body import close_body
from popserv.server.connection import Connection
from popserv.server.session_events import EndReason
from popserv.transports.output import can_use_socket

_MAX_LENGTH = MAX_LINE + 1
"""The octets of a command line with its CR."""

# Members of an Enum are found slowly, which would be a twentieth of a NOOP.
_AUTHORIZATION = State.AUTHORIZATION


class POP3Server(Connection):
    """A POP3 connection: parses command lines, runs commands in its session, and sends replies."""

    MAX_LENGTH = _MAX_LENGTH

    MAX_FAILED_LOGINS = 3
    """Failed logins after which a connection is closed."""
    MAX_BAD_COMMANDS = 20
    """Consecutive lines that are not valid commands after which a connection is closed."""
    FAILED_LOGIN_DELAY = 2.0
    """Seconds before the reply to a failed login, if it is the first of its network."""
    LINES_PER_TURN = 50
    """Pipelined commands answered before other sessions are served."""
    MAX_UNPROCESSED = 4096
    """Octets of pipelined commands with which reading goes on while other sessions are served."""
    OCTETS_PER_LINE = 1024
    """Octets of a response that count as one more command; a body in chunks counts as nine."""

    _sasl_response: Deferred[bytes] | None = None
    # The call that sends the reply to a failed login, and its error.
    _delayed_error: tuple[IDelayedCall, POPError] | None = None
    _lines_left = LINES_PER_TURN
    _failed_logins = 0
    _bad_commands = 0

    def connectionMade(self) -> None:
        """Start the session; see Connection."""
        # They are read for each line, and those of the class are found more slowly.
        self.paused = self.closing = False
        self.is_new_turn = True
        self.MAX_LENGTH = _MAX_LENGTH
        super().connectionMade()

    # Input: lines to commands

    def dataReceived(self, data: bytes) -> None:
        """Process input, unless closing: a TLS transport reads on until the peer's close_notify."""
        if self.closing:
            return
        if self.paused:
            super().dataReceived(data)
            # The client does not wait for the reply to the command that runs.
            LineReceiver.pauseProducing(self)
            return
        output = self.output
        if output.is_batching:
            super().dataReceived(data)
            return
        if self.is_new_turn:
            self._lines_left = self.LINES_PER_TURN
        lines_left = self._lines_left
        series = self.factory.quick_clients.series(self)
        while True:
            if self.is_one_line(data):
                # The reply leaves at once.
                self.lineReceived(data[:-1])
            else:
                output.is_batching = True
                super().dataReceived(data)
                output.is_batching = False
                output.flush()
            prepare, self.session.prepare = self.session.prepare, None
            series -= 1
            if prepare is None or not series:
                break
            data = self._receive_next(prepare)
            if not data:
                break
        if self._lines_left < lines_left:
            self.resetTimeout()

    def _receive_next(self, prepare: Callable[[], object]) -> bytes:
        """Prepare the next reply, and return what the client has sent meanwhile, or nothing."""
        quick = self.factory.quick_clients
        if (
            self.paused
            or self.closing
            or not can_use_socket(self.transport)
            or not quick.may_be_quick()
        ):
            return b""
        prepare()
        return quick.receive(self.transport)

    def lineReceived(self, line: bytes) -> None:
        """Run a command, or pass on the response to a challenge."""
        if self.closing:
            return
        response = None
        if self.MAX_LENGTH > _MAX_LENGTH:
            # For the response to a challenge, or for an AUTH command with an initial response.
            self.MAX_LENGTH = _MAX_LENGTH
            response, self._sasl_response = self._sasl_response, None
        if response is None:
            self._run_command(line)
        else:
            response.callback(line.removesuffix(b"\r"))
        self._lines_left -= 1
        if self._lines_left <= 0 or self.command_pending:
            self._pause_input_if_needed()

    def _run_command(self, line: bytes) -> None:
        self.command_pending = True
        session = self.session
        try:
            keyword, argument = split_line(line)
            command = self.factory.commands.find(session, keyword)
            if session.state is _AUTHORIZATION:
                session.method = command.keyword.decode("ascii")
            arguments = command.parse(argument)
            # A call with a tuple takes longer, even if that is empty.
            run = command.run(session, *arguments) if arguments else command.run(session)
            outcome = run if isinstance(run, (bytes, Reply)) else run_eagerly(run)
        except Exception:
            self._command_failed(Failure())
        else:
            if isinstance(outcome, bytes):
                self._send_response(outcome)
            elif isinstance(outcome, Reply):
                self.send_reply(outcome)
            else:
                outcome.addCallbacks(self.send_reply, self._command_failed)

    def _pause_input_if_needed(self) -> None:
        """Stop reading while a command is pending, or while other sessions must be served."""
        if not self._expects_line:
            if self.unprocessed_octets:
                LineReceiver.pauseProducing(self)
            else:
                # The transport may read once; that it is paused would cost two system calls.
                self.paused = True
        elif self._lines_left <= 0 and not self.paused and not self.closing:
            if self.unprocessed_octets < self.MAX_UNPROCESSED:
                # The transport may read once before the call, and need not be paused.
                self.paused = True
            else:
                LineReceiver.pauseProducing(self)
            self.callLater(0, self.resume_input)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Reply once and close: the rest of the line may be anything."""
        if line[:5].upper() == b"AUTH " and self.MAX_LENGTH <= MAX_LINE + 1:
            # RFC 5034 section 4: an initial response may be as long as a response.
            self.MAX_LENGTH = MAX_SASL_LINE + 1
            self._buffer = line
            return
        self.write_error(BadCommand("line too long"))
        self.events.note_end(EndReason.BAD_COMMANDS)
        self.close()

    def send_challenge(self, challenge: bytes) -> Deferred[bytes]:
        """Send a SASL challenge and return the line of the response; see Session."""
        if self.is_disconnected:
            raise _client_disconnected()
        response: Deferred[bytes] = Deferred()
        self._sasl_response = response
        self.throttle.suspend(response, self.FAILED_LOGIN_DELAY)
        self.MAX_LENGTH = MAX_SASL_LINE + 1
        self.output.write(challenge_line(challenge))
        self.resume_input()
        return response

    @property
    def _expects_line(self) -> bool:
        """Whether a line can be processed now, as a command or as the response to a challenge."""
        return self._sasl_response is not None or not self.command_pending

    def resume_input(self) -> None:
        """Process the next line, if one may be processed now."""
        if self.paused and self._expects_line and not (self.closing or self.output.is_paused):
            self._lines_left = self.LINES_PER_TURN
            # The client may have waited for the present command, or for its turn.
            self.resetTimeout()
            # Runs the lines that are buffered, until one of them must wait.
            LineReceiver.resumeProducing(self)
            self.close_if_input_is_over()

    def close_if_input_is_over(self) -> None:
        """Close if the client will send no more and all commands are answered."""
        if not self.input_is_over:
            return
        if self._expects_line and not self.paused:
            self.close()
        else:
            # A TLS transport that reads the end of the TCP connection would end the session.
            self.transport.pauseProducing()

    def abandon_command(self) -> bool:
        """Abandon a body, reply or challenge in progress; return whether no command is running."""
        if self.output.drop_body():
            self.command_pending = False
        if self._delayed_error is not None:
            # The client cannot receive the reply; the failed login keeps its slot.
            call, error = self._delayed_error
            call.cancel()
            # It is counted, although nobody receives it.
            self.write_error(error)
            self._delayed_error = None
            self.command_pending = False
        if self._sasl_response is not None:
            response, self._sasl_response = self._sasl_response, None
            response.errback(_client_disconnected())
            return False
        return not self.command_pending

    # Output: replies

    def _send_response(self, octets: bytes) -> None:
        """Send a whole positive response."""
        self._bad_commands = 0
        self.command_pending = False
        self._lines_left -= len(octets) // self.OCTETS_PER_LINE
        self.output.write(octets)

    def send_reply(self, reply: Reply) -> None:
        """Send a positive reply, then perform the action that it requires after it."""
        self._bad_commands = 0
        status = ok_line(reply.text, self.session.language)
        if reply.body is None:
            # The last reply leaves together with the end of the connection.
            is_last = reply.after is After.CLOSE
            (self.output.write_later if is_last else self.output.write)(status)
            self._command_done(reply.after)
        elif self.closing:
            close_body(reply.body)
            self._command_done(After.CLOSE)
        else:
            self._lines_left -= 9
            try:
                self.output.prepare_body(
                    status,
                    reply.body,
                    reply.framer or MessageFramer(),
                    self.callLater,
                    partial(self._body_sent, reply),
                )
            except Exception:
                # It is no body; nothing is written.
                self._command_failed(Failure())
            else:
                self.output.start_body()

    def _body_sent(self, reply: Reply, failure: Failure | None, has_written: bool) -> None:
        if failure is None and reply.sent is not None:
            try:
                reply.sent()
            except Exception:
                failure = Failure()
        if failure is None:
            self.resetTimeout()
            self._command_done(reply.after)
            return
        failed = self._body_failed if has_written else self._command_failed
        if failure.check(MessageChanged):
            discarded = Deferred.fromCoroutine(self.session.discard_sizes())
            discarded.addErrback(self.events.log_failed_discard)
            discarded.addCallback(lambda _: failed(failure))
        else:
            failed(failure)

    def _body_failed(self, failure: Failure) -> None:
        """Abort the connection, because a body failed after its status line."""
        self.events.log_failed_body(self.session, failure)
        # Set first, so that nothing closes the connection in order.
        self.closing = True
        self.output.discard()
        self.abort(EndReason.ERROR)
        self._command_done(After.CLOSE)

    def _command_failed(self, failure: Failure) -> None:
        """Send a negative reply; delay that of a failed login, to slow down password guessing."""
        self.events.log_failure(self.session, failure)
        error = failure.value if isinstance(failure.value, POPError) else TryLater()
        if isinstance(error, LoginFailed):
            self._failed_logins += 1
            seconds = self.throttle.record_failure(self.session.name, self.FAILED_LOGIN_DELAY)
            delay = 0 if self.is_disconnected else seconds
            call = self.callLater(delay, partial(self._send_error, error))
            self._delayed_error = call, error
        else:
            self.throttle.release()
            self._bad_commands = self._bad_commands + 1 if isinstance(error, BadCommand) else 0
            self._send_error(error)

    def _send_error(self, error: POPError) -> None:
        self._delayed_error = None
        self.write_error(error)
        if self.must_close_after_error():
            self.events.note_end(EndReason.BAD_COMMANDS)
            self._command_done(After.CLOSE)
        else:
            self._command_done(After.CONTINUE)

    def must_close_after_error(self) -> bool:
        """Return whether the negative reply just sent is the last one."""
        return (
            self._failed_logins >= self.MAX_FAILED_LOGINS
            or self._bad_commands >= self.MAX_BAD_COMMANDS
            or self.session.state is State.UPDATE
        )

    def _command_done(self, after: After) -> None:
        """Process the next line, start TLS, or close."""
        self.command_pending = False
        if self.is_disconnected:
            self.end_session()
        elif after is After.CLOSE:
            self.close()
        else:
            if after is After.START_TLS:
                self.upgrade_to_tls()
            self.resume_input()


def _client_disconnected() -> POPError:
    return POPError("client disconnected")
