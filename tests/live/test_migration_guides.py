"""The guides about moving from other servers, with the servers and the commands that they show."""

import os
import poplib
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from tests.live.cyrus import Cyrus
from tests.live.dovecot_pop3 import DovecotPOP3
from tests.live.guide import Guide
from tests.live.harness import (
    BIN,
    SAMPLES,
    Server,
    deliver,
    read_maildir,
    temporary_directory,
    until,
    wire_form,
)
from tests.live.login_front import LoginFront
from tests.live.test_courier import CourierSession, courier_command

MESSAGES = [each for each in SAMPLES if each.endswith(b"\n")][:3]


def maildrop(port, name):
    """Log in; return the octets of each message by unique-id."""
    client = poplib.POP3("127.0.0.1", port, timeout=60)
    client.user(name)
    client.pass_("secret")
    found = {}
    for line in client.uidl()[1]:
        number, _, unique_id = line.partition(b" ")
        lines = client.retr(int(number))[1]
        found[unique_id] = b"".join(each + b"\r\n" for each in lines)
    client.quit()
    return found


def crypted():
    """Return the password ``secret`` in a form of crypt(3)."""
    command = ["openssl", "passwd", "-6", "secret"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


class GuideCase(SynchronousTestCase):
    """A directory that stands for the root of the file system."""

    guide_name = ""

    def setUp(self):
        """Create it, and the guide."""
        self.root = temporary_directory(self)
        self.mail = self.root / "mail"
        self.mail.mkdir()
        self.users = self.root / "users"
        replaced = {"/srv/mail": self.mail, "/home": self.mail, "/etc/popserv/users": self.users}
        self.guide = Guide(self, self.guide_name, replaced)

    def set_old_port(self, port):
        """Let the page's commands find the old server."""
        self.guide.replaced["pop3://localhost"] = f"pop3://127.0.0.1:{port}"

    def start_server(self):
        """Start popserv as the page shows it; return its port."""
        return self.guide.start_server("pop3://localhost:1110").port


class DovecotTests(GuideCase):
    """From Dovecot, on the same Maildirs."""

    guide_name = "migrate-from-dovecot"
    name = "ann@example.org"

    def test_guide(self):
        """Clients see the same on both servers, in the parallel run and after the pins."""
        self.guide.assert_complete("users", "compare", "pin")
        dovecot = DovecotPOP3(self, self.mail, "%d/%n")
        maildir = dovecot.deliver("example.org/ann", MESSAGES)
        dovecot.give(maildir.parent)
        dovecot.start()
        expected = maildrop(dovecot.port, self.name)
        self.assertEqual(list(expected.values()), list(map(wire_form, MESSAGES)))
        self.set_old_port(dovecot.port)
        self.users.write_text(f"{self.name}:{{SHA512-CRYPT}}{crypted()}\n")
        self.users.chmod(0o600)
        self.guide.replaced["/etc/dovecot/users"] = str(self.users)
        self.guide.run("users")
        port = self.start_server()
        self.guide.run("compare")
        self.assertEqual(maildrop(port, self.name), expected)
        self.guide.run("pin")
        options = ("--auth", f"passwd-file:{self.users}")
        server = Server(*options, store=("--maildir", f"{self.mail}/%d/%n"))
        self.addCleanup(server.stop)
        self.assertEqual(maildrop(server.port, self.name), expected)
        # The way back.
        self.assertEqual(maildrop(dovecot.port, self.name), expected)


class CourierTests(GuideCase):
    """From Courier, on the same Maildirs."""

    guide_name = "migrate-from-courier"

    def test_guide(self):
        """Clients see the same on both servers, in the parallel run and after the pins."""
        self.guide.assert_complete("users", "compare", "pin")
        deliver(self.mail / "ann", MESSAGES)
        CourierSession(self, self.mail / "ann").close()
        front = LoginFront(self, lambda name: courier_command(self, self.mail / name))
        expected = maildrop(front.port, "ann")
        self.assertEqual(list(expected.values()), list(map(wire_form, MESSAGES)))
        self.set_old_port(front.port)
        userdb = self.root / "userdb"
        userdb.write_text(f"ann\tuid=8|gid=8|home=/srv/mail/ann|systempw={crypted()}\n")
        self.guide.replaced["/etc/courier/userdb"] = str(userdb)
        self.guide.run("users")
        port = self.start_server()
        self.guide.run("compare", differing="popserv compare")
        self.assertEqual(maildrop(port, "ann"), expected)
        self.guide.run("pin")
        server = Server("--auth", f"passwd-file:{self.users}", root=self.mail)
        self.addCleanup(server.stop)
        self.assertEqual(maildrop(server.port, "ann"), expected)
        # The way back.
        self.assertEqual(maildrop(front.port, "ann"), expected)


class CyrusTests(GuideCase):
    """From Cyrus, by a copy."""

    guide_name = "migrate-from-cyrus"

    def test_guide(self):
        """Clients see the same on both servers, also what has arrived after the first copy."""
        self.guide.assert_complete("copy", "compare", "rest")
        cyrus = Cyrus(self, "ann")
        cyrus.deliver("ann", *map(wire_form, MESSAGES))
        expected = maildrop(cyrus.port, "ann")
        self.assertEqual(len(expected), 3)
        for octets, message in zip(expected.values(), MESSAGES, strict=True):
            body = octets.partition(b"\r\n\r\n")[2]
            self.assertEqual(body, wire_form(message).partition(b"\r\n\r\n")[2])
        self.set_old_port(cyrus.port)
        self.users.write_text("ann:{PLAIN}secret\n")
        self.users.chmod(0o600)
        self.guide.run("copy")
        port = self.start_server()
        self.guide.run("compare", differing="popserv compare")
        self.assertEqual(maildrop(port, "ann"), expected)
        cyrus.deliver("ann", b"Subject: last\r\n\r\nlast\r\n")
        self.guide.replaced["pop3://localhost:2110"] = f"pop3://127.0.0.1:{cyrus.port}"
        self.guide.run("rest")
        expected = maildrop(cyrus.port, "ann")
        self.assertEqual(len(expected), 4)
        self.assertEqual(maildrop(port, "ann"), expected)


class QmailTests(GuideCase):
    """From qmail, on the same Maildirs; no package of Debian has its POP3 server."""

    guide_name = "migrate-from-qmail"

    def test_guide(self):
        """A unique-id is a file name up to the colon, and a program checks the passwords."""
        self.guide.assert_complete("check")
        deliver(self.mail / "ann/Maildir", MESSAGES)
        first = self.mail / "ann/Maildir/new/1700000000.M1P1.host"
        first.rename(self.mail / "ann/Maildir/cur/1700000000.M1P1.host:2,S")
        program = self.root / "checkpassword"
        program.write_text(
            "#!/bin/sh\n[ \"$(tr '\\000' : <&3)\" = ann:secret:: ] || exit 1\n"
            'USER=ann HOME=/home/ann exec "$@"\n'
        )
        program.chmod(0o755)
        self.guide.replaced["/usr/local/bin/checkpassword"] = str(program)
        self.guide.run("check")
        names = [f"170000000{number}.M1P1.host".encode() for number in range(3)]
        expected = dict(zip(names, map(wire_form, MESSAGES), strict=True))
        self.assertEqual(maildrop(self.start_server(), "ann"), expected)


class TwistdMailTests(GuideCase):
    """From ``twistd mail``, on the same Maildirs."""

    guide_name = "migrate-from-twistd-mail"

    def test_guide(self):
        """Clients see the same unique-ids, and can still log in; octets are those of the files."""
        self.guide.assert_complete("users", "compare")
        application = self.root / "mail.tac"
        application.write_text(f"""\
from twisted.application import service, strports
from twisted.mail import mail, maildir

application = service.Application("mail")
mail = mail.MailService()
domain = maildir.MaildirDirdbmDomain(mail, "{self.mail}/example.org")
domain.addUser(b"ann", b"secret")
mail.addDomain(b"example.org", domain)
port = strports.service("tcp:0:interface=127.0.0.1", mail.getPOP3Factory())
port.setServiceParent(application)
""")
        log = self.root / "log"
        twistd = subprocess.Popen(
            [BIN / "twistd", "--nodaemon", "--pidfile=", "--logfile", log, "-y", application],
            cwd=self.root,
            stdin=subprocess.DEVNULL,
        )
        self.addCleanup(twistd.wait)
        self.addCleanup(twistd.terminate)
        until(lambda: log.exists() and "POP3Factory starting on " in log.read_text(), "twistd")
        port = int(log.read_text().partition("POP3Factory starting on ")[2].split()[0])
        maildir = self.mail / "example.org/ann"
        deliver(maildir, MESSAGES)
        self.set_old_port(port)
        self.guide.replaced["/srv/mail/example.org"] = f"{self.mail}/example.org"
        self.guide.run("users")
        new_port = self.start_server()
        self.guide.replaced["110 1110"] = f"{port} {new_port}"
        self.guide.run("compare")
        client = poplib.POP3("127.0.0.1", port, timeout=60)
        client.user("ann@example.org")
        client.pass_("secret")
        known = [line.partition(b" ")[2] for line in client.uidl()[1]]
        client.quit()
        shown = maildrop(new_port, "ann@example.org")
        self.assertEqual(shown, dict(zip(known, map(wire_form, MESSAGES), strict=True)))
        # As the old server does, popserv moves what clients delete to a folder.
        client = poplib.POP3("127.0.0.1", new_port, timeout=60)
        client.user("ann@example.org")
        client.pass_("secret")
        client.dele(1)
        client.quit()
        self.assertEqual(read_maildir(maildir), MESSAGES[1:])
        self.assertEqual(read_maildir(maildir / ".Trash"), MESSAGES[:1])
        self.assertEqual(os.listdir(self.mail), ["example.org"])
