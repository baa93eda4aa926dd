"""The example in which users post by SMTP and read by POP3, with real clients."""

import contextlib
import os
import poplib
import random
import re
import runpy
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import time
from base64 import b64encode
from contextlib import closing
from email import message_from_bytes
from email.utils import parsedate_to_datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from unittest.mock import patch

from aiosmtpd.controller import Controller
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.auth.passwords.schemes import join_field
from popserv.auth.passwords.users_file import default_path
from popserv.auth.passwords.users_file_editing import remove_user, set_secret
from popserv.maildrops.layout import Layout
from popserv.server import idle
from popserv.testing import SAMPLE_MESSAGES
from tests.certificates import issue
from tests.docs.harness import blocks
from tests.live.harness import (
    BIN,
    CHECKOUT,
    LOOPBACK,
    SAMPLES,
    TIMEOUT,
    Connection,
    Server,
    ServerTestCase,
    accepts,
    read_maildir,
    require_programs,
    run,
    temporary_directory,
    until,
    wire_form,
)
from tests.live.test_twistd import external_address

TAC = CHECKOUT / "examples" / "split-user-agent.tac"
MAX_OCTETS = 32 << 20
MESSAGE = (
    b"From: Ann <%b>\nTo: bob@localhost\nDate: Sat, 21 Nov 2026 12:00:00 +0000\n"
    b"Message-ID: <1@example.org>\nSubject: hello\n\nHello, Bob.\n"
)


def login(name, password="secret"):
    """Return the command that logs in with an initial response."""
    return b"AUTH PLAIN " + b64encode(f"\0{name}\0{password}".encode())


def environment(root, **settings):
    """Return the environment variables of a server on free ports."""
    listen = {"POPSERV_POP_LISTEN": LOOPBACK, "POPSERV_SMTP_LISTEN": LOOPBACK}
    given = {f"POPSERV_{key}": str(value) for key, value in settings.items()}
    return {"POPSERV_MAILDIR": str(root), **listen, **given}


class SplitServer(Server):
    """The example as a process, with the users ann, bob and carol@example.org."""

    USERS = ("ann", "bob", "carol@example.org")

    def __init__(self, *, root=None, prefix=(), ports=2, **settings):
        is_new = root is None
        root = root or temporary_directory()
        popen = subprocess.Popen

        def start(command, **options):
            return popen([*prefix, *command], **options)

        for user in self.USERS if is_new else ():
            field = join_field(b"PLAIN", b"secret")
            set_secret(
                default_path(Layout(str(root)).root.decode()), user.encode(), field, new=True
            )
        variables = patch.dict(os.environ, environment(root, **settings))
        with variables, patch.object(subprocess, "Popen", start):
            super().__init__(root=root, tac=TAC)
        until(lambda: len(self.ports) == ports, "its ports")

    @property
    def smtp_port(self):
        """The port of the SMTP server."""
        return self.ports[1]

    def connect_smtp(self, *, name=None, address=None, **options):
        """Return an SMTP connection, logged in if a name is given."""
        connection = SMTPConnection(address or ("127.0.0.1", self.smtp_port), **options)
        if name and not connection.ask(login(name)).startswith(b"235 "):
            raise AssertionError(f"{name} cannot log in")
        return connection

    def post(self, message, *recipients, name="ann", sender=None):
        """Post a message whose lines end with LF; return the last reply."""
        with closing(self.connect_smtp(name=name)) as smtp:
            return smtp.post(message, *recipients, sender=sender or f"{name}@localhost")

    def mail(self, name):
        """Return the messages in a user's Maildir."""
        return read_maildir(Path(self.root, name))

    def read(self, name):
        """Return the messages that a user fetches by POP3, with lines that end with CRLF."""
        pop = poplib.POP3("127.0.0.1", self.port, timeout=TIMEOUT)
        # poplib rejects lines of more than 2,048 octets by default.
        with closing(pop), patch.object(poplib, "_MAXLINE", 1 << 20):
            pop.user(name)
            pop.pass_("secret")
            numbers = range(1, pop.stat()[0] + 1)
            messages = [b"\r\n".join([*pop.retr(number)[1], b""]) for number in numbers]
            pop.quit()
        return messages

    def empty(self):
        """Remove all mail."""
        for user in self.USERS:
            shutil.rmtree(self.root / user, ignore_errors=True)


class SMTPConnection(Connection):
    """The client side of an SMTP connection, without an SMTP library."""

    def ask(self, command):
        """Send a command; return the reply, with its lines separated by LF."""
        self.socket.sendall(command + b"\r\n")
        return self.reply()

    def reply(self):
        """Return the next reply."""
        lines = [self.line()]
        while lines[-1][3:4] == b"-":
            lines.append(self.line())
        return b"\n".join(lines)

    def envelope(self, *recipients, sender):
        """Send the envelope and DATA; return the last reply."""
        reply = self.ask(f"MAIL FROM:<{sender}>".encode())
        for recipient in recipients:
            if not reply.startswith(b"250 "):
                return reply
            reply = self.ask(f"RCPT TO:<{recipient}>".encode())
        return self.ask(b"DATA") if reply.startswith(b"250 ") else reply

    def post(self, message, *recipients, sender="ann@localhost"):
        """Post a message; return the last reply."""
        reply = self.envelope(*recipients, sender=sender)
        if not reply.startswith(b"354 "):
            return reply
        lines = [b"." + line if line.startswith(b".") else line for line in message.split(b"\n")]
        self.socket.sendall(b"\r\n".join(lines) + b".\r\n")
        return self.reply()


def valid_message(name="ann"):
    """Return a message with a complete header, from the user's own address."""
    return MESSAGE % f"{name}@localhost".encode()


def split_trace(message):
    """Split a delivered message into its trace fields and the rest."""
    found = re.match(rb"Return-Path: <.*>\nReceived: .*\n(?:[\t ].*\n)*", message)
    return message[: found.end()], message[found.end() :]


class SplitTestCase(ServerTestCase):
    """Tests that share one running example."""

    settings = {}

    def new_server(self):
        """Start the example."""
        return SplitServer(**self.settings)

    def setUp(self):
        """Remove all mail."""
        self.server.empty()

    def assert_start(self, text, start):
        """Fail unless a text starts with ``start``."""
        self.assertTrue(text.startswith(start), repr(text))

    def delivered(self, message, *recipients, **options):
        """Post a message, which must be accepted; return bob's copy without the trace fields."""
        reply = self.server.post(message, *(recipients or ["bob@localhost"]), **options)
        self.assert_start(reply, b"250 ")
        return split_trace(self.server.mail("bob")[-1])[1]


