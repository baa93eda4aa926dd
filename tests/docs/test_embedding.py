"""The Python blocks of docs/howto work as shown.

Each block is the module that its caption names.  Servers read their endpoint and their root
from the environment.
"""

import os
import poplib
import pwd
import re
import subprocess
import sys
import time
from base64 import b64encode
from contextlib import closing
from dataclasses import fields
from hashlib import md5
from pathlib import Path
from types import ModuleType

from twisted.application.service import IServiceCollection
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.cred.strcred import ICheckerFactory
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import succeed
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.mail.maildir import MaildirDirdbmDomain
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.auth.realm import MaildropRealm
from popserv.commands import rfc1725
from popserv.core.command import CommandTable
from popserv.interfaces import IStoreKind
from popserv.maildrops import StoreSettings
from popserv.maildrops.memory import MemoryMaildrops
from popserv.messages.downgrade import Downgrader
from popserv.server.factory import POP3Factory
from popserv.testing import Faults, MailboxContract, MemoryClient
from tests.certificates import issue
from tests.docs.harness import (
    DOCS,
    KEYWORDS,
    ROOT,
    TWISTD,
    WAIT,
    Base,
    UnixPOP3,
    blocks,
    tables,
)
from tests.live.harness import deliver, read_maildir

NAMED_BLOCKS = [
    block for page in sorted((DOCS / "howto").glob("*.rst")) for block in blocks(page, "python")
]
BLOCKS = dict(NAMED_BLOCKS)


def load(name):
    """Return a block as a module, which other blocks can then import."""
    if name not in sys.modules:
        module = ModuleType(name)
        code = compile(BLOCKS[name], f"docs/howto: {name}", "exec")
        exec(code, module.__dict__)
        sys.modules[name] = module
    return sys.modules[name]


HOLD_LOCK = """
import sys, time
from sqlmail import lock
lock(sys.argv[1], b"ann")
sys.stdout.write("x")
sys.stdout.flush()
time.sleep(600)
"""
"""A program that locks Ann's mailbox of the example store."""

load("sqlmail")
load("memory_server")
SQLMaildropsTests = load("test_sqlmail").SQLMaildropsTests
ServerTests = load("test_memory_server").ServerTests
AddressTests = load("test_address").AddressTests
StringTransportTests = load("test_string_transport").TransportTests
FetchTests = load("test_with_server").FetchTests
GreetingTests = load("test_with_set_up").GreetingTests
TLSTests = load("test_with_tls").TLSTests
FaultTests = load("test_with_faults").FaultTests


