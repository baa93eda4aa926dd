"""The example in which users post by SMTP and read by POP3, as it stands and by real clients."""

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
from popserv.maildrops.maildir.layout import Layout
from popserv.server import idle
from popserv.testing import SAMPLE_MESSAGES
from tests.certificates import issue
from tests.live.harness import (
    BIN,
    CHECKOUT,
    LOOPBACK,
    PATIENCE,
    SAMPLES,
    Connection,
    Server,
    ServerTestCase,
    need,
    run,
    stored,
    temporary_directory,
    until,
    wire_form,
)
from tests.live.test_twistd import outside
from tests.test_docs import blocks

TAC = CHECKOUT / "examples" / "split-user-agent.tac"
SIZE = 32 << 20
MESSAGE = (
    b"From: Ann <%b>\nTo: bob@localhost\nDate: Sat, 21 Nov 2026 12:00:00 +0000\n"
    b"Message-ID: <1@example.org>\nSubject: hello\n\nHello, Bob.\n"
)


def login(name, password="secret"):
    """Return the command that logs in at once."""
    return b"AUTH PLAIN " + b64encode(f"\0{name}\0{password}".encode())


def environment(root, **settings):
    """Return the variables of a server on free ports."""
    listen = {"POPSERV_POP_LISTEN": LOOPBACK, "POPSERV_SMTP_LISTEN": LOOPBACK}
    given = {f"POPSERV_{key}": str(value) for key, value in settings.items()}
    return {"POPSERV_MAILDIR": str(root), **listen, **given}


class SplitServer(Server):
    """The example, for the users ann, bob and carol@example.org."""

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
        """Where it takes mail."""
        return self.ports[1]

    def talk(self, *, name=None, address=None, **options):
        """Return a connection to post on, logged in under a name."""
        connection = Talk(address or ("127.0.0.1", self.smtp_port), **options)
        if name and not connection.ask(login(name)).startswith(b"235 "):
            raise AssertionError(f"{name} cannot log in")
        return connection

    def post(self, message, *recipients, name="ann", sender=None):
        """Post lines that end with LF; return the last reply."""
        with closing(self.talk(name=name)) as talk:
            return talk.post(message, *recipients, sender=sender or f"{name}@localhost")

    def mail(self, name):
        """Return what the Maildir of a user holds."""
        return stored(Path(self.root, name))

    def read(self, name):
        """Return what a user fetches by POP3, as lines that end with CRLF."""
        pop = poplib.POP3("127.0.0.1", self.port, timeout=PATIENCE)
        # It reads no line beyond 2,048 octets unless told.
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


class Talk(Connection):
    """A client's end of SMTP, spoken by hand."""

    def ask(self, command):
        """Send a command; return the reply, the lines of which are parted by LF."""
        self.socket.sendall(command + b"\r\n")
        return self.reply()

    def reply(self):
        """Return the next reply."""
        lines = [self.line()]
        while lines[-1][3:4] == b"-":
            lines.append(self.line())
        return b"\n".join(lines)

    def envelope(self, *recipients, sender):
        """Say what comes before a message; return the reply to the last that was said."""
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


def own(name="ann"):
    """Return a message under the poster's own address, which lacks nothing."""
    return MESSAGE % f"{name}@localhost".encode()


def parted(message):
    """Part a message that was delivered into its trace and the rest."""
    found = re.match(rb"Return-Path: <.*>\nReceived: .*\n(?:[\t ].*\n)*", message)
    return message[: found.end()], message[found.end() :]


class SplitTestCase(ServerTestCase):
    """Tests that share one running example."""

    settings = {}

    def new_server(self):
        """Start the example."""
        return SplitServer(**self.settings)

    def setUp(self):
        """Begin without mail."""
        self.server.empty()

    def assert_start(self, text, start):
        """Fail unless a text starts with this."""
        self.assertTrue(text.startswith(start), repr(text))

    def posted(self, message, *recipients, **options):
        """Post a message, which must be taken; return what bob has then, without the trace."""
        reply = self.server.post(message, *(recipients or ["bob@localhost"]), **options)
        self.assert_start(reply, b"250 ")
        return parted(self.server.mail("bob")[-1])[1]