class PostingTests(SplitTestCase):
    """Messages are delivered, and can be read by POP3."""

    def test_trace(self):
        """Return-Path and Received stand above the message (RFC 5321 section 4.4)."""
        self.assert_start(self.server.post(valid_message(), "bob@localhost"), b"250 ")
        trace, rest = split_trace(self.server.mail("bob")[0])
        self.assertRegex(
            trace,
            rb"\AReturn-Path: <ann@localhost>\nReceived: from unknown \(\[127\.0\.0\.1\]\)\n"
            rb"\tby \S+ with ESMTPA;\n\t\w{3}, \d\d \w{3} \d{4} [\d:]{8} [+-]\d{4}\n\Z",
        )
        self.assertEqual(rest, valid_message())

    def test_octets(self):
        """A message with a complete header arrives octet for octet, with dots and 8-bit text."""
        head = valid_message().partition(b"\n\n")[0] + b"\n\n"
        bodies = [b"", b"\n", b".\n..\n...a\n.\n\n", bytes(range(128, 256)) + b"\n", b"\0\t \n"]
        bodies += [b"x" * 16_000 + b"\n", b"Date: none\n", b"\n\n.\n" * 30_000]
        with closing(self.server.connect_smtp(name="ann")) as smtp:
            for body in bodies:
                self.assert_start(smtp.post(head + body, "bob@localhost"), b"250 ")
        self.assertEqual(
            [split_trace(each)[1] for each in self.server.mail("bob")],
            [head + body for body in bodies],
        )
        read = [each.partition(b"From: Ann")[2] for each in self.server.read("bob")]
        expected = [
            (head + body).replace(b"\n", b"\r\n").partition(b"From: Ann")[2] for body in bodies
        ]
        self.assertEqual(read, expected)

    def test_samples(self):
        """Messages of mail programs lose nothing but Return-Path."""
        for message in (*SAMPLES, *SAMPLE_MESSAGES):
            message = wire_form(message, b"\n")
            if b"\r" in message or max(map(len, message.split(b"\n"))) > 16_000:
                continue
            arrived = self.delivered(message).split(b"\n")
            sent = message.removeprefix(b"Return-Path: <ann@example.org>\n").split(b"\n")
            added = re.compile(rb"(Date|Message-ID|Sender): ")
            here = [line for line in arrived if line in sent or not added.match(line)]
            while here[:1] == [b""] and sent[:1] != [b""]:
                # The server has added a header.
                here.pop(0)
            self.assertEqual([line for line in here if line], [line for line in sent if line])

    def test_open_session(self):
        """A message that is posted during a session is shown by the next session."""
        self.assert_start(self.server.post(valid_message(), "bob"), b"250 ")
        session = self.server.login("bob")
        self.assert_start(self.server.post(valid_message(), "bob"), b"250 ")
        self.assert_start(session.ask(b"STAT"), b"+OK 1 ")
        session.ask(b"DELE 1")
        self.assert_start(session.close(), b"+OK")
        self.assertEqual(len(self.server.read("bob")), 1)

    def test_first_message(self):
        """The first message to a user creates the Maildir, with access for its owner only."""
        self.assertFalse((self.server.root / "bob").exists())
        session = self.server.login("bob")
        self.assert_start(self.server.post(valid_message(), "bob"), b"250 ")
        self.assert_start(session.ask(b"STAT"), b"+OK 0 ")
        session.close()
        self.assertEqual(len(self.server.read("bob")), 1)
        maildir = self.server.root / "bob"
        self.assertEqual(sorted(os.listdir(maildir)), ["cur", "new", "tmp"])
        modes = {path: path.stat().st_mode & 0o777 for path in (maildir, *maildir.iterdir())}
        self.assertEqual(set(modes.values()), {0o700})
        (message,) = (maildir / "new").iterdir()
        self.assertEqual(message.stat().st_mode & 0o777, 0o600)
        self.assertRegex(message.name, r"\A\d{10}\.M\d{6}P\d+R[0-9a-f]{16}\.[^/:]+\Z")

    def test_recipients(self):
        """Each recipient gets one copy, even if several addresses name the same user."""
        to = ("bob", "bob@LOCALHOST", "bob@localhost", "carol@EXAMPLE.org", "ann@localhost")
        self.assert_start(self.server.post(valid_message(), *to), b"250 ")
        for user in SplitServer.USERS:
            self.assertEqual(
                [split_trace(each)[1] for each in self.server.mail(user)], [valid_message()]
            )

    def test_memory(self):
        """A large message is kept in a file and not in memory."""
        self.delivered(valid_message())
        before = self.server.memory
        self.delivered(valid_message() + (b"0123456789" * 7 + b"\n") * 400_000)
        self.assertLess(self.server.memory - before, 8 << 20)

    def test_pipelining(self):
        """Pipelined commands get their replies in order (RFC 2920)."""
        once = (
            b"MAIL FROM:<ann>\r\nRCPT TO:<bob>\r\nRCPT TO:<nobody>\r\nDATA\r\nSubject: %d\r\n.\r\n"
        )
        posts = [once % number for number in range(5)]
        with closing(self.server.connect_smtp()) as smtp:
            commands = [login("ann"), b"\r\n", *posts, b"AUTH PLAIN\r\n", b"NOOP\r\n"]
            smtp.socket.sendall(b"".join(commands))
            replies = [smtp.reply()[:3] for _ in range(1 + 5 * 5 + 2)]
        self.assertEqual(
            replies, [b"235", *[b"250", b"250", b"550", b"354", b"250"] * 5, b"503", b"250"]
        )
        subjects = [message_from_bytes(each)["Subject"] for each in self.server.mail("bob")]
        self.assertEqual(subjects, list("01234"))


class HeaderTests(SplitTestCase):
    """Changes to the header (RFC 6409 section 8)."""

    def test_missing_fields(self):
        """Date and Message-ID are added if they are missing, and only then."""
        for header, added in (
            (b"From: ann\nDate: x\nMessage-ID: y\n", []),
            (b"From: ann\ndATE : x\nMESSAGE-id: y\n", []),
            (b"From: ann\nDate:\n x\nMessage-Id:\n\ty\n", []),
            (b"From: ann\nDate: x\n", ["Message-ID"]),
            (b"From: ann\nMessage-ID: y\n", ["Date"]),
            (b"From: ann\nSubject: a\n Date: b\n\tMessage-ID: c\n", ["Date", "Message-ID"]),
            (b"From: ann\nX-Date: b\nResent-Message-ID: c\n", ["Date", "Message-ID"]),
            (b"From: ann\nDate\n", ["Date", "Message-ID"]),
        ):
            parsed = message_from_bytes(self.delivered(header + b"\nDate: no\nMessage-ID: no\n"))
            before = len(message_from_bytes(header).keys())
            self.assertEqual(parsed.keys()[before:], added, repr(header))

    def test_added_fields(self):
        """The added fields have the syntax of RFC 5322."""
        parsed = message_from_bytes(self.delivered(b"From: ann\n\nx\n"))
        self.assertLess(abs(parsedate_to_datetime(parsed["Date"]).timestamp() - time.time()), 600)
        self.assertRegex(parsed["Message-ID"], r"\A<[\w.]+@[\w.-]+>\Z")

    def test_no_header(self):
        """A message without a header, or without an empty line after it, keeps its body."""
        added = rb"Date: .*\nMessage-ID: .*\nSender: <ann@localhost>\n"
        for message, pattern in (
            (b"", rb"\A%b\Z" % added),
            (b"Hello: there is\nno header\n", rb"\AHello: there is\n%b\nno header\n\Z" % added),
            (b"Hello, Bob\nDate: no\n", rb"\A%b\nHello, Bob\nDate: no\n\Z" % added),
            (b"\nDate: no\n", rb"\A%b\nDate: no\n\Z" % added),
            (b" folded\nDate: no\n", rb"\A%b\n folded\nDate: no\n\Z" % added),
            (b"http //x: y\nDate: no\n", rb"\A%b\nhttp //x: y\nDate: no\n\Z" % added),
            (b"Subject: x\n", rb"\ASubject: x\n%b\Z" % added),
            (b"Subject: x\nHello\n", rb"\ASubject: x\n%b\nHello\n\Z" % added),
            (b"From ann Sat Nov 1\nBcc: x\nX: y\n\nz\n", rb"\AX: y\n%b\nz\n\Z" % added),
            (b"X: y\nFrom ann\n\nz\n", rb"\AX: y\n%b\nFrom ann\n\nz\n\Z" % added),
        ):
            self.assertRegex(self.delivered(message), pattern)

    def test_sender(self):
        """Sender is added if From is not the user's address, and never names anybody else."""
        own_sender = "<ann@localhost>"
        for header, sender in (
            (b"From: ann@localhost\n", None),
            (b"From: Ann <ann@LOCALHOST>\n", None),
            (b'FROM :\n "Ann, Other" <ann@localhost>\n', None),
            (b"From: bob@localhost\n", own_sender),
            (b"From: Ann@localhost\n", own_sender),
            (b"From: ann@localhost <bob@localhost>\n", own_sender),
            (b"From: ann@localhost, bob@localhost\n", own_sender),
            (b"From: ann@localhost\nFrom: bob@localhost\n", own_sender),
            (b"From: ann@example.org\n", own_sender),
            (b"From: undisclosed:;\n", own_sender),
            (b"From: " + b"(" * 5000 + b"\n", own_sender),
            (b"From: \xff\xfe <\xff@\xfe>\n", own_sender),
            (b"Subject: no From\n", own_sender),
            (b"From: ann@localhost\nSender: bob@localhost\n", None),
            (b"From: bob@localhost\nSender:\n bob@localhost\n", own_sender),
            (b"From: bob@localhost\nSender: ann@localhost\n", "ann@localhost"),
            (b"From: bob@localhost\nSender: ann@localhost\nSender: bob@localhost\n", own_sender),
        ):
            parsed = message_from_bytes(self.delivered(header + b"\nx\n"))
            self.assertEqual(parsed.get_all("Sender", [None]), [sender], repr(header))

    def test_bcc(self):
        """Bcc fields are removed from the header, including folded lines, but not from the body."""
        message = valid_message().replace(b"To: ", b"Bcc: carol@example.org,\n ann\nbcc :x\nTo: ")
        body = b"Bcc: stays\n"
        self.assertEqual(
            self.delivered(message + body, "bob", "carol@example.org"), valid_message() + body
        )
        self.assertNotIn(b"carol", self.server.mail("carol@example.org")[0])
        self.assertEqual(
            self.delivered(b"Return-Path: <x@y>\nResent-Bcc: x\n" + valid_message()),
            valid_message(),
        )

    def test_large(self):
        """A header that is too large is rejected, whether it is folded or not."""
        for line in (b"X: y\n", b" y\n"):
            reply = self.server.post(b"Subject: x\n" + line * 100_000, "bob")
            self.assert_start(reply, b"552 ")
        self.assertEqual(self.server.mail("bob"), [])


