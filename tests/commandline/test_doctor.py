"""Tests of popserv.commandline.doctor; tests.live has real servers."""

import io
import json
import os
import socket
import time

from twisted.internet.defer import maybeDeferred

from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.commandline import doctor
from popserv.doctor import certificates as certificates_module
from popserv.doctor import logins
from popserv.maildrops import store_diagnosis
from popserv.maildrops.maildir.store import MaildirMaildrops
from tests.certificates import SERVER, issue
from tests.commandline.harness import CommandCase
from tests.doctor.harness import open_directory
from tests.maildrops.maildir.harness import result, run_inline
from tests.migration.harness import CERTIFICATE, FakeServer


class DoctorTests(CommandCase):
    """``popserv doctor`` without a reactor and threads."""

    def setUp(self):
        """Make a server that has nothing wrong with it."""
        super().setUp()
        self.directory = str(open_directory(self))
        self.path = os.path.join(self.directory, ".users")
        self.patch(doctor, "run_in_reactor", result)
        self.patch(doctor._threads, "run", run_inline)
        self.patch(doctor, "clock_state", lambda: 0)
        self.patch(store_diagnosis, "diagnose_file_system", lambda path: [])
        defaults = {**MaildirMaildrops.__init__.__kwdefaults__, "run": run_inline}
        self.patch(MaildirMaildrops.__init__, "__kwdefaults__", defaults)
        self.patch(
            PasswdFileChecker.__init__, "__defaults__", (maybeDeferred, time.time, time.monotonic)
        )
        set_secret(self.path, b"ann", b"{PLAIN}correct horse", new=True)
        for name in ("new", "cur", "tmp"):
            os.makedirs(os.path.join(self.directory, "ann", name))
        os.chmod(os.path.join(self.directory, "ann"), 0o700)
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.port = unused.getsockname()[1]

    def doctor(self, *arguments, listen=None, stdin=None):
        """Run the command with the options of the server; return the code and the lines."""
        listen = listen or f"tcp:{self.port}:interface=127.0.0.1"
        code, out, err = self.run_command(
            ["doctor", "--maildir", self.directory, "--listen", listen, *arguments], stdin
        )
        self.assertEqual(err, "")
        return code, out.splitlines()

    def test_right(self):
        """All that is right is listed, and what could not be checked."""
        code, lines = self.doctor("--uid", str(os.geteuid()))
        self.assertEqual(code, 0)
        self.assertIn("[cleartext-secret]", lines[0])
        self.assertEqual(
            lines[1:],
            [
                *("ok: ports", "ok: clock", "ok: open files", "ok: checkers", "ok: 1 maildrops"),
                "ok: log",
                "errors: 0, warnings: 0, hints: 1, unchecked: 0",
            ],
        )

    def test_root(self):
        """Root is told as whom maildrops are examined; if as root, to name the server's user."""
        self.patch(doctor, "geteuid", lambda: 0)
        for answer, severity in ((False, "unchecked"), (True, "hint")):
            self.patch(doctor, "acts_as_owners", lambda store, answer=answer: answer)
            self.assertTrue(self.doctor()[1][0].startswith(f"{severity}: --uid: "))

    def test_options(self):
        """An invalid option is an error with a remedy, in JSON as well; the exit code is 2."""
        code, lines = self.doctor("--timeout", "0")
        self.assertEqual(code, 2)
        self.assertTrue(lines[0].startswith("error: options: --timeout must be"), lines)
        code, lines = self.doctor("--control", "tcp:1", "--json")
        self.assertEqual(code, 2)
        found = json.loads(lines[0])
        self.assertEqual(found["code"], "options")
        self.assertTrue(found["remedy"].startswith("use one such as"), found)

    def test_maildrops(self):
        """What is wrong with maildrops is told, and they are not called right."""
        os.chmod(os.path.join(self.directory, "ann"), 0o705)
        code, lines = self.doctor("--default-domain", "example.org")
        self.assertEqual(code, 2)
        text = "\n".join(lines)
        for found in ("[maildir-exposed]", "[default-domain]"):
            self.assertIn(found, text)
        self.assertNotIn("ok: 1 maildrops", text)

    def test_short_timeout(self):
        """What the server would log of its options when it starts is told as well."""
        _, lines = self.doctor("--timeout", "5")
        (line,) = [each for each in lines if each.endswith("[log]")]
        self.assertTrue(line.startswith("warning: log: --timeout 5: RFC 1725 section 3"), line)

    def test_log(self):
        """What the server would log is told once."""
        with open(self.path, "ab") as file:
            file.write(b"ann:x\n")
        code, lines = self.doctor()
        self.assertEqual(code, 1)
        self.assertEqual([line for line in lines if "line 2" in line][1:], [])
        self.assertIn("[users-line]", "\n".join(lines))
        rhosts = os.path.join(self.directory, "rhosts")
        with open(rhosts, "w", encoding="ascii") as file:
            file.write("192.0.2.1 ann =\n")
        os.chmod(rhosts, 0o600)
        _, lines = self.doctor("--rhosts", rhosts, "--dialect", "rfc1225")
        self.assertIn("that allow logins without a password: 1", "\n".join(lines))

    def test_checkers(self):
        """A checker without checks of its own is told."""
        _, lines = self.doctor("--auth", "memory:ann:secret")
        self.assertIn("unchecked: --auth: the checker InMemory", "\n".join(lines))

    def test_sockets(self):
        """All sockets are checked, also those where clients do not speak POP3."""
        used = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(used.close)
        code, lines = self.doctor(
            *("--control", "unix:/nowhere/control", "--preauth", "unix:/nowhere/pop3"),
            *("--lmtp", "unix:/nowhere/lmtp"),
            *("--metrics", f"tcp:{used.getsockname()[1]}:interface=127.0.0.1"),
            listen=f"haproxy:tcp:{self.port}:interface=127.0.0.1",
        )
        self.assertEqual(code, 2)
        self.assertEqual(sum("[socket-path]" in line for line in lines), 3)
        self.assertIn("unchecked: --metrics tcp", "\n".join(lines))

    def test_same_port(self):
        """A port that two options name is an error."""
        code, lines = self.doctor("--lmtp", f"tcp:{self.port}:interface=127.0.0.1")
        self.assertEqual(code, 2)
        self.assertRegex(
            "\n".join(lines), r"(?m)^error: --lmtp .*--listen .*as well.*\[port-in-use\]$"
        )

    def test_certificates(self):
        """Certificates are checked, and the name of the server."""
        pem = os.path.join(self.directory, "pem")
        with open(pem, "wb") as file:
            file.write(issue("pop.example.org", usage=[SERVER]).pem())
        os.chmod(pem, 0o600)
        self.patch(certificates_module, "system_store", lambda: None)
        _, lines = self.doctor("--certificate", pem, "--hostname", "pop.example.net")
        text = "\n".join(lines)
        self.assertIn("unchecked: " + pem, text)
        self.assertIn("[certificate-hostname]", text)
        _, lines = self.doctor("--certificate", pem)
        self.assertIn("ok: certificates", lines)

    def stdin(self):
        """Return a standard input with a password."""
        return io.TextIOWrapper(io.BytesIO(b"secret\n"))

    def test_login(self):
        """With --login, programs log in at the ports of the options."""
        server = FakeServer(self, replies={b"STAT": b"+OK 0 0\r\n", b"AUTH ": b"-ERR\r\n"})
        self.patch(logins.time, "sleep", lambda seconds: None)
        code, lines = self.doctor(
            *("--login", "ann", "--preauth", f"unix:{self.directory}/x"),
            listen=f"tcp:{server.port}:interface=127.0.0.1",
            stdin=self.stdin(),
        )
        self.assertEqual(code, 2, lines)
        self.assertIn("[port-in-use]", "\n".join(lines))
        self.assertIn(
            f"ok: --listen tcp:{server.port}:interface=127.0.0.1: Outlook, Thunderbird, "
            "Apple Mail, Gmail, fetchmail, mpop, K-9, QUIT",
            lines,
        )
        self.assertEqual(server.changes, [])

    def test_gmail(self):
        """Gmail uses a port for TLS if there is one."""
        replies = {b"STAT": b"+OK 0 0\r\n", b"AUTH ": b"-ERR\r\n"}
        plain = FakeServer(self, replies=replies)
        secure = FakeServer(self, replies=replies, implicit_tls=True)
        pem = os.path.join(self.directory, "pem")
        with open(pem, "wb") as file:
            file.write(CERTIFICATE.pem())
        _, lines = self.doctor(
            *("--certificate", pem, "--login", "ann"),
            *("--listen-tls", f"tcp:{secure.port}:interface=127.0.0.1"),
            *("--listen-tls", f"tcp6:{secure.port}:interface=\\:\\:1"),
            listen=f"tcp:{plain.port}:interface=127.0.0.1",
            stdin=self.stdin(),
        )
        passed = [line for line in lines if line.startswith("ok: --listen")]
        self.assertEqual(["Gmail" in line for line in passed], [False, True])

    def test_address(self):
        """With --address alone, only that server is looked at."""
        server = FakeServer(self, replies={b"AUTH ": b"-ERR\r\n", b"PASS": b"-ERR no\r\n"})
        arguments = ["doctor", "--address", f"localhost:{server.port}", "--login", "ann"]
        code, out, _ = self.run_command(arguments, self.stdin())
        self.assertEqual(code, 2)
        self.assertIn("[client-login]", out)
        self.assertNotIn("ok: ports", out)
        code, out, _ = self.run_command([*arguments, "--ca-file", "/nowhere"], self.stdin())
        self.assertEqual(code, 2)
        self.assertIn("error: options: --ca-file /nowhere", out)

    def test_interrupted(self):
        """An interrupted command says so."""

        def interrupt(coroutine):
            coroutine.close()
            raise KeyboardInterrupt

        self.patch(doctor, "run_in_reactor", interrupt)
        code, _, err = self.run_command(["doctor", "--maildir", self.directory])
        self.assertEqual((code, err), (1, "popserv: interrupted; nothing was changed\n"))