class PostingTests(SplitTestCase):
    """From posting to reading."""

    def test_trace(self):
        """Return-Path and Received stand above the message (RFC 5321 section 4.4)."""
        self.assert_start(self.server.post(own(), "bob@localhost"), b"250 ")
        trace, rest = parted(self.server.mail("bob")[0])
        self.assertRegex(
            trace,
            rb"\AReturn-Path: <ann@localhost>\nReceived: from unknown \(\[127\.0\.0\.1\]\)\n"
            rb"\tby \S+ with ESMTPA;\n\t\w{3}, \d\d \w{3} \d{4} [\d:]{8} [+-]\d{4}\n\Z",
        )
        self.assertEqual(rest, own())

    def test_octets(self):
        """What has a whole header arrives octet for octet, dots and 8-bit among them."""
        head = own().partition(b"\n\n")[0] + b"\n\n"
        bodies = [b"", b"\n", b".\n..\n...a\n.\n\n", bytes(range(128, 256)) + b"\n", b"\0\t \n"]
        bodies += [b"x" * 16_000 + b"\n", b"Date: none\n", b"\n\n.\n" * 30_000]
        with closing(self.server.talk(name="ann")) as talk:
            for body in bodies:
                self.assert_start(talk.post(head + body, "bob@localhost"), b"250 ")
        self.assertEqual(
            [parted(each)[1] for each in self.server.mail("bob")], [head + body for body in bodies]
        )
        read = [each.partition(b"From: Ann")[2] for each in self.server.read("bob")]
        expected = [
            (head + body).replace(b"\n", b"\r\n").partition(b"From: Ann")[2] for body in bodies
        ]
        self.assertEqual(read, expected)

    def test_samples(self):
        """Messages as they come from mail programs lose nothing but Return-Path."""
        for message in (*SAMPLES, *SAMPLE_MESSAGES):
            message = wire_form(message, b"\n")
            if b"\r" in message or max(map(len, message.split(b"\n"))) > 16_000:
                continue
            arrived = self.posted(message).split(b"\n")
            sent = message.removeprefix(b"Return-Path: <ann@example.org>\n").split(b"\n")
            added = re.compile(rb"(Date|Message-ID|Sender): ")
            here = [line for line in arrived if line in sent or not added.match(line)]
            while here[:1] == [b""] and sent[:1] != [b""]:
                # What has no header got one.
                here.pop(0)
            self.assertEqual([line for line in here if line], [line for line in sent if line])

    def test_open_session(self):
        """A session shows what was there when it began; the next one shows the rest."""
        self.assert_start(self.server.post(own(), "bob"), b"250 ")
        session = self.server.login("bob")
        self.assert_start(self.server.post(own(), "bob"), b"250 ")
        self.assert_start(session.ask(b"STAT"), b"+OK 1 ")
        session.ask(b"DELE 1")
        self.assert_start(session.close(), b"+OK")
        self.assertEqual(len(self.server.read("bob")), 1)

    def test_first_message(self):
        """Who has no Maildir gets one that is closed to others, at the first message."""
        self.assertFalse((self.server.root / "bob").exists())
        session = self.server.login("bob")
        self.assert_start(self.server.post(own(), "bob"), b"250 ")
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
        """All recipients have it, each once, whatever way they were named."""
        to = ("bob", "bob@LOCALHOST", "bob@localhost", "carol@EXAMPLE.org", "ann@localhost")
        self.assert_start(self.server.post(own(), *to), b"250 ")
        for user in SplitServer.USERS:
            self.assertEqual([parted(each)[1] for each in self.server.mail(user)], [own()])

    def test_memory(self):
        """A large message is in a file, and not in memory."""
        self.posted(own())
        before = self.server.memory
        self.posted(own() + (b"0123456789" * 7 + b"\n") * 400_000)
        self.assertLess(self.server.memory - before, 8 << 20)

    def test_pipelining(self):
        """Commands that come together are answered one by one, in order (RFC 2920)."""
        once = (
            b"MAIL FROM:<ann>\r\nRCPT TO:<bob>\r\nRCPT TO:<nobody>\r\nDATA\r\nSubject: %d\r\n.\r\n"
        )
        posts = [once % number for number in range(5)]
        with closing(self.server.talk()) as talk:
            commands = [login("ann"), b"\r\n", *posts, b"AUTH PLAIN\r\n", b"NOOP\r\n"]
            talk.socket.sendall(b"".join(commands))
            replies = [talk.reply()[:3] for _ in range(1 + 5 * 5 + 2)]
        self.assertEqual(
            replies, [b"235", *[b"250", b"250", b"550", b"354", b"250"] * 5, b"503", b"250"]
        )
        subjects = [message_from_bytes(each)["Subject"] for each in self.server.mail("bob")]
        self.assertEqual(subjects, list("01234"))


class HeaderTests(SplitTestCase):
    """What becomes of a header (RFC 6409 section 8)."""

    def test_missing(self):
        """Date and Message-ID are added where they are missing, and only there."""
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
            parsed = message_from_bytes(self.posted(header + b"\nDate: no\nMessage-ID: no\n"))
            before = len(message_from_bytes(header).keys())
            self.assertEqual(parsed.keys()[before:], added, repr(header))

    def test_form(self):
        """What is added is of RFC 5322's form."""
        parsed = message_from_bytes(self.posted(b"From: ann\n\nx\n"))
        self.assertLess(abs(parsedate_to_datetime(parsed["Date"]).timestamp() - time.time()), 600)
        self.assertRegex(parsed["Message-ID"], r"\A<[\w.]+@[\w.-]+>\Z")

    def test_no_header(self):
        """What has no header, or no empty line behind it, keeps its body."""
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
            self.assertRegex(self.posted(message), pattern)

    def test_sender(self):
        """Sender names the poster where From does not, and nobody else ever."""
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
            parsed = message_from_bytes(self.posted(header + b"\nx\n"))
            self.assertEqual(parsed.get_all("Sender", [None]), [sender], repr(header))

    def test_bcc(self):
        """Bcc lines are taken out, folded ones whole, and not out of the body."""
        message = own().replace(b"To: ", b"Bcc: carol@example.org,\n ann\nbcc :x\nTo: ")
        body = b"Bcc: stays\n"
        self.assertEqual(self.posted(message + body, "bob", "carol@example.org"), own() + body)
        self.assertNotIn(b"carol", self.server.mail("carol@example.org")[0])
        self.assertEqual(self.posted(b"Return-Path: <x@y>\nResent-Bcc: x\n" + own()), own())

    def test_large(self):
        """A header that is too large is refused, however it is folded."""
        for line in (b"X: y\n", b" y\n"):
            reply = self.server.post(b"Subject: x\n" + line * 100_000, "bob")
            self.assert_start(reply, b"552 ")
        self.assertEqual(self.server.mail("bob"), [])


@lru_cache
def example():
    """Return what the example defines, in this process."""
    with patch.dict(os.environ, environment(temporary_directory())):
        return runpy.run_path(str(TAC))