@lru_cache
def example():
    """Return the global names of the example, loaded in this process."""
    with patch.dict(os.environ, environment(temporary_directory())):
        return runpy.run_path(str(TAC))


class CompletionTests(SynchronousTestCase):
    """The function that completes messages, compared with a simple implementation."""

    NAMES = ("From", "date", "DATE", "Message-ID", "message-id", "Bcc", "Sender", "To", "X-Y")
    FIELDS = st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from([": ", ":", " : ", ":\n ", ":\n\t"]),
        st.sampled_from(["ann@localhost", "bob@localhost", "a b", "Date: x", "x\n Bcc: y", "\xe9"]),
    )
    BODIES = st.binary(max_size=40).map(lambda body: body.replace(b"\r", b""))

    def complete(self, message):
        """Return the completed message, with generated values replaced by X."""
        complete = example()["complete_message"]
        with complete(BytesIO(message), b"ann@localhost", b"Received: x\n") as mail:
            mail.seek(0)
            done = re.sub(rb"(?m)^Date: \w{3}, \d.*:.*$", b"Date: X", mail.read())
        return re.sub(rb"(?m)^Message-ID: <\d.*@.*>$", b"Message-ID: X", done)

    @given(st.lists(FIELDS, max_size=8), BODIES, st.booleans())
    def test_complete(self, fields, body, has_blank):
        """Fields keep their order, removed ones are missing, and added ones come last."""
        if not has_blank and (b":" in body or body[:1] in (b" ", b"\t")):
            body = b"x"
        senders = [text for name, _, text in fields if name == "Sender"]
        authors = [text for name, _, text in fields if name == "From"]
        has_sender = senders == ["ann@localhost"]
        gone = {"Bcc"} if has_sender else {"Bcc", "Sender"}
        lines = [name + colon + text for name, colon, text in fields if name not in gone]
        names = {name.lower() for name, *_ in fields}
        lines += [f"{name}: X" for name in ("Date", "Message-ID") if name.lower() not in names]
        if authors != ["ann@localhost"] and not has_sender:
            lines.append("Sender: <ann@localhost>")
        blank = b"\n" if has_blank else b""
        stored = b"\n" if body and not has_blank and not body.startswith(b"\n") else blank
        expected = "".join(f"{line}\n" for line in ["Received: x", *lines]).encode("latin-1")
        head = "".join(f"{name}{colon}{text}\n" for name, colon, text in fields).encode("latin-1")
        self.assertTrue(self.complete(head + blank + body) == expected + stored + body)


class IdleTests(SynchronousTestCase):
    """Idle clients."""

    def test_idle(self):
        """The server sends 421 after five minutes without a line, and aborts 30 seconds later."""
        # The client does not read the reply.
        self.patch(idle, "unread_octets", lambda transport: int(b"421" in transport.value()))
        clock, transport = Clock(), StringTransport()
        factory = example()["SubmissionFactory"]()
        server = factory.buildProtocol(None)
        server.callLater = clock.callLater
        server.makeConnection(transport)
        transport.registerProducer(server, True)
        clock.advance(200)
        server.dataReceived(b"NOOP\r\nNO")
        clock.advance(200)
        server.dataReceived(b"O")
        clock.advance(99)
        self.assertNotIn(b"421", transport.value())
        clock.advance(1)
        self.assertIn(b"421 timeout, closing the connection\r\n", transport.value())
        self.assertTrue(transport.disconnecting)
        server.dataReceived(b"P\r\n")
        clock.advance(30)
        self.assertTrue(transport.disconnected)
        server.connectionLost()
        self.assertEqual((clock.getDelayedCalls(), factory.connections), ([], 0))


