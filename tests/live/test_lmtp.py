"""LMTP as mail transfer agents use it: Postfix's client, swaks, and a killed server."""

import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from popserv.runtime.file_credentials import obstacle
from tests.live.harness import (
    BIN,
    CHECKOUT,
    TIMEOUT,
    Server,
    accepts,
    deliver,
    read_maildir,
    require_programs,
    run,
    temporary_directory,
    until,
)
from tests.live.postfix import Postfix


class LMTP:
    """A connection to an LMTP server on a UNIX socket."""

    def __init__(self, path, timeout=TIMEOUT):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.file = self.socket.makefile("rb")
        try:
            self.socket.connect(str(path))
            self.reply()
        except OSError:
            self.close()
            raise

    def reply(self):
        """Return the last line of the next reply."""
        while (line := self.file.readline())[3:4] == b"-":
            pass
        return line.decode().removesuffix("\r\n")

    def ask(self, *lines):
        """Send lines as one packet, and return as many replies."""
        self.socket.sendall(b"".join(line + b"\r\n" for line in lines))
        return [self.reply() for _ in lines]

    def begin(self, *recipients):
        """Begin a message."""
        self.ask(b"LHLO x", b"MAIL FROM:<s@example.org>")
        self.ask(*(b"RCPT TO:<%b@example.org>" % each for each in recipients), b"DATA")

    def close(self):
        """Close the connection."""
        self.file.close()
        self.socket.close()


class LMTPCase(SynchronousTestCase):
    """A server whose users are ann and bob."""

    workers = ()

    def setUp(self):
        """Start the server; its socket is where the guide has it, in another root."""
        self.root = temporary_directory(self)
        self.path = self.root / "lmtp"
        self.mail = self.root / "mail"
        self.mail.mkdir()
        self.server = self.start()
        self.addCleanup(lambda: self.server.stop())

    def tearDown(self):
        """Check that the server has loaded everything at its start, as it must with --chroot."""
        self.assertEqual(self.server.loads, "")

    def start(self, *options):
        """Start a server."""
        store = ("--maildir", self.mail)
        server = Server(
            *(f"--lmtp=unix:{self.path}:mode=666", "--recipient-local-part", *self.workers),
            *("--auth=memory:ann:secret:bob:secret", *options),
            store=store,
        )
        until(lambda: accepts(str(self.path)), "the socket")
        return server

    def connect(self):
        """Return a connection."""
        connection = LMTP(self.path)
        self.addCleanup(connection.close)
        return connection

    def messages(self, user):
        """Return the messages of a user."""
        return read_maildir(self.mail / user)


class PostfixTests(LMTPCase):
    """Postfix delivers by its LMTP client."""

    def setUp(self):
        """Start Postfix with the lines of the guide."""
        super().setUp()
        lines = (CHECKOUT / "contrib/postfix/lmtp.cf").read_text()
        self.assertIn("lmtp:unix:private/popserv", lines)
        lines = lines.replace("private/popserv", str(self.path))
        self.postfix = Postfix(self, self.root, f"mydestination =\n{lines}")

    def send(self, message, *recipients):
        """Have Postfix send a message from ann."""
        addresses = [f"{each}@example.org" for each in recipients]
        self.postfix.send(message, "ann@example.org", *addresses)

    def test_recipients(self):
        """Of three recipients, two get the message, and the sender learns of the third."""
        body = b"Subject: x\n\n.\n..dots\nFrom here\n" + b"y" * 900 + b"\n" + "é\n".encode()
        self.send(body, "ann", "bob", "eve")
        until(lambda: len(self.messages("ann")) == 2 and self.messages("bob"), "the messages")
        (of_bob,) = self.messages("bob")
        self.assertEqual(of_bob.partition(b"\n")[0], b"Return-Path: <ann@example.org>")
        self.assertIn(b"Subject: x\n", of_bob)
        self.assertEqual(of_bob.partition(b"\n\n")[2], body.partition(b"\n\n")[2])
        (bounce,) = [each for each in self.messages("ann") if each.startswith(b"Return-Path: <>\n")]
        self.assertIn(b"550 5.1.1 no such user here", bounce)
        log = until(lambda: self.finished(b"removed", 2), "Postfix's log")
        self.assertEqual(len(re.findall(rb"dsn=2\.0\.0, status=sent", log)), 3)
        self.assertIn('message from "ann@example.org" delivered to "bob"', self.server.log)

    def finished(self, text, count):
        """Return Postfix's log once it has a text so often."""
        log = self.postfix.log
        return log if log.count(text) >= count else b""

    def test_refused_for_now(self):
        """A message that cannot be stored stays in the queue, and is delivered later."""
        (self.mail / "bob").write_bytes(b"not a Maildir")
        self.send(b"Subject: x\n\n", "bob")
        log = until(lambda: self.finished(b"status=deferred", 1), "Postfix's log")
        self.assertIn(b"451 4.3.0 temporary failure, try again later", log)
        self.assertNotIn(b"not a directory", log)
        (self.mail / "bob").unlink()
        self.postfix.flush()
        until(lambda: (self.mail / "bob/new").exists() and self.messages("bob"), "the message")