class CompletionTests(SynchronousTestCase):
    """The function that completes messages, held against the plainest way to say it."""

    NAMES = ("From", "date", "DATE", "Message-ID", "message-id", "Bcc", "Sender", "To", "X-Y")
    FIELDS = st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from([": ", ":", " : ", ":\n ", ":\n\t"]),
        st.sampled_from(["ann@localhost", "bob@localhost", "a b", "Date: x", "x\n Bcc: y", "\xe9"]),
    )
    BODIES = st.binary(max_size=40).map(lambda body: body.replace(b"\r", b""))

    def complete(self, message):
        """Return a message as the example completes it, what it makes up replaced by X."""
        complete = example()["complete"]
        with complete(BytesIO(message), b"ann@localhost", b"Received: x\n") as mail:
            mail.seek(0)
            done = re.sub(rb"(?m)^Date: \w{3}, \d.*:.*$", b"Date: X", mail.read())
        return re.sub(rb"(?m)^Message-ID: <\d.*@.*>$", b"Message-ID: X", done)

    @given(st.lists(FIELDS, max_size=8), BODIES, st.booleans())
    def test_complete(self, fields, body, has_blank):
        """All is there, in its order, but for what must go; what lacks is behind the header."""
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
    """A client that says nothing, or does not let go."""

    def test_idle(self):
        """After five minutes without a line it is told so; after half a minute more, cut off."""
        # What it is told then is not there for it to read in time.
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
        self.assertIn(b"421 nothing came for too long\r\n", transport.value())
        self.assertTrue(transport.disconnecting)
        server.dataReceived(b"P\r\n")
        clock.advance(30)
        self.assertTrue(transport.disconnected)
        server.connectionLost()
        self.assertEqual((clock.getDelayedCalls(), factory.connections), ([], 0))


