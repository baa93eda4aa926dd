"""``twistd pop3`` from the shell: options, errors, start and shutdown."""

import os
import poplib
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
from popserv.options.server import Options
from popserv.testing import SAMPLE_MESSAGES, naive_octets
from tests.live.harness import (
    BIN,
    LOOPBACK,
    Connection,
    Server,
    deliver,
    downgraded,
    require_programs,
    run,
    split_lines,
    temporary_directory,
    until,
)

IS_ROOT = os.geteuid() == 0


def external_address():
    """Return an address of this machine, or None if it only has loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            # This sends nothing; the kernel only selects the source address.
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = sock.getsockname()[0]
    return None if address.startswith("127.") else address


def log_in(connection, name="joe", password="secret"):
    """Log in by password and QUIT; return the reply to PASS."""
    connection.ask(f"USER {name}".encode())
    reply = connection.ask(f"PASS {password}".encode())
    connection.close()
    return reply


class CommandLineTests(TestCase):
    """The output and the errors of twistd, without a server."""

    def test_plugin(self):
        """Twistd lists pop3 among its plugins."""
        self.assertRegex(run("twistd", "--help").stdout, rb"(?m)^ +pop3 +\S")

    def test_help(self):
        """The help text of pop3 lists every option."""
        output = run("twistd", "pop3", "--help").stdout.decode()
        for option in Options().longOpt:
            self.assertIn(f"--{option}", output)

    def test_version(self):
        """--version prints popserv's version."""
        for command in (("twistd", "pop3"), ("popserv",)):
            done = run(*command, "--version")
            self.assertEqual(done.stdout.decode(), f"popserv {__version__}\n")

    def test_wrong_values(self):
        """With an invalid value twistd exits with 1, and prints one line with the remedy."""
        root = temporary_directory(self)
        maildir = root / "joe"
        deliver(maildir, [])
        public = root / "public"
        (public / "x").mkdir(parents=True)
        for users in (public / ".users", root / "users"):
            users.write_text("joe:{PLAIN}secret\n")
            users.chmod(0o644)
        valid = ("--maildir", root)
        cases = [
            ((), "--maildir is required"),
            ((*valid, "--nosuch"), "option --nosuch not recognized; see twistd pop3 --help"),
            (("--maildir", root / "no"), "directory .*/no does not exist; create it"),
            (("--maildir", maildir), "is itself a Maildir; give its parent directory"),
            (("--maildir", root / "%x"), "%x .*use %u, %n, %d"),
            (("--maildir", root / "%d"), "use %u or %n"),
            (("--maildir", public), "chmod o= .*/public/.users"),
            ((*valid, "--auth", f"passwd-file:{root}/users"), "chmod o= .*/users"),
            ((*valid, "--auth", "nonesuch:x"), "nonesuch.*(passwd-file|--help-auth)"),
            ((*valid, "--auth", "passwd-file"), "passwd-file.*(path|PATH|argument|--help-auth)"),
            ((*valid, "--auth", "dovecot:/s", "--auth", "memory:c:d"), "give it last"),
            *(
                ((*valid, "--listen", wrong), "--listen .*tcp:1110")
                for wrong in ("nonesuch:1", "tcp:x", "tcp")
            ),
            ((*valid, "--listen", "ssl:995"), "--listen ssl:995: .*No such file"),
            *(
                (
                    (*valid, "--timeout", wrong),
                    "--timeout must be a number of seconds above 0, such as 600",
                )
                for wrong in ("soon", "-1", "0", "nan", "inf")
            ),
            *(
                ((*valid, "--max-connections", wrong), "--max-connections must be a whole number")
                for wrong in ("many", "0", "1.5")
            ),
        ]
        with ThreadPoolExecutor() as pool:
            last_lines = pool.map(lambda case: self.only_line(*case[0]), cases)
        failures = [
            f"{arguments}: {last!r}"
            for (arguments, pattern), last in zip(cases, last_lines, strict=True)
            if not re.search(pattern, last)
        ]
        self.assertEqual(failures, [])

    def only_line(self, *arguments, twistd=("--nodaemon", "--pidfile=")):
        """Run a twistd that must fail; return the only line of its output."""
        done = run("twistd", *twistd, "pop3", *arguments, "--listen", LOOPBACK)
        output = (done.stdout + done.stderr).decode()
        if done.returncode != 1 or output.count("\n") != 1:
            return f"exit code {done.returncode}, {output[-2000:]}"
        return output.removesuffix("\n")

    def fail_to_listen(self, port, *, prefix=(), daemon=False):
        """Run a twistd that cannot bind its port; return its output and its log."""
        root = temporary_directory(self)
        log = root / "log"
        mode = (f"--logfile={log}",) if daemon else ("--nodaemon",)
        plugin = ("pop3", "--maildir", root, "--listen", f"tcp:{port}:interface=127.0.0.1")
        command = (BIN / "twistd", *mode, f"--pidfile={root}/pid", *plugin)
        done = run(*map(str, (*prefix, *command)))
        output = (done.stdout + done.stderr).decode()
        self.assertEqual(done.returncode, 1, output)
        if daemon:
            # The daemon writes the log after the process that started it has ended.
            output += until(
                lambda: "listen on" in (text := log.read_text()) and text, "the reason in the log"
            )
            until(lambda: not (root / "pid").exists(), "the end of the daemon")
        self.assertFalse((root / "pid").exists())
        return output

    def test_port_taken(self):
        """If a port is in use, twistd prints the reason and a hint, and leaves no pidfile."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            for daemon in (False, True):
                output = self.fail_to_listen(port, daemon=daemon)
                self.assertRegex(output, rf":{port}: .*[Aa]ddress already in use")
                self.assertIn("Is another server listening there?", output)
            self.assertNotIn("Traceback", self.fail_to_listen(port))

    def test_port_not_permitted(self):
        """If a port is reserved for root, twistd prints the reason and a hint."""
        first_port = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        if not first_port.exists() or int(first_port.read_text()) < 2:
            self.skipTest("every user can bind every port")
        if IS_ROOT:
            require_programs(self, "setpriv")
        prefix = ("setpriv", "--bounding-set=-net_bind_service") if IS_ROOT else ()
        output = self.fail_to_listen(1, prefix=prefix)
        self.assertIn("Permission denied", output)
        self.assertIn("--uid and --gid", output)
        self.assertNotIn("Traceback", output)


class StartTests(TestCase):
    """Different ways to start a server."""

    def root(self, messages=SAMPLE_MESSAGES, users="joe:{PLAIN}secret\n"):
        """Return a mail directory with joe's mail."""
        root = temporary_directory(self)
        deliver(root / "joe", messages)
        if users:
            (root / ".users").touch(0o600)
            (root / ".users").write_text(users)
        return root

    def start(self, *options, **keywords):
        """Start a server; it is stopped after the test."""
        server = Server(*options, **keywords)
        self.addCleanup(server.stop)
        return server

    def assert_serves(self, connection, name="joe"):
        """Log in and fetch all of joe's messages."""
        self.addCleanup(connection.abandon)
        connection.ask(f"USER {name}".encode())
        self.assertStartsWith(connection.ask(b"PASS secret"), b"+OK")
        for n, message in enumerate(SAMPLE_MESSAGES, 1):
            self.assertStartsWith(connection.ask(b"RETR %d" % n), b"+OK")
            self.assertEqual(connection.lines(), split_lines(message))
        connection.close()

    def test_utf8(self):
        """With --utf8 messages are downgraded until UTF8; the size file is never the wrong one."""
        root = self.root(SAMPLE_MESSAGES * 5)
        for options in ((), ("--utf8",), (), ("--utf8",)):
            server = Server(*options, root=root)
            try:
                self.patch(poplib, "_MAXLINE", 1 << 20)
                client = poplib.POP3("127.0.0.1", server.port)
                client.user("joe")
                client.pass_("secret")
                self.assertEqual("UTF8" in client.capa(), bool(options))
                self.assert_received(client, downgraded if options else bytes)
                if options:
                    client.utf8()
                    self.assert_received(client, bytes)
                client.quit()
            finally:
                server.stop()
            self.assertTrue((root / "joe" / "popserv-sizes").exists())

    def assert_received(self, client, form):
        """Check that poplib receives all messages in a form, and their octets."""
        expected = [form(message) for message in SAMPLE_MESSAGES * 5]
        listed = [int(line.split()[1]) for line in client.list()[1]]
        self.assertEqual(listed, [*map(naive_octets, expected)])
        received = [client.retr(n)[1] for n in range(1, len(expected) + 1)]
        self.assertEqual(received, [*map(split_lines, expected)])

    def assertStartsWith(self, text, start):
        """Fail unless a text starts with a prefix."""
        self.assertTrue(text.startswith(start), repr(text))

    def test_signals(self):
        """SIGTERM and SIGINT stop the server and its sessions cleanly."""
        for number in (signal.SIGTERM, signal.SIGINT):
            server = self.start(root=self.root())
            connection = server.login("joe")
            self.assertEqual(server.stop(number), -number)
            self.assertIn("Server Shut Down", server.log)
            self.assertNotIn("Traceback", server.log)
            self.assertEqual(connection.rest(), b"")
            connection.abandon()

    def test_daemon(self):
        """A daemon writes its process ID and its log; SIGTERM stops it."""
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
        until(lambda: not pid_file.exists(), "the pidfile to be removed")
        until(lambda: not Path("/proc", str(pid)).exists(), "the server to end")
        self.assertIn("Server Shut Down", log.read_text())

    def test_user(self):
        """Started as root, twistd binds the ports and then runs as --uid and --gid."""
        if not IS_ROOT:
            self.skipTest("only root can change its user")
        nobody = pwd.getpwnam("nobody")
        root = self.root()
        for path in (root, *root.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
            path.chmod(0o700 if path.is_dir() else 0o600)
        server = self.start(root=root, twistd=(f"--uid={nobody.pw_uid}", f"--gid={nobody.pw_gid}"))
        self.assert_serves(server.connect())
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        self.assertEqual(re.search(r"Uid:(.*)", status)[1].split(), [str(nobody.pw_uid)] * 4)

    def test_mbox(self):
        """If a maildrop cannot be used, the log has its whole path and what is there."""
        root = self.root(users="joe:{PLAIN}secret\nann:{PLAIN}secret\n")
        (root / "ann").write_bytes(b"From ann@example.org Sat Nov 21 09:52:34 2026\n\nx\n")
        server = self.start(root=root)
        self.assertStartsWith(log_in(server.connect(), "ann"), b"-ERR [SYS/PERM]")
        until(lambda: f": {root}/ann is a file, an mbox perhaps\n" in server.log, "the reason")
        self.assert_serves(server.connect())

    def test_listen(self):
        """--listen may be given more than once, and passwords are accepted on a UNIX socket."""
        root = self.root()
        path = str(root / "socket")
        listen = ("--listen", LOOPBACK, "--listen", f"unix:{path}", "--listen", LOOPBACK)
        server = self.start(*listen, root=root)
        self.assertEqual(len(server.ports), 2)
        for address in (path, *(("127.0.0.1", port) for port in server.ports)):
            self.assert_serves(Connection(address))

    def test_passwords_elsewhere(self):
        """Passwords from another machine require TLS or --allow-plaintext."""
        address = external_address()
        if address is None:
            self.skipTest("this machine only has loopback addresses")
        root = self.root()
        listen = ("--listen", LOOPBACK, "--listen", f"tcp:0:interface={address}")
        server = self.start(*listen, *self.listen_tls(root, address), root=root)
        _, plain, tls = server.ports
        refusal = log_in(Connection((address, plain)))
        self.assertStartsWith(refusal, b"-ERR ")
        self.assertIn(b"without TLS", refusal)
        self.assert_serves(self.connect_tls(root, (address, tls)))
        server.stop()
        server = self.start(*listen, "--allow-plaintext", root=root)
        self.assert_serves(Connection((address, server.ports[1])))

    def test_tls(self):
        """--listen ssl: serves implicit TLS (RFC 8314 section 3.3)."""
        root = self.root()
        server = self.start("--listen", LOOPBACK, *self.listen_tls(root, "127.0.0.1"), root=root)
        self.assert_serves(self.connect_tls(root, ("127.0.0.1", server.ports[1])))

    def listen_tls(self, root, address):
        """Generate a key and a certificate of this address; return the --listen option for TLS."""
        require_programs(self, "openssl")
        arguments = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
        files = ("-keyout", root / "key.pem", "-out", root / "cert.pem")
        run("openssl", *arguments, "-addext", f"subjectAltName=IP:{address}", *files)
        keys = f"privateKey={root}/key.pem:certKey={root}/cert.pem"
        return "--listen", f"ssl:0:{keys}:interface={address}"

    def connect_tls(self, root, address):
        """Return a TLS connection with a verified certificate."""
        context = ssl.create_default_context(cafile=root / "cert.pem")
        return Connection(
            address, wrap=lambda sock: context.wrap_socket(sock, server_hostname=address[0])
        )

    def assert_authenticates(self, auth, root):
        """Log in with a correct and a wrong password to a server with this --auth."""
        server = self.start("--auth", auth, root=root)
        self.assert_serves(server.connect())
        self.assertStartsWith(log_in(server.connect(), "joe", "wrong"), b"-ERR [AUTH]")

    def test_file_checker(self):
        """--auth file: reads users and passwords in Twisted's format."""
        root = self.root(users=None)
        (root / "passwords").write_text("joe:secret\nann:other\n")
        self.assert_authenticates(f"file:{root}/passwords", root)

    def test_memory_checker(self):
        """--auth memory: reads users and passwords from the command line."""
        self.assert_authenticates("memory:joe:secret", self.root(users=None))

    def test_short_timeout(self):
        """A --timeout below ten minutes logs a warning (RFC 1725 section 3)."""
        for seconds, has_warning in (("599", True), ("600", False)):
            server = self.start("--timeout", seconds)
            self.assertEqual("RFC 1725 section 3" in server.log, has_warning)
            server.stop()

    def test_first_user(self):
        """Without users the server starts and logs how to add one, who can log in at once."""
        root = self.root(users=None)
        server = self.start(root=root)
        hint = re.search(r"add the first: (popserv .*)\n", server.log)[1]
        self.assertStartsWith(log_in(server.connect()), b"-ERR [AUTH]")
        command = shlex.split(hint.replace("NAME", "joe"))
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
        """A .tac file can compose a server that works as the plugin does."""
        root = self.root()
        tac = root / "mail.tac"
        tac.write_text(_TAC.format(root=root, listen=LOOPBACK))
        server = self.start(root=root, tac=tac)
        self.assert_serves(server.connect())


_TAC = """\
from twisted.application import service, strports
from twisted.cred.portal import Portal

from popserv.auth.passwords.file_checker import PasswdFileChecker
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
