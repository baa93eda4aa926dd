"""Tests of popserv.server.session_events: the log lines of logins and sessions."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import alsoProvides

from popserv.auth.credentials import ExchangeAborted
from popserv.core.session import State
from popserv.errors import LoginFailed, LoginTooSoon, MaildropBusy, MessageChanged, NoSuchMessage
from popserv.server import session_events
from popserv.server.session_events import (
    EndReason,
    SessionEvents,
    log_failed_login,
)
from popserv.transports.peers import ITLSAtProxy
from tests.commands.harness import FakeTLSState
from tests.core.harness import make_session
from tests.server.harness import REMOTE_PEER, ServerTestCase


class SessionLogCase(ServerTestCase):
    """A server, and the lines of popserv.session in its log."""

    def lines(self):
        """Return the lines that were logged since the last call."""
        events = [event for event in self.log if event["log_namespace"] == "popserv.session"]
        self.log._events.clear()
        return [formatEvent(event) for event in events]

    def last_event(self):
        """Return the last event of popserv.session."""
        return [event for event in self.log if event["log_namespace"] == "popserv.session"][-1]


class SessionTests(SessionLogCase):
    """The lines at the beginning and the end of a session."""

    def assert_reason(self, reason, removed=0):
        """Check why the only session has ended."""
        begin, end = self.lines()
        self.assertIn(" logged in by PASS, no TLS", begin)
        self.assertRegex(
            end,
            rf'^127\.0\.0\.1:54321: session of "ann" ended, {reason}: \d+\.\d s, 0 retrieved '
            rf"\(0 octets\), {removed} removed, {2 - removed} left$",
        )

    def test_begin(self):
        """The line at the beginning has the client, the user, the method and the TLS version."""
        ann = self.logged_in()
        self.assertEqual(self.lines(), ['127.0.0.1:54321: "ann" logged in by PASS, no TLS'])
        ann.lose()

    def test_end(self):
        """The line at the end counts the messages retrieved, their octets, removed and left."""
        self.store.deliver(b"ann", b"three\n")
        ann = self.logged_in()
        ann.send(b"RETR 1\r\nRETR 2\r\nRETR 2\r\nTOP 3 0\r\nRETR 9\r\nDELE 2\r\nQUIT\r\n")
        ann.lose()
        self.assertRegex(
            self.lines()[1],
            r'^127\.0\.0\.1:54321: session of "ann" ended, QUIT: \d+\.\d s, 3 retrieved '
            r"\(15 octets\), 1 removed, 2 left$",
        )

    def test_fields(self):
        """The events have fields of simple types, with the same names as in the documentation."""
        ann = self.connect(b"USER ann", b"PASS pw", peer=UNIXAddress(b"/s"))
        begin = self.last_event()
        self.assertEqual(
            [begin[name] for name in ("peer", "user", "method", "tls")],
            ["UNIX socket", "ann", "PASS", "no TLS"],
        )
        self.assertEqual(begin["log_level"], LogLevel.info)
        ann.send(b"RETR 1\r\nDELE 2\r\nQUIT\r\n")
        ann.lose()
        end = self.last_event()
        names = ("peer", "user", "reason", "retrieved", "octets", "removed", "left")
        self.assertEqual([end[name] for name in names], ["UNIX socket", "ann", "QUIT", 1, 5, 1, 1])
        self.assertGreaterEqual(end["seconds"], 0)

    def test_seconds(self):
        """The duration of a session is rounded to milliseconds."""
        clock = Clock()
        clock.advance(1000)
        self.patch(session_events, "monotonic", clock.seconds)
        self.assertEqual(SessionEvents(StringTransport()).login_time, 0)
        ann = self.logged_in()
        self.assertEqual(ann.server.events.login_time, 1000)
        clock.advance(7.12345)
        ann.lose()
        self.assertEqual(self.last_event()["seconds"], 7.123)

    def test_not_retrieved(self):
        """A message that was not sent to the end does not count."""
        ann = self.logged_in()
        self.fill(ann)
        ann.server.pauseProducing()
        ann.send(b"RETR 1\r\n")
        ann.lose()
        self.assert_reason("closed by the client")

    def test_tls(self):
        """The TLS version is that of the connection, or that of the proxy is mentioned."""
        session = make_session(tls_state=FakeTLSState())
        session.name, session.method = b"ann", "SCRAM-SHA-256"
        transport = StringTransport(peerAddress=IPv6Address("TCP", "2001:db8::1", 4321))
        SessionEvents(transport).log_login(session)
        session.tls_state = None
        alsoProvides(transport, ITLSAtProxy)
        SessionEvents(transport).log_login(session)
        line = '[2001:db8::1]:4321: "ann" logged in by SCRAM-SHA-256, '
        self.assertEqual(self.lines(), [line + "TLSv1.3", line + "TLS at the proxy"])

    def test_quit(self):
        """After QUIT, the reason is QUIT, even if the connection is lost during the removal."""
        ann = self.logged_in()
        ann.send(b"QUIT\r\n")
        ann.lose()
        self.assert_reason("QUIT")
        self.store.slow = {"remove"}
        ann = self.logged_in()
        ann.send(b"DELE 1\r\nQUIT\r\n")
        ann.server.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(len(self.lines()), 1)
        self.store.waiting["remove"].callback(None)
        self.assertIn(" ended, QUIT: ", self.lines()[0])

    def test_closed(self):
        """A client that closes without QUIT, or only its sending side, has closed."""
        self.logged_in().lose()
        self.assert_reason("closed by the client")
        ann = self.logged_in()
        ann.server.readConnectionLost()
        ann.lose()
        self.assert_reason("closed by the client")

    def test_lost(self):
        """A connection that breaks is lost."""
        self.logged_in().server.connectionLost(Failure(ConnectionLost()))
        self.assert_reason("lost")

    def test_shutdown(self):
        """A connection that breaks after the ports were closed has ended by the shutdown."""
        self.factory.doStart()
        ann, again = self.logged_in(), None
        self.factory.doStop()
        ann.server.connectionLost(Failure(ConnectionLost()))
        self.assert_reason("shutdown")
        self.factory.doStart()
        again = self.logged_in()
        again.server.connectionLost(Failure(ConnectionLost()))
        self.assert_reason("lost")
        self.factory.doStop()

    def test_timeout(self):
        """The autologout timer ends a session, even if the connection must be aborted."""
        ann = self.logged_in()
        ann.clock.advance(600)
        ann.clock.advance(600)
        ann.lose()
        self.assert_reason("timeout")

    def test_bad_commands(self):
        """Twenty bad commands, or a line that is too long, end a session."""
        for lines in (b"X\r\n" * 20, b"x" * 2000):
            ann = self.logged_in()
            ann.send(lines)
            self.assertTrue(ann.closed)
            ann.lose()
            self.assert_reason("bad commands")

    def test_error(self):
        """A message that cannot be read to its end ends a session."""
        ann = self.logged_in()
        ann.send(b"TRUNCATED\r\n")
        ann.lose()
        (failed,) = (event for event in self.log if "log_failure" in event)
        self.assertEqual(
            formatEvent(failed).split("\n")[0],
            "127.0.0.1:54321: reading a message failed, connection aborted",
        )
        self.assertEqual(self.last_event()["reason"], "error")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_first_reason(self):
        """Of several reasons the first counts."""
        events = SessionEvents(StringTransport())
        events.note_end(EndReason.TIMEOUT)
        events.note_end(EndReason.CLOSED)
        self.assertIs(events._end_reason, EndReason.TIMEOUT)

    def test_no_login(self):
        """A connection without a login has no line."""
        for lines in ((), (b"CAPA", b"QUIT"), (b"USER ann",), (b"X",)):
            self.connect(*lines).lose()
        self.assertEqual(self.lines(), [])

    def test_login_after_disconnect(self):
        """A login that succeeds when the client has gone has both lines."""
        self.store.slow = {"login"}
        ann = self.connect(b"USER ann", b"PASS pw")
        ann.lose()
        self.store.waiting["login"].callback(None)
        self.assert_reason("closed by the client")

    def test_release_fails(self):
        """An error of release is logged with the client."""
        self.store.slow = {"release"}
        ann = self.logged_in()
        ann.lose()
        self.store.waiting["release"].errback(OSError("disk"))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertIn("127.0.0.1:54321: cannot release a maildrop", "\n".join(self.lines()))


class FailureTests(SessionLogCase):
    """The lines of failed logins and of refused commands."""

    def log_failure(self, error, cause=None, name=b"ann"):
        """Log that a command of ann's failed; return the line and its level."""
        error.__cause__ = cause
        session = make_session()
        session.name, session.method = name, "PASS"
        SessionEvents(StringTransport(peerAddress=REMOTE_PEER)).log_failure(session, Failure(error))
        event = self.last_event()
        return formatEvent(event), event["log_level"]

    def test_failed(self):
        """A failed login is a warning, with the cause that the client is not told."""
        for name, shown in ((b"ann", "ann"), (None, ""), (b'a"b', r"a\"b"), (b"\xff", r"\xff")):
            self.assertEqual(
                self.log_failure(LoginFailed(), UnauthorizedLogin("wrong password"), name),
                (
                    f'192.0.2.1:4321: login of "{shown}" by PASS failed: wrong password',
                    LogLevel.warn,
                ),
            )
        line, _ = self.log_failure(LoginFailed())
        self.assertEqual(line, '192.0.2.1:4321: login of "ann" by PASS failed: rejected')

    def test_aborted(self):
        """A login that the client aborts is no failed login, and no warning."""
        self.assertEqual(
            self.log_failure(LoginFailed(), ExchangeAborted("authentication cancelled")),
            (
                '192.0.2.1:4321: login of "ann" by PASS aborted: authentication cancelled',
                LogLevel.info,
            ),
        )

    def test_other_failures(self):
        """What is not the failure of a command is logged with the client, too."""
        session = make_session()
        session.name = b"ann"
        changed = MessageChanged()
        changed.__cause__ = ValueError("it has more than 5 octets")
        events = SessionEvents(StringTransport(peerAddress=REMOTE_PEER))
        events.log_failed_handshake("no shared cipher")
        events.log_failed_body(session, Failure(changed))
        events.log_failed_discard(Failure(OSError("disk")))
        self.assertEqual(
            [line.split("\n")[0] for line in self.lines()],
            [
                "192.0.2.1:4321: TLS handshake failed: no shared cipher",
                '192.0.2.1:4321: a message of "ann" has changed, connection aborted: '
                "it has more than 5 octets",
                "192.0.2.1:4321: cannot discard the sizes of messages",
            ],
        )
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_no_name(self):
        """A client that has sent no name, or an empty one, has an empty name in each line."""
        session = make_session()
        session.mailbox = SimpleNamespace(messages=())
        refused = NoSuchMessage()
        refused.__cause__ = OSError("disk")
        aborted = LoginFailed()
        aborted.__cause__ = ExchangeAborted()
        for name in (None, b""):
            session.name, session.state = name, State.TRANSACTION
            events = SessionEvents(StringTransport(peerAddress=REMOTE_PEER))
            events.log_login(session)
            events.log_end(session)
            for error in (LoginFailed(), aborted, MaildropBusy(), refused):
                events.log_failure(session, Failure(error))
            events.log_failed_body(session, Failure(MessageChanged()))
            self.assertEqual(['""' in line for line in self.lines()], [True] * 7)

    def test_in_use(self):
        """[IN-USE] is logged with the client and the user, but is no warning."""
        ann = self.logged_in()
        self.lines()
        other = self.connect(b"USER ann", b"PASS pw", peer=UNIXAddress(b"/s"))
        self.assertEqual(self.last_event()["log_level"], LogLevel.info)
        self.assertEqual(
            self.lines(), ['UNIX socket: login of "ann" by PASS refused: maildrop already locked']
        )
        ann.lose()
        other.lose()

    def test_locked(self):
        """If another program has locked the maildrop, the log names the lock."""
        self.assertEqual(
            self.log_failure(MaildropBusy(), OSError("another program has made /m/ann.lock")),
            (
                '192.0.2.1:4321: "ann" was refused with "maildrop already locked": '
                "another program has made /m/ann.lock",
                LogLevel.warn,
            ),
        )

    def test_too_soon(self):
        """[LOGIN-DELAY] is logged in the same way."""
        self.assertEqual(
            self.log_failure(LoginTooSoon(5)),
            (
                '192.0.2.1:4321: login of "ann" by PASS refused: '
                "too soon after the last login, wait 5 seconds",
                LogLevel.info,
            ),
        )

    def test_refused(self):
        """A refused command is logged if its error has a cause."""
        self.assertEqual(
            self.log_failure(NoSuchMessage(), OSError("disk")),
            ('192.0.2.1:4321: "ann" was refused with "no such message": disk', LogLevel.warn),
        )
        self.log._events.clear()
        ann = self.logged_in()
        self.lines()
        ann.send(b"RETR 9\r\nX\r\n")
        self.assertEqual(self.lines(), [])
        ann.lose()

    def test_unexpected(self):
        """An unexpected error is logged with the client and a traceback."""
        ann = self.logged_in()
        ann.send(b"FAIL\r\n")
        self.assertEqual(
            self.lines()[-1].split("\n")[0], "127.0.0.1:54321: unexpected error in a command"
        )
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        ann.lose()

    def test_limit(self):
        """Failed logins are logged even after a hundred refused commands."""
        session = make_session()
        events = SessionEvents(StringTransport(peerAddress=REMOTE_PEER))
        error = NoSuchMessage()
        error.__cause__ = OSError("disk")
        for _ in range(150):
            events.log_failure(session, Failure(error))
        self.assertEqual(len(self.lines()), 100)
        events.log_failure(session, Failure(LoginFailed()))
        self.assertEqual(len(self.lines()), 1)

    def test_one_line(self):
        """A cause is one line, whatever it contains, and bounded."""
        line, _ = self.log_failure(LoginFailed(), ValueError("a\nb\u2028c {d} é"))
        self.assertTrue(line.endswith(r"failed: a\nb\u2028c {d} é"), line)
        line, _ = self.log_failure(LoginFailed(), ValueError("x" * 5000))
        self.assertLess(len(line), 1100)

    @given(st.binary(max_size=30))
    def test_any_name(self, name):
        """A name cannot end before its quotation mark, and the rest of the line is the same."""
        log_failed_login("192.0.2.1:1", name, "PASS", ValueError("wrong"))
        line = formatEvent(self.last_event())
        self.assertTrue(line.isprintable(), line)
        self.assertRegex(
            line, r'^192\.0\.2\.1:1: login of "(?:[^"\\]|\\.)*" by PASS failed: wrong$'
        )