class EmbeddingTests(Base):
    """The blocks do what their pages say."""

    def test_all_blocks_are_run(self):
        """Every block has a name of its own, and a test uses that name."""
        # The page on RPOP is tested with its checker.
        rhosts = ROOT / "tests/auth/rhosts/test_checker.py"
        tests = Path(__file__).read_text("utf-8") + rhosts.read_text("utf-8")
        self.assertEqual(len(BLOCKS), len(NAMED_BLOCKS))
        for name in BLOCKS:
            self.assertTrue(name)
            self.assertIn(f'("{name}"', tests)

    def serve(self, arguments, path=None, **environment):
        """Start a server on a UNIX socket, wait until it listens, and return a client of it."""
        path = path or os.path.join(self.directory, "socket")
        with open(os.path.join(self.directory, "log"), "w+") as log:
            server = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.directory,
                env={**self.environment, "POP3_ENDPOINT": f"unix:{path}", **environment},
                stdout=log,
                stderr=log,
            )
            self.addCleanup(server.wait)
            self.addCleanup(server.terminate)
            end = time.monotonic() + WAIT
            while True:
                try:
                    return UnixPOP3(path, timeout=WAIT)
                except OSError:
                    if time.monotonic() > end or server.poll() is not None:
                        log.seek(0)
                        self.fail(log.read())
                    time.sleep(0.05)

    def write(self, name, path):
        """Write a block to a file in the test's directory."""
        with open(os.path.join(self.directory, path), "w", encoding="utf-8") as file:
            file.write(BLOCKS[name])

    def fetch(self, client):
        """Log in as ann and return the lines of the first message."""
        with closing(client):
            client.user("ann")
            client.pass_("secret")
            _, lines, _ = client.retr(1)
            client.quit()
            return lines

    def test_composed_server(self):
        """The first script is a complete server."""
        self.write("memory_server", "memory_server.py")
        client = self.serve(["memory_server.py"])
        self.assertEqual(self.fetch(client), [b"Subject: hello", b"", b"Hello, Ann."])

    def test_tac(self):
        """Twistd runs the .tac file, which serves a Maildir to a user of its users file."""
        self.write("pop3_tac", "pop3.tac")
        new = Path(self.directory, "mail", "ann", "new")
        new.mkdir(parents=True)
        (new / "1.1.host").write_bytes(b"Subject: hello\n\nIt works.\n")
        users = Path(self.directory, "mail", ".users")
        users.write_bytes(b"ann:{PLAIN}secret\n")
        users.chmod(0o600)
        client = self.serve(
            ["-c", TWISTD, "--pidfile=", "-ny", "pop3.tac"], MAIL_ROOT=str(users.parent)
        )
        self.assertEqual(self.fetch(client), [b"Subject: hello", b"", b"It works."])

    def test_store_tac(self):
        """The .tac file serves stores of several kinds, and one of another project."""
        self.write("store_tac", "store.tac")
        self.write("sqlmail", "sqlmail.py")
        Path(self.directory, "twisted", "plugins").mkdir(parents=True)
        self.write("sqlmail_plugin", "twisted/plugins/sqlmail_plugin.py")
        path = os.pathsep.join([self.directory, str(ROOT)])
        mail = Path(self.directory, "mail")
        mail.mkdir()
        users = mail / "users"
        users.write_bytes(b"ann:{PLAIN}secret\n")
        users.chmod(0o600)
        message = b"Subject: hello\n\nIt works.\n"
        deliver(mail / "maildir" / "ann", [message])
        load("sqlmail").deliver(str(mail / "db"), b"ann", message)
        (mail / "mbox").mkdir()
        (mail / "mbox" / "ann").write_bytes(b"From a Thu Jan  1 00:00:00 2026\n" + message)
        for store in ("maildir:mail/maildir", "mbox:mail/mbox", "sqlite:mail/db"):
            client = self.serve(
                ["-c", TWISTD, "--pidfile=", "-ny", "store.tac"],
                os.path.join(self.directory, store.partition(":")[0]),
                MAIL_STORE=store,
                POP3_USERS=str(users),
                PYTHONPATH=path,
            )
            self.assertEqual(self.fetch(client), [b"Subject: hello", b"", b"It works."], store)

    def test_smtp_server(self):
        """What comes by SMTP is served by POP3, and an unknown recipient is refused."""
        server = load("smtp_server").mail_factory.buildProtocol(None)
        server.noisy = False
        self.addCleanup(server.setTimeout, None)
        transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.1", 5))
        server.makeConnection(transport)
        for line in (
            *(b"EHLO x", b"MAIL FROM:<sam@example.org>", b"RCPT TO:<eve@example.org>"),
            *(b"RCPT TO:<ann@example.org>", b"DATA", b"Subject: by SMTP", b"", b"text", b"."),
        ):
            server.dataReceived(line + b"\r\n")
        codes = [line[:4] for line in transport.value().splitlines()]
        self.assertEqual(codes[-5:], [b"250 ", b"550 ", b"250 ", b"354 ", b"250 "])
        client = MemoryClient(load("memory_server").factory)
        client.send(b"USER ann\r\nPASS secret\r\n")
        self.assertIn(b"\r\nSubject: by SMTP\r\n\r\ntext\r\n.\r\n", client.send(b"RETR 2\r\n"))
        client.lose()

    def test_utf8_server(self):
        """The server has UTF8, and downgrades its message for a client that has not sent it."""
        client = MemoryClient(load("utf8_server").factory)
        client.send(b"USER ann\r\nPASS secret\r\n")
        self.assertIn(b"=?UTF-8?", client.send(b"RETR 1\r\n"))
        self.assertTrue(client.send(b"UTF8\r\n").startswith(b"+OK "))
        self.assertIn("Subject: Grüße\r\n".encode(), client.send(b"RETR 1\r\n"))
        client.lose()

    def test_store_is_complete(self):
        """The tests of the example store include the whole contract."""
        load("test_sqlmail")
        kind = load("sqlmail_plugin").sqlite
        self.assertTrue(verifyObject(IStoreKind, kind))
        with self.assertRaisesRegex(ValueError, "the directory /nowhere does not exist"):
            kind.make_store("/nowhere/mail.db", StoreSettings(0))
        with self.assertRaisesRegex(ValueError, "remove --utf8"):
            kind.make_store("mail.db", StoreSettings(0, downgrader=Downgrader))
        self.assertTrue(issubclass(SQLMaildropsTests, MailboxContract))

    def test_store_by_name(self):
        """Two workers share the example store by name, and respect its lock; kill -9 frees it."""
        self.write("sqlmail", "sqlmail.py")
        plugins = Path(self.directory, "twisted", "plugins")
        plugins.mkdir(parents=True)
        self.write("sqlmail_plugin", "twisted/plugins/sqlmail_plugin.py")
        self.environment["PYTHONPATH"] = os.pathsep.join([self.directory, str(ROOT)])
        Path(self.directory, "users").write_bytes(b"ann:{PLAIN}secret\n")
        Path(self.directory, "users").chmod(0o600)
        database = os.path.join(self.directory, "mail.db")
        for text in (b"Subject: one\n\n1\n", b"Subject: two\n\n2\n"):
            load("sqlmail").deliver(database, b"ann", text)
        words = "--pidfile= -n pop3 --store sqlite:mail.db --auth passwd-file:users --workers 2"
        path = os.path.join(self.directory, "socket")
        words = [*words.split(), "--listen", f"unix:{path}"]
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD_LOCK, database],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
        )
        with holder:
            self.assertEqual(holder.stdout.read(1), b"x")
            with closing(self.serve(["-c", TWISTD, *words])) as client:
                client.user("ann")
                error = self.assertRaises(poplib.error_proto, client.pass_, "secret")
                self.assertIn(b"[IN-USE]", error.args[0])
            holder.kill()
            holder.wait()
        for expected in ((1, 2), (2,), (2,)):
            with closing(UnixPOP3(path, timeout=WAIT)) as client:
                client.user("ann")
                client.pass_("secret")
                uids = [int(line.split()[1]) for line in client.uidl()[1]]
                self.assertEqual(tuple(uids), expected)
                if len(uids) == 2:
                    client.dele(1)
                client.quit()
        done = subprocess.run(
            ["popserv", "session", "--user", "ann", "--store", "sqlite:mail.db"],
            cwd=self.directory,
            env=self.environment,
            input=b"UIDL\r\nQUIT\r\n",
            capture_output=True,
            check=True,
        )
        self.assertIn(b"1 2\r\n", done.stdout)

    def connect(self, portal):
        """Return a client of a server with that portal, and the server's greeting."""
        client = MemoryClient(POP3Factory(CommandTable(rfc1725.COMMANDS), portal, host=b"h"))
        self.addCleanup(client.lose)
        return client, client.received()

    def portal(self, *checkers):
        """Return a portal with these checkers, whose maildrops are empty."""
        return Portal(MaildropRealm(MemoryMaildrops()), checkers)

    def test_password_checker(self):
        """The checker asks its coroutine function, and does not make APOP available."""

        async def is_valid(name, password):
            return await succeed((name, password) == (b"ann", b"secret"))

        client, greeting = self.connect(self.portal(load("checkers").PasswordChecker(is_valid)))
        self.assertEqual(greeting, b"+OK POP3 server ready\r\n")
        client.send(b"USER ann\r\nPASS guess\r\n")
        client.clock.advance(2)
        self.assertIn(b"-ERR [AUTH]", client.received())
        self.assertIn(b"+OK ann's maildrop", client.send(b"USER ann\r\nPASS secret\r\n"))

    def test_apop_checker(self):
        """The APOP checker adds a timestamp to the greeting and requires the right digest."""
        checker = load("checkers").APOPChecker({b"ann": b"tanstaaf"})
        client, greeting = self.connect(self.portal(checker))
        timestamp = re.search(rb"<.*>", greeting)[0]
        digest = self.digest(timestamp + b"tanstaaf")
        client.send(b"APOP ann " + self.digest(timestamp) + b"\r\n")
        client.clock.advance(2)
        self.assertIn(b"-ERR [AUTH]", client.received())
        self.assertIn(b"+OK ann's maildrop", client.send(b"APOP ann %b\r\n" % digest))
        checker = load("checkers").APOPChecker({})
        self.assertEqual(self.connect(self.portal(checker))[1][-3:], b"y\r\n")

    def test_checkers_portal(self):
        """The portal with both checkers serves one user by password and another one by APOP."""
        load("checkers")
        portal = load("checkers_portal").portal
        client, _ = self.connect(portal)
        self.assertIn(b"+OK ann's maildrop", client.send(b"USER ann\r\nPASS secret\r\n"))
        client, greeting = self.connect(portal)
        digest = self.digest(re.search(rb"<.*>", greeting)[0] + b"tanstaaf")
        self.assertIn(b"+OK bob's maildrop", client.send(b"APOP bob %b\r\n" % digest))

    def digest(self, text):
        """Return the MD5 digest that APOP sends."""
        return md5(text, usedforsecurity=False).hexdigest().encode("ascii")

    def test_own_mechanism(self):
        """CAPA announces the example mechanism, and a client with a ticket can log in."""
        portal = self.portal(InMemoryUsernamePasswordDatabaseDontUse(ann=b"7"))
        client = MemoryClient(POP3Factory(load("xticket").table, portal))
        self.assertIn(b"SASL PLAIN LOGIN X-TICKET\r\n", client.send(b"CAPA\r\n"))
        self.assertEqual(client.send(b"AUTH X-TICKET\r\n"), b"+ eW91ciB0aWNrZXQ/\r\n")
        self.assertIn(b"+OK ann's maildrop", client.send(b64encode(b"ann 7") + b"\r\n"))
        client.lose()

    def test_old_dialect(self):
        """The server for RFC 1460 has LAST, and takes the user from the client's process."""
        name = pwd.getpwuid(os.geteuid()).pw_name
        new = Path(self.directory, "srv", "mail", name, "new")
        new.mkdir(parents=True)
        (new / "1.1.host").write_bytes(b"x\n")
        path = os.path.join(self.directory, "sock")
        script = self.place(BLOCKS.get("rfc1460_socket")).replace("/run/pop3.sock", path)
        Path(self.directory, "rfc1460_socket.tac").write_text(script)
        client = self.serve(["-c", TWISTD, "--pidfile=", "-ny", "rfc1460_socket.tac"], path=path)
        with closing(client):
            self.assertIn(b"POP3 server ready, %b's maildrop has 1" % name.encode(), client.welcome)
            self.assertEqual(client._shortcmd("LAST"), b"+OK 0")
            client.quit()

    def test_tls_server(self):
        """The TLS server listens on both ports and has every command."""
        for name in ("srv/mail", "etc/popserv"):
            Path(self.directory, name).mkdir(parents=True)
        issued = issue("localhost")
        Path(self.directory, "etc/popserv/cert.pem").write_bytes(issued.certificate_pem())
        Path(self.directory, "etc/popserv/key.pem").write_bytes(issued.key_pem())
        names = {}
        exec(re.sub(r"/(?=var|etc)", f"{self.directory}/", BLOCKS.get("tls_server")), names)
        self.assertEqual({entry.keyword.decode("ascii") for entry in names["table"]}, KEYWORDS)
        self.assertIs(names["factory"].tls, names["certificates"])
        exec(BLOCKS.get("proxy_server"), names)
        ports = [each.endpoint._port for each in IServiceCollection(names["application"])]
        self.assertEqual(ports, [110, 995, 1110, 1995])
        for proxied in (names["proxied"], names["tls_proxied"]):
            self.assertIs(proxied.pop3_factory, names["factory"])
            for host, expected in (("192.0.2.7", True), ("127.0.0.1", False)):
                self.assertIs(proxied.is_proxy(IPv4Address("TCP", host, 1)), expected)

    def test_own_command(self):
        """The example command works before a login."""
        client = MemoryClient(POP3Factory(load("xday").table, Portal(None)))
        client.received()
        self.assertRegex(client.send(b"xday\r\n"), rb"^\+OK \d{4}-\d\d-\d\d\r\n$")
        client.lose()

    def test_own_body(self):
        """The body of the example command is framed, whatever its line ends and dots."""
        store = MemoryMaildrops()
        portal = Portal(
            MaildropRealm(store), [InMemoryUsernamePasswordDatabaseDontUse(ann=b"secret")]
        )
        client = MemoryClient(POP3Factory(load("xnews").table, portal))
        client.send(b"USER ann\r\nPASS secret\r\n")
        self.assertEqual(
            client.send(b"XNEWS\r\nNOOP\r\n"),
            b"+OK news follows\r\nThe server moves on Friday.\r\n..\r\nYour administrator\r\n"
            b".\r\n+OK nothing done\r\n",
        )
        client.lose()

    def test_own_listing(self):
        """The example listing is one of all messages without a mark, or of one message."""
        client = self.logged_in(load("xinitial").table)
        replies = client.send(b"DELE 1\r\nXINITIAL\r\nXINITIAL 2\r\nXINITIAL 1\r\n")
        self.assertIn(b"+OK initials follow\r\n2 m\r\n.\r\n+OK 2 m\r\n-ERR ", replies)

    def test_without_a_command(self):
        """A command that is left out is unknown, and a replaced one is the new one."""
        client = self.logged_in(load("without_top").table)
        self.assertEqual(client.send(b"TOP 1 0\r\n"), b"-ERR unknown command\r\n")
        self.assertIn(b"\r\n+OK 1 left\r\n", client.send(b"DELE 1\r\nNOOP\r\n"))
        capabilities = client.send(b"CAPA\r\n").split(b"\r\n")
        self.assertIn(b"UIDL", capabilities)
        self.assertNotIn(b"TOP", capabilities)

    def logged_in(self, table):
        """Return a client that has logged in to a server with these commands and two messages."""
        store = MemoryMaildrops()
        for message in (b"one\n", b"two\n"):
            store.deliver(b"ann", message)
        checker = InMemoryUsernamePasswordDatabaseDontUse(ann=b"secret")
        client = MemoryClient(POP3Factory(table, Portal(MaildropRealm(store), [checker])))
        self.addCleanup(client.lose)
        client.send(b"USER ann\r\nPASS secret\r\n")
        return client

    def test_checker_by_name(self):
        """Twistd finds the example checker by its name, and reports the error of its file."""
        self.write("checkers", "checkers.py")
        plugins = Path(self.directory, "twisted", "plugins")
        plugins.mkdir(parents=True)
        self.assertTrue(verifyObject(ICheckerFactory, load("checkers_plugin").one_password))
        self.write("checkers_plugin", "twisted/plugins/checkers_plugin.py")
        self.environment["PYTHONPATH"] = os.pathsep.join([self.directory, str(ROOT)])
        Path(self.directory, "password").write_bytes(b"secret\n")
        deliver(Path(self.directory, "ann"), [b"Subject: hello\n\nIt works.\n"])
        path = os.path.join(self.directory, "socket")
        words = ["--pidfile=", "-n", "pop3", "--maildir", ".", "--listen", f"unix:{path}", "--auth"]
        client = self.serve(["-c", TWISTD, *words, "one-password:password"])
        self.assertEqual(self.fetch(client), [b"Subject: hello", b"", b"It works."])
        done = subprocess.run(
            [sys.executable, "-c", TWISTD, *words, "one-password:nowhere"],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            check=False,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"--auth one-password: ", done.stdout + done.stderr)
        self.assertIn(b"nowhere", done.stdout + done.stderr)

    def test_with_pytest(self):
        """The tests for pytest pass."""
        self.assertTrue(callable(load("test_with_pytest").test_greeting))
        self.write("test_with_pytest", "test_with_pytest.py")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "popserv.pytest_plugin"],
            cwd=self.directory,
            env={**self.environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout.decode())

    def test_default_peer(self):
        """Without an address, the peer of a StringTransport is another machine."""
        self.assertEqual(StringTransport().getPeer().host, "192.168.1.1")
        self.assertIn("192.168.1.1", (DOCS / "howto" / "test-servers.rst").read_text())

    def test_faults(self):
        """The table of faults has each one, with a valid value, and nothing else."""
        (table,) = tables(DOCS / "howto" / "test-mail-programs.rst")
        shown = [row[0].strip("`") for row in table]
        for text in shown:
            eval(f"Faults({text})")
        names = [text.partition("=")[0] for text in shown]
        self.assertEqual(names, [field.name for field in fields(Faults)])