class RejectionTests(SplitTestCase):
    """Rejected commands and messages; the session continues after them."""

    def assert_replies(self, smtp, *lines):
        """Send lines; compare the start of each reply."""
        for line, start in lines:
            reply = smtp.ask(line)
            self.assertTrue(reply.startswith(start), f"{line!r}: {reply!r}")

    def assert_no_traceback(self):
        """Fail if the log of the server contains a traceback."""
        self.assertNotIn("Traceback", self.server.log)

    def test_no_login(self):
        """A client must log in before MAIL (RFC 4954 section 6)."""
        with closing(self.server.connect_smtp()) as smtp:
            self.assertIn(b"AUTH PLAIN LOGIN", smtp.ask(b"EHLO here"))
            self.assert_replies(
                smtp,
                (b"MAIL FROM:<ann@localhost>", b"530 log in first"),
                (b"RCPT TO:<bob@localhost>", b"503 "),
                (b"DATA", b"503 "),
                (login("ann"), b"235 "),
                (b"MAIL FROM:<ann@localhost>", b"250 "),
            )

    def test_senders(self):
        """The envelope sender must be the user's own address and must not be empty."""
        host = socket.gethostname().upper()
        for name, allowed, rejected in (
            (
                "ann",
                ["ann", "ann@localhost", "ann@LocalHost", f"ann@{host}"],
                ["", "bob", "bob@localhost", "Ann@localhost", "ann@example.org", "@localhost"],
            ),
            (
                "carol@example.org",
                ["carol@example.org", "carol@Example.ORG"],
                ["carol", "carol@localhost", "Carol@example.org", "ann@example.org"],
            ),
        ):
            with closing(self.server.connect_smtp(name=name)) as smtp:
                for sender in allowed:
                    line = f"mail from:<{sender}>".encode()
                    self.assert_replies(smtp, (line, b"250 "), (b"RSET", b"250 "))
                for sender in rejected:
                    self.assert_replies(smtp, (f"MAIL FROM:<{sender}>".encode(), b"5"))

    def test_nologin(self):
        """A user with nologin still receives mail, and the user's domain remains local."""
        server = SplitServer()
        self.addCleanup(server.stop)
        with open(default_path(str(server.root)), "ab") as users:
            users.write(b"dave@nol.example:{PLAIN}secret::::::nologin\n")
        with closing(server.connect_smtp(name="ann")) as smtp:
            self.assert_start(smtp.post(valid_message(), "dave@nol.example."), b"250 ")
            self.assert_replies(
                smtp,
                (b"MAIL FROM:<ann>", b"250 "),
                (b"RCPT TO:<eve@nol.example>", b"550 no such user"),
            )
        self.assertEqual(
            [split_trace(each)[1] for each in server.mail("dave@nol.example")], [valid_message()]
        )

    def test_no_maildir(self):
        """A user whose name does not fit the Maildir layout is unknown."""
        root = temporary_directory(self)
        for user in (b"ann@example.org", b"bob"):
            set_secret(default_path(str(root)), user, b"{PLAIN}secret", new=True)
        server = SplitServer(root=root, MAILDIR=root / "%d" / "%n")
        self.addCleanup(server.stop)
        with closing(server.connect_smtp(name="ann@example.org")) as smtp:
            self.assert_replies(
                smtp,
                (b"MAIL FROM:<ann@example.org>", b"250 "),
                (b"RCPT TO:<bob>", b"550 no such user"),
                (b"RCPT TO:<ann@example.org>", b"250 "),
            )
        self.assertNotIn("Traceback", server.log)

    def test_recipients(self):
        """Unknown users and other hosts are rejected at RCPT."""
        with closing(self.server.connect_smtp(name="ann")) as smtp:
            self.assert_replies(
                smtp,
                (b"MAIL FROM:<ann>", b"250 "),
                (b"RCPT TO:<nobody@localhost>", b"550 no such user"),
                (b"RCPT TO:<nobody@example.org>", b"550 no such user"),
                (b"RCPT TO:<carol@localhost>", b"550 no such user"),
                (b"RCPT TO:<../bob@localhost>", b"550 no such user"),
                (b"RCPT TO:<bob@example.com>", b"550 relaying refused"),
                (b"RCPT TO:<bob%example.com@localhost>", b"550 "),
                (b"RCPT TO:<@localhost:bob@example.com>", b"501 "),
                (b"RCPT TO:<>", b"501 "),
                (b"DATA", b"503 "),
                (b"RCPT TO:<bob@localhost>", b"250 "),
                (b"DATA", b"354 "),
                (b"\r\nHello.\r\n.", b"250 "),
            )
        self.assertEqual(len(self.server.mail("bob")), 1)

    def test_new_user(self):
        """A change of the users file takes effect with the next message."""
        path = default_path(str(self.server.root))
        self.assertEqual(self.server.post(valid_message(), "dave")[:3], b"550")
        set_secret(path, b"dave", b"{PLAIN}secret", new=True)
        self.assertEqual(self.server.post(valid_message(), "dave")[:3], b"250")
        remove_user(path, b"dave")
        self.assertEqual(self.server.post(valid_message(), "dave")[:3], b"550")

    def test_many_recipients(self):
        """At most 100 recipients are accepted (RFC 5321 section 4.5.3.1.8)."""
        with closing(self.server.connect_smtp(name="ann")) as smtp:
            smtp.ask(b"MAIL FROM:<ann>")
            replies = [smtp.ask(b"RCPT TO:<bob>")[:3] for _ in range(101)]
        self.assertEqual(replies, [*[b"250"] * 100, b"452"])

    def test_size(self):
        """A message that is too large is rejected by its SIZE parameter and by its size."""
        with closing(self.server.connect_smtp(name="ann")) as smtp:
            self.assertIn(b"SIZE %d" % MAX_OCTETS, smtp.ask(b"EHLO here"))
            self.assert_replies(
                smtp,
                (b"MAIL FROM:<ann> SIZE=%d" % (MAX_OCTETS + 1), b"552 "),
                (b"MAIL FROM:<ann> SIZE=%d" % 10**19, b"552 "),
                (b"MAIL FROM:<ann> SIZE=%d BODY=8BITMIME AUTH=<>" % MAX_OCTETS, b"250 "),
                (b"RSET", b"250 "),
            )
            head, line = b"Subject: x\n\n", b"x" * 1022 + b"\n"
            whole = (MAX_OCTETS - 14) // 1024
            last = b"y" * (MAX_OCTETS - 14 - 1024 * whole - 2)
            for end, reply in ((last + b"\n", b"250 "), (last + b"z\n", b"552 ")):
                self.assert_start(smtp.post(head + line * whole + end, "bob"), reply)
            self.assert_start(smtp.post(valid_message(), "bob"), b"250 ")
        self.assertEqual(len(self.server.mail("bob")), 2)

    def test_line_ends(self):
        """A bare CR or LF is rejected and does not end a message (RFC 5321 section 2.3.8)."""
        for text in (
            b"a\n.\nb\r\n",
            b"a\n.\r\nb\r\n",
            b"a\r.\r\nb\r\n",
            b"a\r\n.\nb\r\n",
            b"a\r\r\n",
        ):
            with closing(self.server.connect_smtp(name="ann")) as smtp:
                smtp.envelope("bob", sender="ann")
                self.assert_replies(smtp, (b"\r\n" + text + b".", b"554 "), (b"NOOP", b"250 "))
        self.assertEqual(self.server.mail("bob"), [])

    def test_long_lines(self):
        """A line that is too long ends the connection, and no part of it is run as a command."""
        for begin in ([], [b"MAIL FROM:<ann>", b"RCPT TO:<bob>", b"DATA"]):
            smtp = self.server.connect_smtp(name="ann")
            for line in begin:
                smtp.ask(line)
            self.assert_start(smtp.ask(b"x" * 17_000 + b"\r\nNOOP"), b"500 ")
            self.assertEqual(smtp.rest(), b"")
            smtp.abandon()
        self.assertEqual(self.server.mail("bob"), [])

    def test_auth_replies(self):
        """AUTH replies to every input with a code of RFC 4954 and without exceptions."""
        with closing(self.server.connect_smtp()) as smtp:
            self.assert_replies(
                smtp,
                (b"AUTH", b"504 "),
                (b"AUTH NTLM", b"504 "),
                (b"AUTH SCRAM-SHA-256 biwsbj1hLHI9eA==", b"504 "),
                (b"AUTH PLAIN", b"334 "),
                (b"not base64", b"501 "),
                (b"AUTH PLAIN", b"334 "),
                (b"\xff\x00", b"501 "),
                (b"AUTH PLAIN", b"334 "),
                (b"*", b"501 "),
                (b"AUTH PLAIN =", b"501 "),
                (b"AUTH PLAIN YW5u", b"501 "),
                (b"AUTH LOGIN", b"334 VXNlcm5hbWU6"),
                (b"", b"334 UGFzc3dvcmQ6"),
                (b"", b"501 "),
                (b"auth login YW5u", b"334 UGFzc3dvcmQ6"),
                (b"c2VjcmV0", b"235 "),
                (b"AUTH PLAIN", b"503 "),
                (b"NOOP", b"250 "),
            )
        self.assert_no_traceback()

    def test_invalid_lines(self):
        """Every invalid line gets a reply, and the session continues."""
        lines = [
            b"",
            b" ",
            b"\0",
            b"\xff\xfe",
            b"MAIL",
            b"RCPT",
            b"DATA x",
            b"UNKNOWN",
            b"VRFY ann",
        ]
        lines += [b"STARTTLS", b"EHLO", b"HELO \t", b"MAIL FROM:", b"MAIL FROM:<ann", b"a\nb"]
        lines += [
            b'MAIL FROM:<"a b"@localhost>',
            b"MAIL FROM:<ann@a@b>",
            b"MAIL FROM:ann",
            b"x" * 2000,
        ]
        lines += [
            b"MAIL FROM:<ann> " + word for word in (b"SIZE=", b"SIZE=-1", b"BODY=X", b"X=Y", b"\n")
        ]
        with closing(self.server.connect_smtp(name="ann")) as smtp:
            for line in lines:
                self.assertRegex(smtp.ask(line), rb"\A[245]\d\d", repr(line))
            self.assert_start(smtp.post(valid_message(), "bob"), b"250 ")
        self.assert_no_traceback()

    def test_random(self):
        """Random octets cause no error, before and after the login."""
        chance = random.Random(1225)
        words = [b"AUTH PLAIN ", b"AUTH LOGIN\r\n", b"MAIL FROM:<ann>\r\n", b"RCPT TO:<bob>\r\n"]
        words += [
            b"DATA\r\n",
            b".\r\n",
            b"*\r\n",
            b"RSET\r\n",
            b"EHLO x\r\n",
            b"\r\n",
            b"\n",
            b"\0",
        ]
        for number in range(60):
            smtp = self.server.connect_smtp(name="ann" if number % 2 else None)
            pieces = [
                *chance.choices(words, k=40),
                chance.randbytes(50),
                *chance.choices(words, k=40),
            ]
            smtp.socket.sendall(b"".join(pieces))
            smtp.socket.shutdown(socket.SHUT_WR)
            smtp.rest()
            smtp.abandon()
        self.assert_start(self.server.post(valid_message(), "bob"), b"250 ")
        self.assert_no_traceback()

    def test_many_commands(self):
        """A session ends after 500 commands without a message, so unread replies are bounded."""
        smtp = self.server.connect_smtp()
        smtp.socket.sendall(b"EHLO x\r\n" * 3000)
        replies = smtp.rest().split(b"\r\n")
        smtp.abandon()
        self.assert_start(replies[-2], b"421 ")
        self.assertEqual(sum(reply.startswith(b"250 ") for reply in replies), 500)

    def test_client_disconnects(self):
        """A message is not delivered if the client disconnects before its end."""
        for end in (b"", b"."):
            smtp = self.server.connect_smtp(name="ann")
            smtp.envelope("bob", sender="ann")
            smtp.socket.sendall(b"Subject: cut\r\n" + end)
            smtp.abandon()
        self.assert_start(self.server.post(valid_message(), "bob"), b"250 ")
        self.assertEqual(
            [split_trace(each)[1] for each in self.server.mail("bob")], [valid_message()]
        )