def as_mail():
    """Return the command that starts Python with popserv as any user.

    Those who are not root may not be able to enter the directory of the one that runs the tests.
    """
    path = os.pathsep.join([str(CHECKOUT), *sys.path[1:]])
    for python in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        command = ("/usr/bin/env", f"PYTHONPATH={path}", python)
        limits = ("--reuid=mail", "--regid=mail", "--clear-groups", "--inh-caps=-all")
        if not run("setpriv", *limits, *command, "-c", "import popserv").returncode:
            return command
    raise SkipTest(f"the user mail cannot run {sys.executable}")


class PipeTests(SynchronousTestCase):
    """Postfix delivers by its pipe to ``popserv deliver``."""

    def setUp(self):
        """Start Postfix with the lines of the guide; its pipes do not run as root."""
        self.root = temporary_directory(self)
        self.mail = self.root / "mail"
        for user in ("ann", "bob"):
            deliver(self.mail / user, [])
        for path in (self.mail, *self.mail.rglob("*")):
            shutil.chown(path, "mail", "mail")
        program = " ".join([*as_mail(), str(BIN / "popserv")])
        lines = (CHECKOUT / "contrib/postfix/pipe.cf").read_text()
        for shown, real in (("/usr/bin/popserv", program), ("/srv/mail", str(self.mail))):
            self.assertIn(f" {shown} ", f" {lines} ".replace("=", " "))
            lines = lines.replace(shown, real)
        main = (
            "mydestination =\nvirtual_mailbox_domains = example.org\n"
            "virtual_transport = popserv\npopserv_destination_recipient_limit = 1\n"
        )
        self.postfix = Postfix(self, self.root, main, lines)

    def messages(self, user):
        """Return the messages of a user."""
        return read_maildir(self.mail / user)

    def test_recipients(self):
        """Of three recipients, two get the message, and the sender learns of the third."""
        addresses = [f"{each}@example.org" for each in ("ann", "bob", "eve")]
        self.postfix.send(b"Subject: x\n\nFrom here\n", "ann@example.org", *addresses)
        until(lambda: len(self.messages("ann")) == 2 and self.messages("bob"), "the messages")
        (of_bob,) = self.messages("bob")
        self.assertEqual(of_bob.partition(b"\n")[0], b"Return-Path: <ann@example.org>")
        self.assertEqual(of_bob.partition(b"\n\n")[2], b"From here\n")
        (bounce,) = [each for each in self.messages("ann") if each.startswith(b"Return-Path: <>\n")]
        self.assertIn(b"5.1.1", bounce)
        self.assertIn(b"no such user here", bounce)

    def test_refused_for_now(self):
        """A message that cannot be stored stays in the queue, and is delivered later."""
        (self.mail / "bob/tmp").rmdir()
        (self.mail / "bob/tmp").write_bytes(b"no directory")
        self.postfix.send(b"Subject: x\n\n", "ann@example.org", "bob@example.org")
        until(lambda: b"status=deferred" in self.postfix.log, "Postfix's log")
        self.assertIn(b"temporary failure, try again later", self.postfix.log)
        (self.mail / "bob/tmp").unlink()
        self.postfix.flush()
        until(lambda: self.messages("bob"), "the message")