class RefusalTests(SplitTestCase):
    """What is refused, and that the session outlives it."""

    def assert_dialogue(self, talk, *lines):
        """Send lines; compare the start of each reply."""
        for line, start in lines:
            reply = talk.ask(line)
            self.assertTrue(reply.startswith(start), f"{line!r}: {reply!r}")

    def assert_quiet(self):
        """Fail if the server has met with what it did not expect."""
        self.assertNotIn("Traceback", self.server.log)

    def test_no_login(self):
        """Who has not logged in may not post (RFC 4954 section 6)."""
        with closing(self.server.talk()) as talk:
            self.assertIn(b"AUTH PLAIN LOGIN", talk.ask(b"EHLO here"))
            self.assert_dialogue(
                talk,
                (b"MAIL FROM:<ann@localhost>", b"530 log in first"),
                (b"RCPT TO:<bob@localhost>", b"503 "),
                (b"DATA", b"503 "),
                (login("ann"), b"235 "),
                (b"MAIL FROM:<ann@localhost>", b"250 "),
            )

    def test_senders(self):
        """A user posts under the own address alone, and never as nobody."""
        host = socket.gethostname().upper()
        for name, right, wrong in (
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
            with closing(self.server.talk(name=name)) as talk:
                for sender in right:
                    line = f"mail from:<{sender}>".encode()
                    self.assert_dialogue(talk, (line, b"250 "), (b"RSET", b"250 "))
                for sender in wrong:
                    self.assert_dialogue(talk, (f"MAIL FROM:<{sender}>".encode(), b"5"))

    def test_shut_out(self):
        """Who cannot log in for now has mail still, and so has the domain no others."""
        server = SplitServer()
        self.addCleanup(server.stop)
        with open(default_path(str(server.root)), "ab") as users:
            users.write(b"dave@nol.example:{PLAIN}secret::::::nologin\n")
        with closing(server.talk(name="ann")) as talk:
            self.assert_start(talk.post(own(), "dave@nol.example."), b"250 ")
            self.assert_dialogue(
                talk,
                (b"MAIL FROM:<ann>", b"250 "),
                (b"RCPT TO:<eve@nol.example>", b"550 no such user"),
            )
        self.assertEqual([parted(each)[1] for each in server.mail("dave@nol.example")], [own()])

    def test_no_place(self):
        """Who can have no Maildir in this layout is nobody here."""
        root = temporary_directory(self)
        for user in (b"ann@example.org", b"bob"):
            set_secret(default_path(str(root)), user, b"{PLAIN}secret", new=True)
        server = SplitServer(root=root, MAILDIR=root / "%d" / "%n")
        self.addCleanup(server.stop)
        with closing(server.talk(name="ann@example.org")) as talk:
            self.assert_dialogue(
                talk,
                (b"MAIL FROM:<ann@example.org>", b"250 "),
                (b"RCPT TO:<bob>", b"550 no such user"),
                (b"RCPT TO:<ann@example.org>", b"250 "),
            )
        self.assertNotIn("Traceback", server.log)

    def test_recipients(self):
        """Whom nobody knows here, and other hosts, are refused at RCPT."""
        with closing(self.server.talk(name="ann")) as talk:
            self.assert_dialogue(
                talk,
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
        """A user who was added a moment ago gets mail; one who was removed none."""
        path = default_path(str(self.server.root))
        self.assertEqual(self.server.post(own(), "dave")[:3], b"550")
        set_secret(path, b"dave", b"{PLAIN}secret", new=True)
        self.assertEqual(self.server.post(own(), "dave")[:3], b"250")
        remove_user(path, b"dave")
        self.assertEqual(self.server.post(own(), "dave")[:3], b"550")

    def test_many_recipients(self):
        """A hundred recipients are taken, and no more (RFC 5321 section 4.5.3.1.8)."""
        with closing(self.server.talk(name="ann")) as talk:
            talk.ask(b"MAIL FROM:<ann>")
            replies = [talk.ask(b"RCPT TO:<bob>")[:3] for _ in range(101)]
        self.assertEqual(replies, [*[b"250"] * 100, b"452"])

    def test_size(self):
        """A message that is too large is refused when that is said, and when it comes."""
        with closing(self.server.talk(name="ann")) as talk:
            self.assertIn(b"SIZE %d" % SIZE, talk.ask(b"EHLO here"))
            self.assert_dialogue(
                talk,
                (b"MAIL FROM:<ann> SIZE=%d" % (SIZE + 1), b"552 "),
                (b"MAIL FROM:<ann> SIZE=%d" % 10**19, b"552 "),
                (b"MAIL FROM:<ann> SIZE=%d BODY=8BITMIME AUTH=<>" % SIZE, b"250 "),
                (b"RSET", b"250 "),
            )
            head, line = b"Subject: x\n\n", b"x" * 1022 + b"\n"
            whole = (SIZE - 14) // 1024
            last = b"y" * (SIZE - 14 - 1024 * whole - 2)
            for end, reply in ((last + b"\n", b"250 "), (last + b"z\n", b"552 ")):
                self.assert_start(talk.post(head + line * whole + end, "bob"), reply)
            self.assert_start(talk.post(own(), "bob"), b"250 ")
        self.assertEqual(len(self.server.mail("bob")), 2)

    def test_line_ends(self):
        """A CR or LF that stands alone is refused, and ends nothing (RFC 5321 section 2.3.8)."""
        for text in (
            b"a\n.\nb\r\n",
            b"a\n.\r\nb\r\n",
            b"a\r.\r\nb\r\n",
            b"a\r\n.\nb\r\n",
            b"a\r\r\n",
        ):
            with closing(self.server.talk(name="ann")) as talk:
                talk.envelope("bob", sender="ann")
                self.assert_dialogue(talk, (b"\r\n" + text + b".", b"554 "), (b"NOOP", b"250 "))
        self.assertEqual(self.server.mail("bob"), [])

    def test_long_lines(self):
        """A line too long ends the connection; nothing of it is taken for a command."""
        for begin in ([], [b"MAIL FROM:<ann>", b"RCPT TO:<bob>", b"DATA"]):
            talk = self.server.talk(name="ann")
            for line in begin:
                talk.ask(line)
            self.assert_start(talk.ask(b"x" * 17_000 + b"\r\nNOOP"), b"500 ")
            self.assertEqual(talk.rest(), b"")
            talk.abandon()
        self.assertEqual(self.server.mail("bob"), [])

    def test_dialogue(self):
        """AUTH answers whatever comes, by codes of RFC 4954, and shows no exceptions."""
        with closing(self.server.talk()) as talk:
            self.assert_dialogue(
                talk,
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
        self.assert_quiet()

    def test_nonsense(self):
        """Any line is answered, and the session goes on."""
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
        with closing(self.server.talk(name="ann")) as talk:
            for line in lines:
                self.assertRegex(talk.ask(line), rb"\A[245]\d\d", repr(line))
            self.assert_start(talk.post(own(), "bob"), b"250 ")
        self.assert_quiet()

    def test_random(self):
        """Random octets do no harm, before and after the login."""
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
            talk = self.server.talk(name="ann" if number % 2 else None)
            pieces = [
                *chance.choices(words, k=40),
                chance.randbytes(50),
                *chance.choices(words, k=40),
            ]
            talk.socket.sendall(b"".join(pieces))
            talk.socket.shutdown(socket.SHUT_WR)
            talk.rest()
            talk.abandon()
        self.assert_start(self.server.post(own(), "bob"), b"250 ")
        self.assert_quiet()

    def test_many_commands(self):
        """Replies that nobody reads do not pile up: a session has so many commands a message."""
        talk = self.server.talk()
        talk.socket.sendall(b"EHLO x\r\n" * 3000)
        replies = talk.rest().split(b"\r\n")
        talk.abandon()
        self.assert_start(replies[-2], b"421 ")
        self.assertEqual(sum(reply.startswith(b"250 ") for reply in replies), 500)

    def test_client_gone(self):
        """A client that goes in the middle of a message has posted nothing."""
        for end in (b"", b"."):
            talk = self.server.talk(name="ann")
            talk.envelope("bob", sender="ann")
            talk.socket.sendall(b"Subject: cut\r\n" + end)
            talk.abandon()
        self.assert_start(self.server.post(own(), "bob"), b"250 ")
        self.assertEqual([parted(each)[1] for each in self.server.mail("bob")], [own()])


class LoginTests(SplitTestCase):
    """Who may log in where, and what becomes of guesses."""

    def test_guesses(self):
        """All that fail are answered alike and late, and the third ends the connection."""
        talk = self.server.talk()
        begun = time.monotonic()
        wrong = (
            login("ann", "wrong"),
            login("nobody"),
            b"AUTH PLAIN " + b64encode(b"bob\0ann\0secret"),
        )
        replies = {talk.ask(each) for each in wrong}
        self.assertGreaterEqual(time.monotonic() - begun, 6)
        self.assertEqual(replies, {b"535 authentication failed"})
        self.assertEqual(talk.rest(), b"")
        talk.abandon()
        self.assertRegex(
            self.server.log, r"127\.0\.0\.1:\d+: b'nobody' did not log in: no such user"
        )
        self.assertNotIn("wrong'", self.server.log)

    def test_many_at_once(self):
        """Logins that come together are answered one by one, however many wait."""
        with closing(self.server.talk()) as talk:
            talk.socket.sendall(login("nobody") + b"\r\n" + b"AUTH PLAIN YQ==\r\n" * 400)
            talk.socket.sendall(login("ann") + b"\r\nNOOP\r\n")
            replies = [talk.reply()[:3] for _ in range(403)]
        self.assertEqual(replies, [b"535", *[b"501"] * 400, b"235", b"250"])

    def elsewhere(self, kind):
        """Return an example on another address than loopback, and how to connect to it."""
        address = outside()
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

    def test_in_the_clear(self):
        """From other hosts passwords are not taken in the clear, and AUTH is not announced."""
        server, there = self.elsewhere("tcp")
        with closing(server.talk(**there)) as talk:
            self.assertNotIn(b"AUTH", talk.ask(b"EHLO x"))
            for line in (b"AUTH PLAIN", login("ann")):
                self.assert_start(talk.ask(line), b"538 ")
            self.assertIn(b"TLS", talk.ask(b"MAIL FROM:<ann>"))

    def test_tls(self):
        """Over TLS they are, from anywhere; and guesses at one door make the other one slow."""
        server, there = self.elsewhere("ssl")
        with closing(server.talk(**there)) as talk:
            self.assertIn(b"AUTH", talk.ask(b"EHLO x"))
            self.assert_start(talk.ask(login("ann", "wrong")), b"535 ")
            self.assert_start(talk.ask(login("ann")), b"235 ")
            self.assert_start(talk.post(own(), "bob"), b"250 ")
        self.assertIn(b"with ESMTPSA;", server.mail("bob")[0])
        begun = time.monotonic()
        with closing(server.connect()) as pop:
            pop.ask(b"USER ann")
            self.assert_start(pop.ask(b"PASS wronger"), b"-ERR [AUTH]")
        self.assertGreaterEqual(time.monotonic() - begun, 4)

    def test_unix_socket(self):
        """On a UNIX socket nobody reads along, and the example does not stumble over it."""
        root = temporary_directory(self)
        server = SplitServer(SMTP_LISTEN=f"unix:{root}/socket", ports=1)
        self.addCleanup(server.stop)
        with closing(server.talk(name="ann", address=f"{root}/socket")) as talk:
            for hello in (b"HELO x", b"EHLO x"):
                self.assert_start(talk.ask(hello), b"250")
            self.assert_start(talk.post(own(), "bob"), b"250 ")
        self.assertIn(b"from x ([127.0.0.1])", server.mail("bob")[0])


class DeliveryTests(SplitTestCase):
    """What goes wrong with Maildirs and disks: nothing is lost, nothing is there by half."""

    def in_tmp(self):
        """Return what was left in any tmp/."""
        return [*self.server.root.glob("*/tmp/*")]

    def test_unwritable(self):
        """If one Maildir cannot be written, nobody gets the message, and the client tries later."""
        (self.server.root / "carol@example.org").mkdir()
        (self.server.root / "carol@example.org" / "new").write_bytes(b"")
        reply = self.server.post(own(), "ann", "bob", "carol@example.org")
        self.assertEqual(reply, b"451 the message was not delivered, try again later")
        self.assertIn("Not a directory", self.server.log)
        self.assertEqual(self.server.mail("ann") + self.server.mail("bob") + self.in_tmp(), [])
        self.assert_start(self.server.post(own(), "ann", "bob"), b"250 ")

    def test_link(self):
        """A Maildir, or a folder of it, that is another's link is not followed."""
        other = temporary_directory(self)
        maildir = self.server.root / "bob"
        maildir.mkdir()
        (maildir / "tmp").mkdir()
        (maildir / "new").symlink_to(other)
        self.assert_start(self.server.post(own(), "bob"), b"451 ")
        self.assertEqual(os.listdir(other), [])

    def test_no_users_file(self):
        """A users file in disorder is a passing failure, of which the client learns nothing."""
        path = Path(default_path(str(self.server.root)))
        with closing(self.server.talk(name="ann")) as talk:
            talk.ask(b"MAIL FROM:<ann>")
            path.chmod(0o644)
            try:
                self.assertRegex(talk.ask(b"RCPT TO:<bob>"), rb"\A451 [\w, ]+\Z")
            finally:
                path.chmod(0o600)
            self.assert_start(talk.ask(b"RCPT TO:<bob>"), b"250 ")
        self.assertIn("nobody is known: ", self.server.log)

    def strace(self, inject):
        """Start an example that meets with a fault in a system call, once in each thread."""
        need(self, "strace")
        call = inject.partition(":")[0]
        options = ("-D", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject)
        server = SplitServer(prefix=("strace", *options[:-1], f"inject={inject}"))
        self.addCleanup(server.stop)
        return server

    def test_something_left(self):
        """What cannot be taken out of tmp/ is told to the log alone."""
        server = self.strace("unlinkat:error=EIO:when=1")
        with closing(server.talk(name="ann")) as talk:
            self.assertEqual(talk.post(own(), "bob"), b"250 all recipients have it")
            self.assertEqual(talk.ask(b"NOOP"), b"250 done")
        self.assertIn("something is left in tmp", server.log)

    def test_disk_fails(self):
        """What the disk refuses is answered 4xx; what had a 250 is there, and whole."""
        for inject in ("fsync:error=ENOSPC", "renameat:error=EIO", "mkdirat:error=EACCES"):
            server = self.strace(f"{inject}:when=1")
            with closing(server.talk(name="ann")) as talk:
                replies = [talk.post(own(), "ann", "bob") for _ in range(8)]
            self.assertEqual({reply[:3] for reply in (replies[0], replies[-1])}, {b"451", b"250"})
            self.assertEqual({reply for reply in replies if reply.startswith(b"451")}, {replies[0]})
            taken = sum(reply.startswith(b"250") for reply in replies)
            for name in ("ann", "bob"):
                mail = [parted(each)[1] for each in server.mail(name)]
                self.assertGreaterEqual(len(mail), taken)
                self.assertEqual({*mail}, {own()})
            self.assertEqual([*server.root.glob("*/tmp/*")], [])
            server.stop()

    def test_no_room(self):
        """A message that no file can hold is answered once, at its end; the next one is taken."""
        server = SplitServer(prefix=("prlimit", "--fsize=1000000"))
        self.addCleanup(server.stop)
        with closing(server.talk(name="ann")) as talk:
            for body, reply in ((b"x\n" * 2_000_000, b"452 "), (b"x\n", b"250 ")):
                self.assert_start(talk.post(own() + body, "bob"), reply)
            self.assert_start(talk.ask(b"NOOP"), b"250 done")
        self.assertEqual([parted(each)[1] for each in server.mail("bob")], [own() + b"x\n"])
        self.assertIn("File too large", server.log)

    def test_killed(self):
        """Whenever the server is killed: what is in new/ is whole, and what had a 250 is there."""
        kills = 0
        for call in ("fsync", "renameat", "mkdirat"):
            for when in (1, 2, 3, 5):
                server = self.strace(f"{call}:signal=KILL:when={when}")
                taken = 0
                with contextlib.suppress(OSError, AssertionError):
                    talk = server.talk(name="ann")
                    self.addCleanup(talk.abandon)
                    while taken < 8 and talk.post(own(), "ann", "bob").startswith(b"250 "):
                        taken += 1
                killed = taken < 8
                if killed:
                    kills += 1
                    self.assertEqual(server.process.wait(PATIENCE), -signal.SIGKILL)
                server.stop()
                for name in ("ann", "bob"):
                    mail = [parted(each)[1] for each in server.mail(name)]
                    self.assertIn(len(mail), (taken, taken + 1))
                    self.assertLessEqual({*mail}, {own()})
        self.assertGreater(kills, 6)

    def test_killed_while_writing(self):
        """Killed in the midst of a large message, it leaves a piece in tmp/, and none in new/."""
        server = SplitServer()
        talk = server.talk(name="ann")
        talk.envelope("bob", sender="ann")
        talk.socket.sendall(b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * 400_000 + b".\r\n")
        until(lambda: [*server.root.glob("bob/tmp/*")], "a file in tmp/")
        server.stop(signal.SIGKILL)
        talk.abandon()
        self.assertLessEqual({len(each) > 32_000_000 for each in server.mail("bob")}, {True})
        server = SplitServer(root=server.root)
        self.addCleanup(server.stop)
        before = len(server.mail("bob"))
        self.assert_start(server.post(own(), "bob"), b"250 ")
        self.assertEqual(len(server.read("bob")), before + 1)


class SmartHost:
    """Another server's SMTP: aiosmtpd, which notes what it takes; ``refuses`` maps to replies."""

    def __init__(self, test, **options):
        self.taken = []
        self.refuses = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        controller = Controller(self, "127.0.0.1", port, **options)
        controller.start()
        test.addCleanup(controller.stop)
        self.address = f"127.0.0.1:{port}"

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        """Say what is offered."""
        session.host_name = hostname
        refused = self.refuses.get("EHLO")
        return [refused] if refused else responses

    async def handle_RCPT(self, server, session, envelope, address, options):
        """Take a recipient."""
        if address not in self.refuses:
            envelope.rcpt_tos.append(address)
        return self.refuses.get(address, "250 fine")

    async def handle_DATA(self, server, session, envelope):
        """Take a message."""
        if "DATA" not in self.refuses:
            self.taken.append(envelope)
        return self.refuses.get("DATA", "250 fine")


class SmartHostTests(SplitTestCase):
    """What is for other hosts."""

    def setUp(self):
        """Start a smart host and an example that uses it."""
        self.smart = SmartHost(self)
        self.split = SplitServer(SMART_HOST=self.smart.address)
        self.addCleanup(self.split.stop)

    def post(self, message=None, *recipients):
        """Post to bob and to others."""
        return self.split.post(message or own(), "bob@localhost", *recipients)

    def assert_nothing(self, reply, start):
        """Fail unless nobody got anything, and the client knows it."""
        self.assert_start(reply, start)
        self.assertEqual(self.smart.taken + self.split.mail("bob"), [])
        self.assertEqual([*self.split.root.glob("*/tmp/*")], [])

    def test_passed_on(self):
        """What is for others arrives there, octet for octet, and is not delivered again here."""
        bcc = own().replace(b"To: ", b"Bcc: dave@example.com\nTo: ") + b"\xff\xfe 8-bit\n.\n..\n"
        to = ("dave@example.com", "eve@Example.NET", "carol@example.org")
        self.assert_start(self.post(bcc, *to), b"250 ")
        (envelope,) = self.smart.taken
        self.assertRegex(envelope.mail_from, r"\Aann@(?!localhost\Z)[\w.-]+\Z")
        self.assertEqual(envelope.rcpt_tos, ["dave@example.com", "eve@Example.NET"])
        self.assertEqual(envelope.mail_options, ["BODY=8BITMIME"])
        received = re.match(rb"Received: .*\r\n(?:[ \t].*\r\n)*", envelope.content)[0]
        there = envelope.content.removeprefix(received).replace(b"\r\n", b"\n")
        expected = own() + b"\xff\xfe 8-bit\n.\n..\n"
        self.assertEqual(there, expected)
        for name in ("bob", "carol@example.org"):
            self.assertEqual([parted(each)[1] for each in self.split.mail(name)], [expected])

    def test_dots(self):
        """Dots at the start of lines arrive wherever the message is cut into pieces."""
        for octets in (2, 3):
            line = b"." * (octets - 1) + b"\n"
            self.assert_start(self.post(own() + line * 60_000, "dave@example.com"), b"250 ")
            body = self.smart.taken[-1].content.replace(b"\r\n", b"\n").partition(b"Bob.\n")[2]
            self.assertTrue(body == line * 60_000)

    def test_here(self):
        """An unknown user of this host, or of a domain that users have, goes to nobody else."""
        for recipient in ("nobody@localhost", "nobody@example.org"):
            self.assert_nothing(self.post(None, recipient), b"550 ")

    def test_refused(self):
        """If one recipient, or the message, is refused there, nobody gets it, here neither."""
        for where, reply, code in (
            (
                "eve@example.com",
                "550 5.1.1 no eve here",
                b"554 the smart host says: 550 5.1.1 no eve",
            ),
            ("eve@example.com", "450 eve sleeps", b"451 the smart host says: 450 eve sleeps"),
            ("DATA", "554 spam", b"554 the smart host says: 554 spam"),
            ("DATA", "451 later", b"451 the smart host says: 451 later"),
            ("EHLO", "554 go away", b"554 the smart host says: 554 go away"),
        ):
            self.smart.refuses = {where: reply}
            self.assert_nothing(self.post(None, "dave@example.com", "eve@example.com"), code)
        self.smart.refuses = {}
        self.assert_start(self.post(None, "eve@example.com"), b"250 ")

    def talk_to(self, hasty, *replies, size=0):
        """Post to another host; return what that is told whose smart host says these at once."""
        server = SplitServer(SMART_HOST=f"127.0.0.1:{hasty.getsockname()[1]}")
        self.addCleanup(server.stop)
        with closing(server.talk(name="ann")) as talk:
            talk.envelope("dave@example.com", "bob", sender="ann")
            talk.socket.sendall((b"x" * 78 + b"\r\n") * size + b".\r\n")
            peer, _ = hasty.accept()
            with peer, peer.makefile("rb") as lines:
                for reply in replies[:-1]:
                    peer.sendall(reply + b"\r\n")
                    lines.readline()
                peer.sendall(replies[-1] + b"\r\n")
                told = talk.reply()
        self.assertNotIn("Traceback", server.log)
        self.assertEqual(server.mail("bob"), [])
        return told

    def test_taken_before_sent(self):
        """A smart host that says that it has what it cannot have, has nothing."""
        for size, last in ((0, b"250 huh"), (300_000, b"354 go on\r\n250 taken")):
            with socket.create_server(("127.0.0.1", 0)) as hasty:
                replies = (b"220 x", b"250 x", b"250 fine", b"250 fine", last)
                told = self.talk_to(hasty, *replies, size=size)
            self.assert_start(told, b"451 the smart host says: 451 the message was not sent")

    def test_parting(self):
        """A smart host that has the message is left, whatever it says to that."""
        with socket.create_server(("127.0.0.1", 0)) as rude:
            server = SplitServer(SMART_HOST=f"127.0.0.1:{rude.getsockname()[1]}")
            self.addCleanup(server.stop)
            with closing(server.talk(name="ann")) as talk:
                talk.envelope("dave@example.com", sender="ann")
                talk.socket.sendall(b".\r\n")
                peer, _ = rude.accept()
                with peer, peer.makefile("rb") as lines:
                    for reply in (b"220 x", b"250 x", b"250 fine", b"250 fine", b"354 go on"):
                        peer.sendall(reply + b"\r\n")
                        line = lines.readline()
                    while line != b".\r\n":
                        line = lines.readline()
                    peer.sendall(b"250 taken\r\n")
                    self.assertEqual(talk.reply(), b"250 all recipients have it")
                    self.assertEqual(lines.readline(), b"QUIT\r\n")
                    peer.sendall(b"500 what\r\n")
                    self.assertEqual(lines.readline(), b"")

    def test_greeted_badly(self):
        """What a smart host says instead of a greeting is handed on."""
        for reply, code in ((b"554 go away", b"554"), (b"421 closed", b"451")):
            with socket.create_server(("127.0.0.1", 0)) as hasty:
                told = self.talk_to(hasty, reply)
            self.assertEqual(told, code + b" the smart host says: " + reply)

    def test_refused_early(self):
        """A smart host that does not want to hear the end of a message refuses it."""
        with socket.create_server(("127.0.0.1", 0)) as hasty:
            replies = (b"220 x", b"250 x", b"250 fine", b"250 fine", b"354 go on\r\n552 enough")
            told = self.talk_to(hasty, *replies, size=300_000)
        self.assertEqual(told, b"554 the smart host says: 552 enough")

    def test_silent(self):
        """A smart host that is away, or goes away, is a passing failure; the log says more."""
        with socket.create_server(("127.0.0.1", 0)) as bad:
            port = bad.getsockname()[1]
            for answers in (b"", b"nonsense\r\n", b"220 x\r\n"):
                server = SplitServer(SMART_HOST=f"tcp:127.0.0.1:{port}")
                self.addCleanup(server.stop)
                with closing(server.talk(name="ann")) as talk:
                    talk.envelope("bob", "dave@example.com", sender="ann")
                    talk.socket.sendall(b".\r\n")
                    peer, _ = bad.accept()
                    peer.sendall(answers)
                    peer.shutdown(socket.SHUT_WR)
                    reply = talk.reply()
                    peer.close()
                self.assertEqual(reply, b"451 the smart host does not answer, try again later")
                self.assertEqual(server.mail("bob"), [])
                self.assertIn("the smart host has taken nothing: ", server.log)
        with closing(server.talk(name="ann")) as talk:
            self.assert_start(talk.post(own(), "dave@example.com", "bob"), b"451 ")


class ProgramTests(SplitTestCase):
    """Programs of other makers post and read."""

    def program(self, name, *arguments, code=0, **options):
        """Run it, and return what it printed."""
        need(self, name)
        done = run(name, *arguments, **options)
        self.assertEqual(done.returncode, code, repr(done))
        return done.stdout + done.stderr

    def home(self, name, text):
        """Write a configuration into a directory of its own; return both paths."""
        home = temporary_directory(self)
        path = home / name
        path.write_text(text.format(home=home, smtp=self.server.smtp_port, pop=self.server.port))
        path.chmod(0o600)
        return home, path

    def assert_arrived(self):
        """Fail unless bob has the message, and nothing else."""
        self.assertEqual([parted(each)[1] for each in self.server.mail("bob")], [MAIL])

    def curl(self, *options, user="ann:secret", sender="ann@localhost", **how):
        """Post by curl."""
        _, path = self.home("message", "")
        path.write_bytes(MAIL)
        url = f"smtp://127.0.0.1:{self.server.smtp_port}"
        envelope = ("--mail-from", sender, "--mail-rcpt", "bob@localhost", "--user", user)
        arguments = ("--silent", "--show-error", "--crlf", *envelope, "--upload-file", path)
        return self.program("curl", *arguments, *options, url, **how)

    def test_curl(self):
        """Curl posts by PLAIN and by LOGIN."""
        self.curl()
        self.assert_arrived()
        self.server.empty()
        self.curl("--login-options", "AUTH=LOGIN")
        self.assert_arrived()

    def test_curl_refused(self):
        """Curl sees a refusal, with exit codes of its own."""
        login_denied, mail_refused = 67, 55
        self.curl(user="ann:wrong", code=login_denied)
        self.curl(sender="bob@localhost", code=mail_refused)
        self.assertEqual(self.server.mail("bob"), [])

    def test_swaks(self):
        """Swaks posts, by both mechanisms, pipelining."""
        for mechanism in ("PLAIN", "LOGIN"):
            server = ("--server", "127.0.0.1", "--port", self.server.smtp_port, "--pipeline")
            auth = ("--auth", mechanism, "--auth-user", "ann", "--auth-password", "secret")
            envelope = ("--from", "ann@localhost", "--to", "bob@localhost", "--data", "-")
            # It ends lines by CRLF, and the message with one line more.
            told = self.program("swaks", *server, *auth, *envelope, input=MAIL)
            self.assertIn(b"<-  250 all recipients have it", told)
        for message in self.server.mail("bob"):
            self.assertEqual(parted(message)[1].rstrip(b"\n"), MAIL.rstrip(b"\n"))
        self.assertEqual(len(self.server.mail("bob")), 2)

    def test_msmtp(self):
        """Msmtp posts what it is given."""
        _, rc = self.home(
            "rc",
            "account default\nhost 127.0.0.1\nport {smtp}\ntls off\nauth plain\n"
            "user ann\npassword secret\nfrom ann@localhost\n"
            "set_from_header off\nset_date_header off\n",
        )
        self.program("msmtp", "--file", rc, "bob@localhost", input=MAIL)
        self.assert_arrived()

    def test_smtplib(self):
        """Smtplib posts by each mechanism, and is told why not."""
        for method in ("auth_plain", "auth_login"):
            with smtplib.SMTP("127.0.0.1", self.server.smtp_port, timeout=PATIENCE) as client:
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
        self.assertEqual([parted(each)[1] for each in self.server.mail("bob")], [MAIL] * 2)

    def test_mpop(self):
        """Mpop reads what was posted, and leaves nothing."""
        self.posted(MAIL)
        home, rc = self.home(
            "rc",
            "account default\nhost 127.0.0.1\nport {pop}\ntls off\nauth user\nuser bob\n"
            "password secret\nkeep off\nuidls_file {home}/uidls\nreceived_header off\n"
            "delivery maildir {home}/got\n",
        )
        for folder in ("tmp", "new", "cur"):
            (home / "got" / folder).mkdir(parents=True)
        self.program("mpop", "--file", rc)
        self.assertEqual([parted(each)[1] for each in stored(home / "got")], [MAIL])
        self.assertEqual(self.server.mail("bob"), [])

    def test_fetchmail(self):
        """Fetchmail reads what was posted, and leaves nothing."""
        self.posted(MAIL)
        home, rc = self.home(
            "rc",
            "set invisible\nset idfile {home}/ids\npoll 127.0.0.1 service {pop} "
            "proto pop3 auth password user bob password secret is root here "
            'sslproto "" no rewrite fetchall nokeep mda "cat > {home}/got"\n',
        )
        environ = {**os.environ, "HOME": str(home)}
        self.program("fetchmail", "--fetchmailrc", rc, "--nodetach", env=environ)
        self.assertEqual(parted((home / "got").read_bytes())[1], MAIL)
        self.assertEqual(self.server.mail("bob"), [])


MAIL = own() + b".\n..\n.dot\n\nGr\xc3\xbc\xc3\x9fe\n"


class StartTests(TestCase):
    """What the settings may be, and that a wrong one ends the start in a sentence."""

    def failed(self, **settings):
        """Start the example in vain; return the last line that it printed."""
        environ = {**os.environ, **environment(temporary_directory(self)), **settings}
        command = ("twistd", "--pidfile=", "--nodaemon", "--python", TAC)
        done = run(*command, env=environ, cwd=temporary_directory(self))
        said = (done.stdout + done.stderr).decode()
        self.assertEqual(done.returncode, 1, said)
        self.assertNotIn("Traceback", said)
        return said.splitlines()[-1]

    def test_wrong(self):
        """The sentence names the variable, and what it was set to."""
        root = temporary_directory(self)
        (root / "public").touch(0o644)
        (root / "public").chmod(0o644)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            busy = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            for variable, wrong, why in (
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
                said = self.failed(**{f"POPSERV_{variable}": wrong})
                self.assertRegex(said, rf"POPSERV_{variable}\b.*{why}")

    def test_sample(self):
        """Without settings it serves the sample, as the other example makes it."""
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
        until((directory / "smtp").exists, "its sockets")
        with closing(Talk(f"{directory}/smtp")) as talk:
            talk.ask(login("joe"))
            self.assertEqual(talk.post(own("joe"), "joe", sender="joe")[:3], b"250")
        with closing(Connection(f"{directory}/pop")) as pop:
            pop.ask(b"USER joe")
            self.assertIn(b"13 messages", pop.ask(b"PASS secret"))

    def test_documentation(self):
        """The page explains every setting, and its commands post and read."""
        page = (CHECKOUT / "docs" / "split-user-agent.rst").read_text()
        explained = re.findall("^``(POPSERV_.*)``$", page, re.MULTILINE)
        self.assertEqual({*explained}, {*re.findall('"(POPSERV_[A-Z_]+)"', TAC.read_text())})
        commands = dict(blocks(CHECKOUT / "docs" / "split-user-agent.rst", "shell"))["post"]
        need(self, "curl", "swaks", "mpop")
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