class LoginTests(SplitTestCase):
    """Logins: cleartext passwords, TLS, and failed logins."""

    def test_failed_logins(self):
        """All failed logins get the same delayed reply, and the third one ends the connection."""
        smtp = self.server.connect_smtp()
        start = time.monotonic()
        failing = (
            login("ann", "wrong"),
            login("nobody"),
            b"AUTH PLAIN " + b64encode(b"bob\0ann\0secret"),
        )
        replies = {smtp.ask(each) for each in failing}
        self.assertGreaterEqual(time.monotonic() - start, 6)
        self.assertEqual(replies, {b"535 authentication failed"})
        self.assertEqual(smtp.rest(), b"")
        smtp.abandon()
        self.assertRegex(
            self.server.log,
            r'127\.0\.0\.1:\d+: login of "nobody" by PLAIN failed: unknown user or wrong password',
        )
        self.assertNotIn("wrong'", self.server.log)

    def test_pipelined_logins(self):
        """Pipelined logins get their replies in order, however many wait."""
        with closing(self.server.connect_smtp()) as smtp:
            smtp.socket.sendall(login("nobody") + b"\r\n" + b"AUTH PLAIN YQ==\r\n" * 400)
            smtp.socket.sendall(login("ann") + b"\r\nNOOP\r\n")
            replies = [smtp.reply()[:3] for _ in range(403)]
        self.assertEqual(replies, [b"535", *[b"501"] * 400, b"235", b"250"])

    def server_on_other_address(self, kind):
        """Return a server on an address other than loopback, and arguments to connect to it."""
        address = external_address()
        if address is None:
            self.skipTest("this machine has no address but loopback")
        listen, options = f"{kind}:0:interface={address}", {}
        if kind == "ssl":
            root, issued = temporary_directory(self), issue(address)
            (root / "pem").write_bytes(issued.pem())
            listen += f":privateKey={root}/pem:certKey={root}/pem"
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            options = {"wrap": context.wrap_socket}

        def connect(server):
            return Connection((address, server.port), **options)

        self.patch(SplitServer, "connect", connect)
        server = SplitServer(SMTP_LISTEN=listen, POP_LISTEN=listen)
        self.addCleanup(server.stop)
        return server, {"address": (address, server.smtp_port), **options}

    def test_cleartext(self):
        """Other hosts cannot send cleartext passwords, and AUTH is not announced to them."""
        server, there = self.server_on_other_address("tcp")
        with closing(server.connect_smtp(**there)) as smtp:
            self.assertNotIn(b"AUTH", smtp.ask(b"EHLO x"))
            for line in (b"AUTH PLAIN", login("ann")):
                self.assert_start(smtp.ask(line), b"538 ")
            self.assertIn(b"TLS", smtp.ask(b"MAIL FROM:<ann>"))

    def test_tls(self):
        """Other hosts can log in over TLS, and failed logins by SMTP delay those by POP3."""
        server, there = self.server_on_other_address("ssl")
        with closing(server.connect_smtp(**there)) as smtp:
            self.assertIn(b"AUTH", smtp.ask(b"EHLO x"))
            self.assert_start(smtp.ask(login("ann", "wrong")), b"535 ")
            self.assert_start(smtp.ask(login("ann")), b"235 ")
            self.assert_start(smtp.post(valid_message(), "bob"), b"250 ")
        self.assertIn(b"with ESMTPSA;", server.mail("bob")[0])
        start = time.monotonic()
        with closing(server.connect()) as pop:
            pop.ask(b"USER ann")
            self.assert_start(pop.ask(b"PASS wronger"), b"-ERR [AUTH]")
        self.assertGreaterEqual(time.monotonic() - start, 4)

    def test_unix_socket(self):
        """Cleartext passwords are accepted on a UNIX socket."""
        root = temporary_directory(self)
        server = SplitServer(SMTP_LISTEN=f"unix:{root}/socket", ports=1)
        self.addCleanup(server.stop)
        with closing(server.connect_smtp(name="ann", address=f"{root}/socket")) as smtp:
            for hello in (b"HELO x", b"EHLO x"):
                self.assert_start(smtp.ask(hello), b"250")
            self.assert_start(smtp.post(valid_message(), "bob"), b"250 ")
        self.assertIn(b"from x ([127.0.0.1])", server.mail("bob")[0])