class ClientTests(LMTPCase):
    """Other clients."""

    def test_swaks(self):
        """Swaks delivers, as in the guide."""
        require_programs(self, "swaks")
        command = ("swaks", "--protocol", "LMTP", "--socket", self.path)
        done = run(*command, "--to", "ann@example.org,eve@example.org", "--from", "x@example.net")
        self.assertEqual(done.returncode, 0, repr(done))
        self.assertIn(b"550 5.1.1", done.stdout)
        (message,) = self.messages("ann")
        self.assertIn(b"This is a test mailing", message)
        connection = self.server.login("ann")
        connection.ask(b"RETR 1")
        self.assertEqual(b"".join(line + b"\n" for line in connection.lines()), message)
        connection.close()

    def test_pipelined(self):
        """Commands of two transactions may be in one packet with a message."""
        connection = self.connect()
        connection.ask(b"LHLO x")
        start = (b"MAIL FROM:<s@x>", b"RCPT TO:<ann@x>", b"RCPT TO:<bob@x>")
        self.assertEqual(
            [each[:3] for each in connection.ask(*start, b"DATA")], ["250", "250", "250", "354"]
        )
        connection.socket.sendall(b"one\r\n.\r\n")
        replies = [connection.reply(), connection.reply(), *connection.ask(*start, b"DATA")]
        self.assertEqual([each[:3] for each in replies], ["250"] * 5 + ["354"])
        connection.socket.sendall(b"two\r\n.\r\nQUIT\r\n")
        self.assertEqual([connection.reply()[:3] for _ in range(3)], ["250", "250", "221"])
        expected = [b"Return-Path: <s@x>\none\n", b"Return-Path: <s@x>\ntwo\n"]
        self.assertEqual(self.messages("bob"), expected)

    def test_half_closed(self):
        """A client that closes its sending half gets the replies to all that it has sent."""
        connection = self.connect()
        message = b"MAIL FROM:<s@x>\r\nRCPT TO:<ann@x>\r\nDATA\r\none\r\n.\r\n"
        connection.socket.sendall(b"LHLO x\r\n" + message * 20)
        connection.socket.shutdown(socket.SHUT_WR)
        replies = connection.file.read().splitlines()
        self.assertEqual(replies.count(b"250 2.0.0 message delivered"), 20)
        self.assertEqual(len(self.messages("ann")), 20)

    def test_killed(self):
        """A server that is killed leaves whole messages, and each that it has answered for."""
        text = b"Subject: x\r\n\r\n" + b"line\r\n" * 20_000
        stored = b"Return-Path: <s@example.org>\n" + text.replace(b"\r\n", b"\n")
        answered = 0
        for number in range(6):
            connection = self.connect()
            connection.begin(b"ann")
            connection.socket.sendall(text[: len(text) * number // 4])
            if number > 3:
                connection.socket.sendall(b".\r\n")
            if number == 5:
                self.assertEqual(connection.reply()[:3], "250")
                answered += 1
            self.server.stop(signal.SIGKILL)
            for folder in ("new", "cur"):
                for path in Path(self.mail, "ann").glob(f"{folder}/*"):
                    self.assertEqual(path.read_bytes(), stored)
            self.path.unlink()
            self.server = self.start()
        self.assertGreaterEqual(len(self.messages("ann")), answered)
        self.connect().begin(b"ann")

    def test_memory(self):
        """A large message is at no time in memory."""
        connection = self.connect()
        before = self.server.reset_peak()
        connection.begin(b"ann", b"bob")
        for _ in range(60):
            connection.socket.sendall(b"y" * (1 << 20) + b"\r\n")
        connection.socket.sendall(b".\r\n")
        self.assertEqual([connection.reply()[:3] for _ in range(2)], ["250", "250"])
        self.assertLess(self.server.peak - before, 8 << 20)
        self.assertEqual(len(self.messages("bob")[0]), 60 * ((1 << 20) + 1) + 29)

    def test_owners(self):
        """Mail belongs to the owner of the Maildir."""
        if os.geteuid() or obstacle():
            self.skipTest("only root can become other users")
        deliver(self.mail / "ann", [b"x\n"])
        for path in (self.mail / "ann", *(self.mail / "ann").rglob("*")):
            shutil.chown(path, "daemon", "daemon")
        connection = self.connect()
        connection.begin(b"ann")
        self.assertEqual(connection.ask(b"text\r\n."), ["250 2.0.0 message delivered"])
        self.assertEqual(len(self.messages("ann")), 2)
        for path in (self.mail / "ann/new").iterdir():
            self.assertEqual((path.owner(), path.group()), ("daemon", "daemon"))


class BesideSessionTests(SynchronousTestCase):
    """Deliveries while the recipient is logged in."""

    def test_stores(self):
        """A session, idle or with messages to remove, keeps no mail from being delivered."""
        for kind in ("maildir", "mbox", "mh"):
            root = temporary_directory(self)
            (root / "mail").mkdir()
            server = Server(
                *(f"--lmtp=unix:{root}/lmtp", "--recipient-local-part", "--auth=memory:ann:secret"),
                store=("--store", f"{kind}:{root}/mail"),
            )
            self.addCleanup(server.stop)
            lmtp = LMTP(root / "lmtp")
            self.addCleanup(lmtp.close)
            for number in range(3):
                session = server.login("ann")
                self.addCleanup(session.abandon)
                self.assertEqual(session.ask(b"STAT")[:6], b"+OK %d " % min(number, 1), kind)
                lmtp.begin(b"ann")
                answer = lmtp.ask(b"Subject: %d\r\n\r\ntext\r\n." % number)
                self.assertEqual(answer, ["250 2.0.0 message delivered"], kind)
                if number:
                    self.assertEqual(session.ask(b"DELE 1")[:3], b"+OK")
                self.assertEqual(session.close()[:3], b"+OK", kind)


class WorkerTests(LMTPCase):
    """With --workers, all workers take mail."""

    workers = ("--workers=2",)

    def test_workers(self):
        """Each of many connections delivers."""
        for _ in range(10):
            connection = self.connect()
            connection.begin(b"ann")
            self.assertEqual(connection.ask(b"text\r\n."), ["250 2.0.0 message delivered"])
        self.assertEqual(len(self.messages("ann")), 10)
        until(lambda: self.server.log.count("delivered to") == 10, "lines of the workers")


class DrainTests(LMTPCase):
    """A server that is stopped with --drain."""

    def start(self, *options):
        """Start a server whose sessions have a minute to end."""
        return super().start("--drain", "60", *options)

    def test_message(self):
        """A message on its way is delivered once, and the server ends then."""
        busy, idle = self.connect(), self.connect()
        busy.begin(b"ann")
        self.server.process.terminate()
        self.assertEqual(idle.reply(), "421 4.3.2 the server is stopping, try again later")
        idle.close()
        self.assertEqual(busy.ask(b"x\r\n."), ["250 2.0.0 message delivered"])
        self.assertEqual(busy.reply(), "421 4.3.2 the server is stopping, try again later")
        busy.close()
        self.server.process.wait(TIMEOUT)
        self.assertEqual(len(self.messages("ann")), 1)


class WorkerDrainTests(DrainTests):
    """The same with workers."""

    workers = ("--workers=2",)
