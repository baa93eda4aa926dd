"""``twistd pop3`` from the shell: its options, its mistakes, its ways to start and to end."""

import os
import pwd
import re
import shlex
import signal
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial.unittest import TestCase

from popserv import __version__
from popserv.commandline.options import Options
from popserv.testing import SAMPLE_MESSAGES
from tests.live.harness import (
    BIN,
    LOOPBACK,
    Connection,
    Server,
    deliver,
    lines_of,
    need,
    run,
    shown,
    temporary_directory,
    until,
)

IS_ROOT = os.geteuid() == 0


def outside():
    """Return this machine's own address in some network, None if it has none but loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            # Sends nothing: it only chooses the address that would be used.
            asking.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = asking.getsockname()[0]
    return None if address.startswith("127.") else address


def log_in(connection, name="joe", password="secret"):
    """Log in by password; return the last status line."""
    connection.ask(f"USER {name}".encode())
    reply = connection.ask(f"PASS {password}".encode())
    connection.close()
    return reply


class CommandLineTests(TestCase):
    """What twistd prints, and how it fails, without any server running."""

    def test_plugin(self):
        """Twistd lists pop3 among its plugins."""
        self.assertRegex(run("twistd", "--help").stdout, rb"(?m)^ +pop3 +\S")

    def test_help(self):
        """The help text of pop3 has every option."""
        said = run("twistd", "pop3", "--help").stdout.decode()
        for option in Options().longOpt:
            self.assertIn(f"--{option}", said)

    def test_version(self):
        """The version is popserv's."""
        for command in (("twistd", "pop3"), ("popserv",)):
            done = run(*command, "--version")
            self.assertEqual(done.stdout.decode(), f"popserv {__version__}\n")

    def test_wrong_values(self):
        """A wrong value ends twistd with 1, and the last line says what would be right."""
        root = temporary_directory(self)
        maildir = root / "joe"
        deliver(maildir, [])
        public = root / "public"
        (public / "x").mkdir(parents=True)
        for users in (public / ".users", root / "users"):
            users.write_text("joe:{PLAIN}secret\n")
            users.chmod(0o644)
        here = ("--maildir", root)
        cases = [
            ((), "--maildir ROOT is needed"),
            (("--maildir", root / "no"), "directory .*/no is not there; make it"),
            (("--maildir", maildir), "is a Maildir itself; give the directory above"),
            (("--maildir", root / "%x"), "%x .*use %u, %n, %d"),
            (("--maildir", root / "%d"), "use %u or %n"),
            (("--maildir", public), "chmod o= .*/public/.users"),
            ((*here, "--auth", f"passwd-file:{root}/users"), "chmod o= .*/users"),
            ((*here, "--auth", "nonesuch:x"), "nonesuch.*(passwd-file|--help-auth)"),
            ((*here, "--auth", "passwd-file"), "passwd-file.*(path|PATH|argument|--help-auth)"),
            ((*here, "--auth", "memory:a:b", "--auth", "memory:c:d"), "give one"),
            *(
                ((*here, "--listen", wrong), "--listen .*tcp:1110")
                for wrong in ("nonesuch:1", "tcp:x", "tcp")
            ),
            ((*here, "--listen", "ssl:995"), "--listen ssl:995: .*No such file"),
            *(
                ((*here, "--timeout", wrong), "--timeout takes seconds, such as 600")
                for wrong in ("soon", "-1", "0", "nan", "inf")
            ),
            *(
                ((*here, "--max-connections", wrong), "--max-connections takes a number")
                for wrong in ("many", "0", "1.5")
            ),
        ]
        with ThreadPoolExecutor() as pool:
            endings = pool.map(lambda case: self.failed(*case[0]), cases)
        wrong = [
            f"{arguments}: {last!r}"
            for (arguments, pattern), last in zip(cases, endings, strict=True)
            if not re.search(pattern, last)
        ]
        self.assertEqual(wrong, [])

    def failed(self, *arguments, twistd=("--nodaemon", "--pidfile=")):
        """Run a twistd that must fail; return the last line that it printed."""
        done = run("twistd", *twistd, "pop3", *arguments, "--listen", LOOPBACK)
        said = (done.stdout + done.stderr).decode()
        if done.returncode != 1 or "Traceback" in said:
            return f"exit code {done.returncode}, {said[-2000:]}"
        return said.splitlines()[-1]

    def cannot_listen(self, port, *, prefix=(), daemon=False):
        """Run a twistd that cannot have its port; return what it printed and logged."""
        root = temporary_directory(self)
        log = root / "log"
        how = (f"--logfile={log}",) if daemon else ("--nodaemon",)
        plugin = ("pop3", "--maildir", root, "--listen", f"tcp:{port}:interface=127.0.0.1")
        command = (BIN / "twistd", *how, f"--pidfile={root}/pid", *plugin)
        done = run(*map(str, (*prefix, *command)))
        said = (done.stdout + done.stderr).decode()
        self.assertEqual(done.returncode, 1, said)
        if daemon:
            # The daemon writes it after it has told the process that is over now.
            said += until(
                lambda: "listen on" in (text := log.read_text()) and text, "the reason in the log"
            )
            until(lambda: not (root / "pid").exists(), "the end of the daemon")
        self.assertFalse((root / "pid").exists())
        return said

    def test_port_taken(self):
        """A port that another server has: the reason and a hint, no pidfile left behind."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            for daemon in (False, True):
                said = self.cannot_listen(port, daemon=daemon)
                self.assertRegex(said, rf":{port}: .*[Aa]ddress already in use")
                self.assertIn("Is another server running there?", said)
            self.assertNotIn("Traceback", self.cannot_listen(port))

    def test_port_not_permitted(self):
        """A port that is root's: the reason and a hint."""
        least = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        if not least.exists() or int(least.read_text()) < 2:
            self.skipTest("every user may have every port here")
        if IS_ROOT:
            need(self, "setpriv")
        prefix = ("setpriv", "--bounding-set=-net_bind_service") if IS_ROOT else ()
        said = self.cannot_listen(1, prefix=prefix)
        self.assertIn("Permission denied", said)
        self.assertIn("--uid and --gid", said)
        self.assertNotIn("Traceback", said)