class DeliveryTests(SplitTestCase):
    """Errors of Maildirs and disks: no message is lost or delivered incompletely."""

    def files_in_tmp(self):
        """Return the files in tmp/ of all Maildirs."""
        return [*self.server.root.glob("*/tmp/*")]

    def test_unwritable(self):
        """If one Maildir cannot be written, no recipient gets the message, and the reply is 451."""
        (self.server.root / "carol@example.org").mkdir()
        (self.server.root / "carol@example.org" / "new").write_bytes(b"")
        reply = self.server.post(valid_message(), "ann", "bob", "carol@example.org")
        self.assertEqual(reply, b"451 the message was not delivered, try again later")
        self.assertIn("Not a directory", self.server.log)
        self.assertEqual(
            self.server.mail("ann") + self.server.mail("bob") + self.files_in_tmp(), []
        )
        self.assert_start(self.server.post(valid_message(), "ann", "bob"), b"250 ")

    def test_link(self):
        """A symbolic link in place of a Maildir folder is not followed."""
        other = temporary_directory(self)
        maildir = self.server.root / "bob"
        maildir.mkdir()
        (maildir / "tmp").mkdir()
        (maildir / "new").symlink_to(other)
        self.assert_start(self.server.post(valid_message(), "bob"), b"451 ")
        self.assertEqual(os.listdir(other), [])

    def test_no_users_file(self):
        """An unusable users file is a temporary failure, and the reply has no details."""
        path = Path(default_path(str(self.server.root)))
        with closing(self.server.connect_smtp(name="ann")) as smtp:
            smtp.ask(b"MAIL FROM:<ann>")
            path.chmod(0o644)
            try:
                self.assertRegex(smtp.ask(b"RCPT TO:<bob>"), rb"\A451 [\w, ]+\Z")
            finally:
                path.chmod(0o600)
            self.assert_start(smtp.ask(b"RCPT TO:<bob>"), b"250 ")
        self.assertIn("cannot use the users file: ", self.server.log)

    def strace(self, inject):
        """Start a server in which a system call fails once in each thread."""
        require_programs(self, "strace")
        call = inject.partition(":")[0]
        options = ("-D", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject)
        server = SplitServer(prefix=("strace", *options[:-1], f"inject={inject}"))
        self.addCleanup(server.stop)
        return server

    def test_tmp_not_removed(self):
        """A file that cannot be removed from tmp/ is logged and does not affect the reply."""
        server = self.strace("unlinkat:error=EIO:when=1")
        with closing(server.connect_smtp(name="ann")) as smtp:
            self.assertEqual(smtp.post(valid_message(), "bob"), b"250 delivered to all recipients")
            self.assertEqual(smtp.ask(b"NOOP"), b"250 done")
        self.assertIn("cannot remove files from tmp", server.log)

    def test_disk_fails(self):
        """If the disk fails, the reply is 451; a message with reply 250 is stored completely."""
        for inject in ("fsync:error=ENOSPC", "renameat:error=EIO", "mkdirat:error=EACCES"):
            server = self.strace(f"{inject}:when=1")
            with closing(server.connect_smtp(name="ann")) as smtp:
                replies = [smtp.post(valid_message(), "ann", "bob") for _ in range(8)]
            self.assert_start(replies[0], b"451 ")
            # The first call in each of the four threads fails, and any thread may be next.
            self.assertLessEqual(replies.count(replies[0]), 4)
            accepted = sum(reply.startswith(b"250") for reply in replies)
            self.assertEqual(accepted, len(replies) - replies.count(replies[0]))
            for name in ("ann", "bob"):
                mail = [split_trace(each)[1] for each in server.mail(name)]
                self.assertGreaterEqual(len(mail), accepted)
                self.assertEqual({*mail}, {valid_message()})
            self.assertEqual([*server.root.glob("*/tmp/*")], [])
            server.stop()

    def test_disk_full(self):
        """A message that cannot be stored gets one reply at its end; the next one is accepted."""
        server = SplitServer(prefix=("prlimit", "--fsize=1000000"))
        self.addCleanup(server.stop)
        with closing(server.connect_smtp(name="ann")) as smtp:
            for body, reply in ((b"x\n" * 2_000_000, b"452 "), (b"x\n", b"250 ")):
                self.assert_start(smtp.post(valid_message() + body, "bob"), reply)
            self.assert_start(smtp.ask(b"NOOP"), b"250 done")
        self.assertEqual(
            [split_trace(each)[1] for each in server.mail("bob")], [valid_message() + b"x\n"]
        )
        self.assertIn("File too large", server.log)

    def test_killed(self):
        """If the server is killed, files in new/ are complete, and acknowledged messages exist."""
        kills = 0
        for call in ("fsync", "renameat", "mkdirat"):
            for when in (1, 2, 3, 5):
                server = self.strace(f"{call}:signal=KILL:when={when}")
                accepted = 0
                with contextlib.suppress(OSError, AssertionError):
                    smtp = server.connect_smtp(name="ann")
                    self.addCleanup(smtp.abandon)
                    while accepted < 8 and smtp.post(valid_message(), "ann", "bob").startswith(
                        b"250 "
                    ):
                        accepted += 1
                killed = accepted < 8
                if killed:
                    kills += 1
                    self.assertEqual(server.process.wait(TIMEOUT), -signal.SIGKILL)
                server.stop()
                for name in ("ann", "bob"):
                    mail = [split_trace(each)[1] for each in server.mail(name)]
                    self.assertIn(len(mail), (accepted, accepted + 1))
                    self.assertLessEqual({*mail}, {valid_message()})
        self.assertGreater(kills, 6)

    def test_killed_while_writing(self):
        """A server that is killed while it writes leaves a partial file in tmp/, not in new/."""
        server = SplitServer()
        smtp = server.connect_smtp(name="ann")
        smtp.envelope("bob", sender="ann")
        smtp.socket.sendall(b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * 400_000 + b".\r\n")
        until(lambda: [*server.root.glob("bob/tmp/*")], "a file in tmp/")
        server.stop(signal.SIGKILL)
        smtp.abandon()
        self.assertLessEqual({len(each) > 32_000_000 for each in server.mail("bob")}, {True})
        server = SplitServer(root=server.root)
        self.addCleanup(server.stop)
        before = len(server.mail("bob"))
        self.assert_start(server.post(valid_message(), "bob"), b"250 ")
        self.assertEqual(len(server.read("bob")), before + 1)


class FakeSmartHost:
    """An SMTP server (aiosmtpd) that records messages.

    ``refusals`` maps EHLO, DATA or a recipient to the reply that rejects it.
    """

    def __init__(self, test, **options):
        self.envelopes = []
        self.refusals = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        controller = Controller(self, "127.0.0.1", port, **options)
        controller.start()
        test.addCleanup(controller.stop)
        self.address = f"127.0.0.1:{port}"

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        """Announce the extensions."""
        session.host_name = hostname
        rejection = self.refusals.get("EHLO")
        return [rejection] if rejection else responses

    async def handle_RCPT(self, server, session, envelope, address, options):
        """Accept or reject a recipient."""
        if address not in self.refusals:
            envelope.rcpt_tos.append(address)
        return self.refusals.get(address, "250 fine")

    async def handle_DATA(self, server, session, envelope):
        """Accept or reject a message."""
        if "DATA" not in self.refusals:
            self.envelopes.append(envelope)
        return self.refusals.get("DATA", "250 fine")