class MailRealmTests(TestCase):
    """The realm of twisted.mail works; a login reads the messages in several reactor turns."""

    async def test_mail_checker(self):
        """A user of twisted.mail's database logs in, and removes mail from popserv's store."""
        root = self.mktemp()
        os.mkdir(root)
        factory = load("dirdbm").make_factory(root)
        MaildirDirdbmDomain(None, root).addUser(b"ann", b"secret")
        deliver(Path(root, "ann"), [b"one\n"])
        client = MemoryClient(factory)
        replies = client.send(b"USER ann\r\nPASS secret\r\nDELE 1\r\nQUIT\r\n")
        while not client.closed:
            await deferLater(reactor, 0.01)
            client.clock.advance(0)
            replies += client.received()
        self.assertIn(b"1 message (5 octets)", replies)
        client.lose()
        self.assertEqual(read_maildir(Path(root, "ann")), [])

    async def test_mail_realm(self):
        """Octets are those of popserv, and the avatar deletes messages only at QUIT."""
        module = load("notices")
        client = MemoryClient(module.factory)
        replies = client.send(b"USER ann\r\nPASS secret\r\n")
        while b"maildrop" not in replies:
            await deferLater(reactor, 0.01)
            replies += client.received()
        self.assertIn(b"2 messages (38 octets)", replies)
        self.assertEqual(client.send(b"DELE 1\r\nUIDL 2\r\n")[-16:], b"+OK 2 notice-1\r\n")
        self.assertTrue(module.notices[0])
        client.send(b"QUIT\r\n")
        self.assertTrue(client.closed)
        self.assertEqual(module.notices, [b"", b"Subject: two\n\n2\n"])
        client.lose()