class StartTests(TestCase):
    """Servers each started in another way."""

    def root(self, messages=SAMPLE_MESSAGES, users="joe:{PLAIN}secret\n"):
        """Return a root with joe's mail."""
        root = temporary_directory(self)
        deliver(root / "joe", messages)
        if users:
            (root / ".users").touch(0o600)
            (root / ".users").write_text(users)
        return root

    def start(self, *options, **how):
        """Start a server that is stopped after the test."""
        server = Server(*options, **how)
        self.addCleanup(server.stop)
        return server

    def assert_serves(self, connection, name="joe"):
        """Log in and fetch all that joe has."""
        self.addCleanup(connection.abandon)
        connection.ask(f"USER {name}".encode())
        self.assertStartsWith(connection.ask(b"PASS secret"), b"+OK")
        for n, message in enumerate(SAMPLE_MESSAGES, 1):
            self.assertStartsWith(connection.ask(b"RETR %d" % n), b"+OK")
            self.assertEqual(connection.lines(), lines_of(shown(message)))
        connection.close()

    def assertStartsWith(self, text, start):
        """Fail unless the text starts with this."""
        self.assertTrue(text.startswith(start), repr(text))

    def test_signals(self):
        """SIGTERM and SIGINT end server and sessions cleanly; twistd tells which it was."""
        for number in (signal.SIGTERM, signal.SIGINT):
            server = self.start(root=self.root())
            connection = server.login("joe")
            self.assertEqual(server.stop(number), -number)
            self.assertIn("Server Shut Down", server.log)
            self.assertNotIn("Traceback", server.log)
            self.assertEqual(connection.rest(), b"")
            connection.abandon()

    def test_daemon(self):
        """Daemonized it writes its pid and its log; SIGTERM to that pid ends it."""
        root = self.root()
        pid_file, log = root / "pid", root / "log"
        files = (f"--pidfile={pid_file}", f"--logfile={log}")
        done = run("twistd", *files, "pop3", "--maildir", root, "--listen", LOOPBACK)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))
        pid = int(until(pid_file.exists, "a pidfile") and pid_file.read_text())
        try:
            port = re.search(r"starting on (\d+)\n", log.read_text())[1]
            self.assert_serves(Connection(("127.0.0.1", int(port))))
        finally:
            os.kill(pid, signal.SIGTERM)
        until(lambda: not pid_file.exists(), "the pidfile to go")
        until(lambda: not Path("/proc", str(pid)).exists(), "the server to end")
        self.assertIn("Server Shut Down", log.read_text())

    def test_user(self):
        """Started as root it binds, then serves as the user that --uid and --gid name."""
        if not IS_ROOT:
            self.skipTest("only root can become another user")
        nobody = pwd.getpwnam("nobody")
        root = self.root()
        for path in (root, *root.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
            path.chmod(0o700 if path.is_dir() else 0o600)
        server = self.start(root=root, twistd=(f"--uid={nobody.pw_uid}", f"--gid={nobody.pw_gid}"))
        self.assert_serves(server.connect())
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        self.assertEqual(re.search(r"Uid:(.*)", status)[1].split(), [str(nobody.pw_uid)] * 4)

    def test_listen(self):
        """--listen may be given again, and a Unix socket is as private as loopback."""
        root = self.root()
        path = str(root / "socket")
        listen = ("--listen", LOOPBACK, "--listen", f"unix:{path}", "--listen", LOOPBACK)
        server = self.start(*listen, root=root)
        self.assertEqual(len(server.ports), 2)
        for address in (path, *(("127.0.0.1", port) for port in server.ports)):
            self.assert_serves(Connection(address))

    def test_passwords_elsewhere(self):
        """From another machine passwords go over TLS alone, or with --allow-plaintext."""
        address = outside()
        if address is None:
            self.skipTest("this machine has no address but loopback")
        root = self.root()
        listen = ("--listen", LOOPBACK, "--listen", f"tcp:0:interface={address}")
        server = self.start(*listen, *self.listen_tls(root, address), root=root)
        _, plain, tls = server.ports
        refusal = log_in(Connection((address, plain)))
        self.assertStartsWith(refusal, b"-ERR ")
        self.assertIn(b"use TLS", refusal)
        self.assert_serves(self.connect_tls(root, (address, tls)))
        server.stop()
        server = self.start(*listen, "--allow-plaintext", root=root)
        self.assert_serves(Connection((address, server.ports[1])))

    def test_tls(self):
        """--listen ssl: greets inside TLS (RFC 8314 section 3.3)."""
        root = self.root()
        server = self.start("--listen", LOOPBACK, *self.listen_tls(root, "127.0.0.1"), root=root)
        self.assert_serves(self.connect_tls(root, ("127.0.0.1", server.ports[1])))

    def listen_tls(self, root, address):
        """Return --listen for TLS, having made a key and a certificate of this address."""
        need(self, "openssl")
        arguments = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
        files = ("-keyout", root / "key.pem", "-out", root / "cert.pem")
        run("openssl", *arguments, "-addext", f"subjectAltName=IP:{address}", *files)
        keys = f"privateKey={root}/key.pem:certKey={root}/cert.pem"
        return "--listen", f"ssl:0:{keys}:interface={address}"

    def connect_tls(self, root, address):
        """Return a connection inside TLS, the certificate verified."""
        context = ssl.create_default_context(cafile=root / "cert.pem")
        return Connection(
            address, wrap=lambda bare: context.wrap_socket(bare, server_hostname=address[0])
        )

    def assert_checks(self, auth, root):
        """Log in rightly and wrongly to a server with such an --auth."""
        server = self.start("--auth", auth, root=root)
        self.assert_serves(server.connect())
        self.assertStartsWith(log_in(server.connect(), "joe", "wrong"), b"-ERR [AUTH]")

    def test_file_checker(self):
        """--auth file: takes Twisted's own format of users and passwords."""
        root = self.root(users=None)
        (root / "passwords").write_text("joe:secret\nann:other\n")
        self.assert_checks(f"file:{root}/passwords", root)

    def test_memory_checker(self):
        """--auth memory: takes users and passwords from the command line."""
        self.assert_checks("memory:joe:secret", self.root(users=None))

    def test_short_timeout(self):
        """A --timeout below ten minutes is warned of (RFC 1725 section 3)."""
        for seconds, warned in (("599", True), ("600", False)):
            server = self.start("--timeout", seconds)
            self.assertEqual("RFC 1725 section 3" in server.log, warned)
            server.stop()

    def test_first_user(self):
        """Without users it starts, and says how to add one, who can log in at once."""
        root = self.root(users=None)
        server = self.start(root=root)
        said = re.search(r"add the first: (popserv .*)\n", server.log)[1]
        self.assertStartsWith(log_in(server.connect()), b"-ERR [AUTH]")
        command = shlex.split(said.replace("NAME", "joe"))
        done = run(*command, input=b"secret\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_serves(server.connect())
        self.assertNotIn(b"<", self.greeting(server))
        run("popserv", "user", "add", "ann", "--apop", "--maildir", root, input=b"tanstaaf\n")
        self.assertIn(b"<", self.greeting(server))

    def greeting(self, server):
        """Return the greeting of a new connection."""
        connection = server.connect()
        connection.close()
        return connection.greeting

    def test_composed(self):
        """The parts, composed by hand in a .tac file, serve as the plugin does."""
        root = self.root()
        tac = root / "mail.tac"
        tac.write_text(_TAC.format(root=root, listen=LOOPBACK))
        server = self.start(root=root, tac=tac)
        self.assert_serves(server.connect())


_TAC = """\
from twisted.application import service, strports
from twisted.cred.portal import Portal

from popserv.auth.passwords.checker import PasswdFileChecker
from popserv.auth.realm import MaildropRealm
from popserv.core.command import CommandTable
from popserv.commands import capa, rfc1725, sasl, stls, utf8
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.server.factory import POP3Factory

portal = Portal(MaildropRealm(MaildirMaildrops("{root}")))
portal.registerChecker(PasswdFileChecker("{root}/.users"))
application = service.Application("mail")
table = CommandTable(*(each.COMMANDS for each in (rfc1725, capa, stls, sasl, utf8)))
factory = POP3Factory(table, portal)
strports.service("{listen}", factory).setServiceParent(application)
"""