class SmartHostTests(SplitTestCase):
    """Messages for other hosts."""

    def setUp(self):
        """Start a smart host and a server that uses it."""
        self.smart = FakeSmartHost(self)
        self.split = SplitServer(SMART_HOST=self.smart.address)
        self.addCleanup(self.split.stop)

    def post(self, message=None, *recipients):
        """Post a message to bob and to others."""
        return self.split.post(message or valid_message(), "bob@localhost", *recipients)

    def assert_not_delivered(self, reply, start):
        """Fail unless no recipient has the message, and the reply starts with ``start``."""
        self.assert_start(reply, start)
        self.assertEqual(self.smart.envelopes + self.split.mail("bob"), [])
        self.assertEqual([*self.split.root.glob("*/tmp/*")], [])

    def test_relay(self):
        """Messages for other hosts arrive at the smart host octet for octet."""
        bcc = (
            valid_message().replace(b"To: ", b"Bcc: dave@example.com\nTo: ")
            + b"\xff\xfe 8-bit\n.\n..\n"
        )
        to = ("dave@example.com", "eve@Example.NET", "carol@example.org")
        self.assert_start(self.post(bcc, *to), b"250 ")
        (envelope,) = self.smart.envelopes
        self.assertRegex(envelope.mail_from, r"\Aann@(?!localhost\Z)[\w.-]+\Z")
        self.assertEqual(envelope.rcpt_tos, ["dave@example.com", "eve@Example.NET"])
        self.assertEqual(envelope.mail_options, ["BODY=8BITMIME"])
        received = re.match(rb"Received: .*\r\n(?:[ \t].*\r\n)*", envelope.content)[0]
        relayed = envelope.content.removeprefix(received).replace(b"\r\n", b"\n")
        expected = valid_message() + b"\xff\xfe 8-bit\n.\n..\n"
        self.assertEqual(relayed, expected)
        for name in ("bob", "carol@example.org"):
            self.assertEqual([split_trace(each)[1] for each in self.split.mail(name)], [expected])

    def test_dots(self):
        """Dots at the start of lines arrive unchanged, wherever chunks begin."""
        for octets in (2, 3):
            line = b"." * (octets - 1) + b"\n"
            self.assert_start(
                self.post(valid_message() + line * 60_000, "dave@example.com"), b"250 "
            )
            body = self.smart.envelopes[-1].content.replace(b"\r\n", b"\n").partition(b"Bob.\n")[2]
            self.assertTrue(body == line * 60_000)

    def test_local_domain(self):
        """Mail to an unknown user of a local domain is not sent to the smart host."""
        for recipient in ("nobody@localhost", "nobody@example.org"):
            self.assert_not_delivered(self.post(None, recipient), b"550 ")

    def test_rejected_by_smart_host(self):
        """If the smart host rejects one recipient or the message, no recipient gets it."""
        for where, reply, code in (
            (
                "eve@example.com",
                "550 5.1.1 no eve here",
                b"554 smart host replied: 550 5.1.1 no eve",
            ),
            ("eve@example.com", "450 eve sleeps", b"451 smart host replied: 450 eve sleeps"),
            ("DATA", "554 spam", b"554 smart host replied: 554 spam"),
            ("DATA", "451 later", b"451 smart host replied: 451 later"),
            ("EHLO", "554 go away", b"554 smart host replied: 554 go away"),
        ):
            self.smart.refusals = {where: reply}
            self.assert_not_delivered(self.post(None, "dave@example.com", "eve@example.com"), code)
        self.smart.refusals = {}
        self.assert_start(self.post(None, "eve@example.com"), b"250 ")

    def reply_after_smart_host(self, listener, *replies, size=0):
        """Post through a smart host that sends these replies early; return the client's reply."""
        server = SplitServer(SMART_HOST=f"127.0.0.1:{listener.getsockname()[1]}")
        self.addCleanup(server.stop)
        with closing(server.connect_smtp(name="ann")) as smtp:
            smtp.envelope("dave@example.com", "bob", sender="ann")
            smtp.socket.sendall((b"x" * 78 + b"\r\n") * size + b".\r\n")
            peer, _ = listener.accept()
            with peer, peer.makefile("rb") as lines:
                for reply in replies[:-1]:
                    peer.sendall(reply + b"\r\n")
                    lines.readline()
                peer.sendall(replies[-1] + b"\r\n")
                client_reply = smtp.reply()
        self.assertNotIn("Traceback", server.log)
        self.assertEqual(server.mail("bob"), [])
        return client_reply

    def test_early_acceptance(self):
        """If the smart host accepts a message before its end, the message is not accepted."""
        for size, last in ((0, b"250 huh"), (300_000, b"354 go on\r\n250 taken")):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                replies = (b"220 x", b"250 x", b"250 fine", b"250 fine", last)
                client_reply = self.reply_after_smart_host(listener, *replies, size=size)
            self.assert_start(client_reply, b"451 smart host replied: 451 the message was not sent")

    def test_quit(self):
        """The reply of the smart host to QUIT does not matter."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = SplitServer(SMART_HOST=f"127.0.0.1:{listener.getsockname()[1]}")
            self.addCleanup(server.stop)
            with closing(server.connect_smtp(name="ann")) as smtp:
                smtp.envelope("dave@example.com", sender="ann")
                smtp.socket.sendall(b".\r\n")
                peer, _ = listener.accept()
                with peer, peer.makefile("rb") as lines:
                    for reply in (b"220 x", b"250 x", b"250 fine", b"250 fine", b"354 go on"):
                        peer.sendall(reply + b"\r\n")
                        line = lines.readline()
                    while line != b".\r\n":
                        line = lines.readline()
                    peer.sendall(b"250 taken\r\n")
                    self.assertEqual(smtp.reply(), b"250 delivered to all recipients")
                    self.assertEqual(lines.readline(), b"QUIT\r\n")
                    peer.sendall(b"500 what\r\n")
                    self.assertEqual(lines.readline(), b"")

    def test_rejecting_greeting(self):
        """A negative greeting of the smart host is passed on to the client."""
        for reply, code in ((b"554 go away", b"554"), (b"421 closed", b"451")):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                client_reply = self.reply_after_smart_host(listener, reply)
            self.assertEqual(client_reply, code + b" smart host replied: " + reply)

    def test_early_rejection(self):
        """A smart host can reject a message before its end."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            replies = (b"220 x", b"250 x", b"250 fine", b"250 fine", b"354 go on\r\n552 enough")
            client_reply = self.reply_after_smart_host(listener, *replies, size=300_000)
        self.assertEqual(client_reply, b"554 smart host replied: 552 enough")

    def test_silent(self):
        """A smart host that disconnects is a temporary failure, and the log has the reason."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            for answers in (b"", b"nonsense\r\n", b"220 x\r\n"):
                server = SplitServer(SMART_HOST=f"tcp:127.0.0.1:{port}")
                self.addCleanup(server.stop)
                with closing(server.connect_smtp(name="ann")) as smtp:
                    smtp.envelope("bob", "dave@example.com", sender="ann")
                    smtp.socket.sendall(b".\r\n")
                    peer, _ = listener.accept()
                    peer.sendall(answers)
                    peer.shutdown(socket.SHUT_WR)
                    reply = smtp.reply()
                    peer.close()
                self.assertEqual(reply, b"451 smart host not available, try again later")
                self.assertEqual(server.mail("bob"), [])
                self.assertIn("smart host failed: ", server.log)
        with closing(server.connect_smtp(name="ann")) as smtp:
            self.assert_start(smtp.post(valid_message(), "dave@example.com", "bob"), b"451 ")


class ProgramTests(SplitTestCase):
    """SMTP and POP3 clients of others work with the example."""

    def program(self, name, *arguments, code=0, **options):
        """Run a program, and return its output."""
        require_programs(self, name)
        done = run(name, *arguments, **options)
        self.assertEqual(done.returncode, code, repr(done))
        return done.stdout + done.stderr

    def write_configuration(self, name, text):
        """Write a configuration file to a new directory; return both paths."""
        home = temporary_directory(self)
        path = home / name
        path.write_text(text.format(home=home, smtp=self.server.smtp_port, pop=self.server.port))
        path.chmod(0o600)
        return home, path

    def assert_arrived(self):
        """Fail unless bob has exactly this message."""
        self.assertEqual([split_trace(each)[1] for each in self.server.mail("bob")], [MAIL])

    def curl(self, *options, user="ann:secret", sender="ann@localhost", **how):
        """Post with curl."""
        _, path = self.write_configuration("message", "")
        path.write_bytes(MAIL)
        url = f"smtp://127.0.0.1:{self.server.smtp_port}"
        envelope = ("--mail-from", sender, "--mail-rcpt", "bob@localhost", "--user", user)
        arguments = ("--silent", "--show-error", "--crlf", *envelope, "--upload-file", path)
        return self.program("curl", *arguments, *options, url, **how)

    def test_curl(self):
        """Curl can post with PLAIN and with LOGIN."""
        self.curl()
        self.assert_arrived()
        self.server.empty()
        self.curl("--login-options", "AUTH=LOGIN")
        self.assert_arrived()

    def test_curl_rejected(self):
        """Curl reports rejections by its exit codes."""
        login_denied, mail_rejected = 67, 55
        self.curl(user="ann:wrong", code=login_denied)
        self.curl(sender="bob@localhost", code=mail_rejected)
        self.assertEqual(self.server.mail("bob"), [])

    def test_swaks(self):
        """Swaks can post with both mechanisms and pipelining."""
        for mechanism in ("PLAIN", "LOGIN"):
            server = ("--server", "127.0.0.1", "--port", self.server.smtp_port, "--pipeline")
            auth = ("--auth", mechanism, "--auth-user", "ann", "--auth-password", "secret")
            envelope = ("--from", "ann@localhost", "--to", "bob@localhost", "--data", "-")
            # swaks sends CRLF, and adds one empty line at the end.
            output = self.program("swaks", *server, *auth, *envelope, input=MAIL)
            self.assertIn(b"<-  250 delivered to all recipients", output)
        for message in self.server.mail("bob"):
            self.assertEqual(split_trace(message)[1].rstrip(b"\n"), MAIL.rstrip(b"\n"))
        self.assertEqual(len(self.server.mail("bob")), 2)

    def test_msmtp(self):
        """Msmtp posts a message unchanged."""
        _, rc = self.write_configuration(
            "rc",
            "account default\nhost 127.0.0.1\nport {smtp}\ntls off\nauth plain\n"
            "user ann\npassword secret\nfrom ann@localhost\n"
            "set_from_header off\nset_date_header off\n",
        )
        self.program("msmtp", "--file", rc, "bob@localhost", input=MAIL)
        self.assert_arrived()

    def test_smtplib(self):
        """Smtplib can post with each mechanism, and reports rejections."""
        for method in ("auth_plain", "auth_login"):
            with smtplib.SMTP("127.0.0.1", self.server.smtp_port, timeout=TIMEOUT) as client:
                client.ehlo()
                client.user, client.password = "ann", "secret"
                client.auth(method.removeprefix("auth_").upper(), getattr(client, method))
                client.sendmail(
                    "ann@localhost",
                    ["bob@localhost"],
                    MAIL.replace(b"\n", b"\r\n"),
                    ["BODY=8BITMIME"],
                )
                with self.assertRaises(smtplib.SMTPRecipientsRefused):
                    client.sendmail("ann@localhost", ["nobody@localhost"], MAIL)
                with self.assertRaises(smtplib.SMTPSenderRefused):
                    client.sendmail("bob@localhost", ["bob@localhost"], MAIL)
        self.assertEqual([split_trace(each)[1] for each in self.server.mail("bob")], [MAIL] * 2)

    def test_mpop(self):
        """Mpop fetches the message and deletes it."""
        self.delivered(MAIL)
        home, rc = self.write_configuration(
            "rc",
            "account default\nhost 127.0.0.1\nport {pop}\ntls off\nauth user\nuser bob\n"
            "password secret\nkeep off\nuidls_file {home}/uidls\nreceived_header off\n"
            "delivery maildir {home}/got\n",
        )
        for folder in ("tmp", "new", "cur"):
            (home / "got" / folder).mkdir(parents=True)
        self.program("mpop", "--file", rc)
        self.assertEqual([split_trace(each)[1] for each in read_maildir(home / "got")], [MAIL])
        self.assertEqual(self.server.mail("bob"), [])

    def test_fetchmail(self):
        """Fetchmail fetches the message and deletes it."""
        self.delivered(MAIL)
        home, rc = self.write_configuration(
            "rc",
            "set invisible\nset pidfile {home}/pid\nset idfile {home}/ids\n"
            "poll 127.0.0.1 service {pop} "
            "proto pop3 auth password user bob password secret is root here "
            'sslproto "" no rewrite fetchall nokeep mda "cat > {home}/got"\n',
        )
        environ = {**os.environ, "HOME": str(home)}
        self.program("fetchmail", "--fetchmailrc", rc, "--nodetach", env=environ)
        self.assertEqual(split_trace((home / "got").read_bytes())[1], MAIL)
        self.assertEqual(self.server.mail("bob"), [])


MAIL = valid_message() + b".\n..\n.dot\n\nGr\xc3\xbc\xc3\x9fe\n"


class StartTests(TestCase):
    """The settings, and the error message of an invalid one."""

    def failed(self, **settings):
        """Start the example, which must fail; return the last line of its output."""
        environ = {**os.environ, **environment(temporary_directory(self)), **settings}
        command = ("twistd", "--pidfile=", "--nodaemon", "--python", TAC)
        done = run(*command, env=environ, cwd=temporary_directory(self))
        output = (done.stdout + done.stderr).decode()
        self.assertEqual(done.returncode, 1, output)
        self.assertNotIn("Traceback", output)
        return output.splitlines()[-1]

    def test_invalid_settings(self):
        """The error message names the variable and its value."""
        root = temporary_directory(self)
        (root / "public").touch(0o644)
        (root / "public").chmod(0o644)
        with socket.create_server(("127.0.0.1", 0)) as occupied:
            busy = f"tcp:{occupied.getsockname()[1]}:interface=127.0.0.1"
            for variable, invalid, message in (
                ("MAILDIR", "", "no such directory; .* examples/sample_maildrop.py sample"),
                ("MAILDIR", "/nonesuch/%u", "no such directory"),
                ("MAILDIR", "/tmp/%x", "%x is not known"),
                ("USERS", f"{root}/public", "chmod o="),
                ("POP_LISTEN", "tcp:x", "x"),
                ("SMTP_LISTEN", "nonesuch:1", "nonesuch"),
                ("SMTP_LISTEN", busy, "[Aa]ddress already in use"),
                ("POP_LISTEN", busy, "[Aa]ddress already in use"),
                ("SMART_HOST", "http://example.org", "http"),
                ("SMART_HOST", "example.org:99999", "99999"),
            ):
                output = self.failed(**{f"POPSERV_{variable}": invalid})
                self.assertRegex(output, rf"POPSERV_{variable}\b.*{message}")

    def test_sample(self):
        """Without settings, the example serves the sample maildrop."""
        directory = temporary_directory(self)
        done = run("python", CHECKOUT / "examples" / "sample_maildrop.py", directory / "sample")
        self.assertEqual(done.returncode, 0, done.stderr)
        environ = environment(
            "", POP_LISTEN=f"unix:{directory}/pop", SMTP_LISTEN=f"unix:{directory}/smtp"
        )
        server = subprocess.Popen(
            [BIN / "twistd", "--pidfile=", "--logfile=log", "--nodaemon", "--python", TAC],
            cwd=directory,
            env={**os.environ, **environ},
        )
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        until(lambda: accepts(f"{directory}/smtp"), "its sockets")
        with closing(SMTPConnection(f"{directory}/smtp")) as smtp:
            smtp.ask(login("joe"))
            self.assertEqual(smtp.post(valid_message("joe"), "joe", sender="joe")[:3], b"250")
        with closing(Connection(f"{directory}/pop")) as pop:
            pop.ask(b"USER joe")
            self.assertIn(b"13 messages", pop.ask(b"PASS secret"))

    def test_documentation(self):
        """The page explains every setting, and its commands work."""
        page = CHECKOUT / "docs" / "howto" / "split-user-agent.rst"
        explained = re.findall("^``(POPSERV_.*)``$", page.read_text(), re.MULTILINE)
        self.assertEqual({*explained}, {*re.findall('"(POPSERV_[A-Z_]+)"', TAC.read_text())})
        commands = dict(blocks(page, "shell"))["post"]
        require_programs(self, "curl", "swaks", "mpop")
        directory = temporary_directory(self)
        run("python", CHECKOUT / "examples" / "sample_maildrop.py", directory / "sample")
        server = SplitServer(root=directory / "sample")
        self.addCleanup(server.stop)
        for shown, port in (("1587", server.smtp_port), ("1110", server.port)):
            commands = commands.replace(f":{shown}", f":{port}").replace(f"={shown}", f"={port}")
        done = run("bash", "-ec", commands, cwd=directory)
        self.assertEqual(done.returncode, 0, repr(done))
        self.assertIn(b"Subject: posted\r\nDate: ", done.stdout)
        self.assertIn(b"\r\n\r\nIt works.\r\n", done.stdout)
        for subject in (b"Welcome", b"posted", b"test "):
            self.assertIn(b"\nSubject: " + subject, (directory / "mail").read_bytes())
