"""``--auth dovecot:PATH`` with a real Dovecot."""

import json
import os
import signal
from base64 import b64encode
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.live.dovecot_auth import DovecotAuth, token_of
from tests.live.harness import (
    Server,
    deliver,
    require_programs,
    run,
    temporary_directory,
    until,
)


class DovecotAuthCase(SynchronousTestCase):
    """Has a Dovecot, and starts servers that ask it."""

    def serve(self, dovecot, *options):
        """Start a server that asks Dovecot, each time unless the options say otherwise."""
        server = Server("--auth", f"dovecot:{dovecot.path}", "--auth-cache", "0", *options)
        self.addCleanup(server.stop)
        return server

    def attempt(self, server, name, password="secret"):
        """Return the reply to a password."""
        connection = server.connect()
        connection.ask(b"USER " + name.encode())
        reply = connection.ask(b"PASS " + password.encode())
        if reply.startswith(b"+OK"):
            connection.close()
        connection.abandon()
        return reply

    def capabilities(self, server):
        """Return the mechanisms that CAPA shows, and its other lines."""
        connection = server.connect()
        self.addCleanup(connection.abandon)
        connection.ask(b"CAPA")
        lines = connection.lines()
        sasl = [line for line in lines if line.startswith(b"SASL ")]
        return sasl[0].decode().split()[1:] if sasl else [], lines


class LoginTests(DovecotAuthCase):
    """Logins with all mechanisms."""

    def test_mechanisms(self):
        """Each mechanism that Dovecot offers works with mail programs, and is refused rightly."""
        require_programs(self, "mpop", "curl")
        dovecot = DovecotAuth(self)
        dovecot.start()
        server = self.serve(dovecot)
        offered, lines = self.capabilities(server)
        self.assertEqual(
            offered,
            "SCRAM-SHA-256 SCRAM-SHA-1 OAUTHBEARER XOAUTH2 CRAM-MD5 DIGEST-MD5 PLAIN LOGIN".split(),
        )
        self.assertIn(b"USER", lines)
        for mechanism in (
            "SCRAM-SHA-256",
            "SCRAM-SHA-1",
            "CRAM-MD5",
            "DIGEST-MD5",
            "PLAIN",
            "user",
        ):
            self.assertEqual(self.mpop(server, mechanism, "secret"), 0, mechanism)
        self.assertNotEqual(self.mpop(server, "SCRAM-SHA-256", "wrong"), 0)
        for mechanism in ("XOAUTH2", "OAUTHBEARER", "LOGIN"):
            self.assertEqual(self.curl(server, mechanism, token_of("ann")), 0, mechanism)
        self.assertNotEqual(self.curl(server, "OAUTHBEARER", token_of("bob")), 0)
        for mechanism in ("SCRAM-SHA-256", "DIGEST-MD5", "PLAIN", "PASS", "LOGIN", "OAUTHBEARER"):
            self.assertIn(f'"ann" logged in by {mechanism}, no TLS', server.log)
        self.assertRegex(server.log, 'login of ".*" by SCRAM-SHA-256 failed: refused by Dovecot')
        self.assertNotIn("secret", server.log)
        self.assertRegex(
            dovecot.log,
            "service=pop3\tsecured\trip=127.0.0.1\trport=[0-9]+\tlip=127.0.0.1\t"
            f"lport={server.port}\tnologin\tresp=<hidden>",
        )

    def mpop(self, server, mechanism, password):
        """Log in with mpop; return its exit code."""
        home = temporary_directory(self)
        rc = home / "rc"
        rc.write_text(
            f"account default\nhost 127.0.0.1\nport {server.port}\ntls off\n"
            f"auth {mechanism.lower()}\nuser ann\npassword {password}\n"
            f"uidls_file {home}/uidls\ndelivery mbox {home}/mbox\n"
        )
        rc.chmod(0o600)
        return run("mpop", "--file", rc).returncode

    def curl(self, server, mechanism, token):
        """Log in with curl; return its exit code."""
        arguments = () if mechanism == "LOGIN" else ("--oauth2-bearer", token)
        return run(
            *("curl", "--silent", "--user", "ann:secret", *arguments),
            *("--login-options", f"AUTH={mechanism}", f"pop3://127.0.0.1:{server.port}/"),
        ).returncode

    def test_decisions(self):
        """Dovecot decides who may log in, from where, and which maildrop is opened."""
        dovecot = DovecotAuth(self)
        dovecot.start()
        server = self.serve(dovecot)
        self.assertTrue(self.attempt(server, "Ann").startswith(b"+OK ann's maildrop"))
        self.assertTrue(self.attempt(server, "eve").startswith(b"+OK dora's maildrop"))
        reply = self.attempt(server, "ann", "x\tskip_password_check=\tnopassword=")
        self.assertEqual(reply, b"-ERR [AUTH] authentication failed")
        for name, reason in (
            ("carl", "nologin is set"),
            ("dan", "unknown user or wrong password"),
            ("frank", "the mail is on another server"),
            ("nobody", "unknown user or wrong password"),
        ):
            self.assertEqual(self.attempt(server, name), b"-ERR [AUTH] authentication failed")
            line = f'login of "{name}" by PASS failed: refused by Dovecot: {reason}\n'
            self.assertIn(line, server.log)

    def test_fields(self):
        """Fields of popserv in Dovecot's reply are settings of the user, with every mechanism."""
        require_programs(self, "curl")
        dovecot = DovecotAuth(self)
        dovecot.start()
        server = self.serve(dovecot)
        deliver(server.root / "hal", [b"hello\n"])
        connection = server.login("hal")
        self.assertIn(b"-ERR [SYS/PERM] maildrop is read-only", connection.ask(b"DELE 1"))
        connection.close()
        self.assertEqual(self.attempt(server, "ida"), b"-ERR [AUTH] authentication failed")
        url = f"pop3://127.0.0.1:{server.port}/"
        for mechanism in ("CRAM-MD5", "PLAIN"):
            done = run(
                *("curl", "--silent", "--user", "ida:secret"),
                *("--login-options", f"AUTH={mechanism}", url),
            )
            self.assertNotEqual(done.returncode, 0)
        self.assertEqual(server.log.count("failed: popserv_nologin is set\n"), 3)

    def test_apop(self):
        """Where Dovecot offers APOP and no PLAIN, APOP is what clients can use."""
        require_programs(self, "curl")
        dovecot = DovecotAuth(self, "apop cram-md5")
        dovecot.start()
        server = self.serve(dovecot)
        greeting = until(lambda: b"<" in (found := self.greeting(server)) and found, "a timestamp")
        self.assertRegex(greeting, rb"^\+OK .* <[0-9a-f.]+@.+>$")
        self.assertEqual(self.capabilities(server)[0], ["CRAM-MD5"])
        url = f"pop3://127.0.0.1:{server.port}/"
        for password, is_right in (("secret", True), ("wrong", False)):
            done = run(
                "curl",
                "--silent",
                "--user",
                f"ann:{password}",
                "--login-options",
                "AUTH=+APOP",
                url,
            )
            self.assertEqual(done.returncode == 0, is_right)
        self.assertIn('"ann" logged in by APOP', server.log)

    def greeting(self, server):
        """Return a greeting."""
        connection = server.connect()
        connection.abandon()
        return connection.greeting

    def test_long_response(self):
        """A response that is too long for Dovecot does not break the logins of others."""
        dovecot = DovecotAuth(self)
        dovecot.start()
        server = self.serve(dovecot)
        connection = server.connect()
        self.addCleanup(connection.abandon)
        for length in (6_200, 13_000, 70_000):
            initial = b64encode(b"n,,n=ann,r=" + b"x" * length)
            self.assertTrue(connection.ask(b"AUTH SCRAM-SHA-1 " + initial).startswith(b"-ERR"))
        self.assertTrue(self.attempt(server, "ann").startswith(b"+OK"))
        self.assertNotIn("sent us more than", dovecot.log)
        self.assertNotIn("connection to Dovecot lost", server.log)


class CacheTests(DovecotAuthCase):
    """``--auth-cache`` and the order of checkers."""

    def change(self, dovecot, old, new):
        """Change ann's password in Dovecot."""
        users = dovecot.home / "users"
        users.write_text(users.read_text().replace(f"ann:{old}", f"ann:{new}"))

    def accepts(self, server, password):
        """Return whether a password of ann's is accepted."""
        return self.attempt(server, "ann", password).startswith(b"+OK")

    def test_remembered(self):
        """A changed password is accepted until SIGHUP, or the user logs in with the new one."""
        dovecot = DovecotAuth(self)
        dovecot.start()
        server = self.serve(dovecot, "--auth-cache", "1000")
        self.assertTrue(self.accepts(server, "secret"))
        self.change(dovecot, "secret", "changed")
        self.assertTrue(self.accepts(server, "secret"))
        until(partial(self.accepts, server, "changed"), "the new password")
        self.assertFalse(self.accepts(server, "secret"))
        self.change(dovecot, "changed", "third")
        self.assertTrue(self.accepts(server, "changed"))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: not self.accepts(server, "changed"), "the end of the old password")

    def test_popserv_reload(self):
        """Popserv reload makes all workers forget the passwords that were verified."""
        dovecot = DovecotAuth(self)
        dovecot.start()
        control = f"unix:{temporary_directory(self)}/control"
        options = ("--auth-cache", "1000", "--workers", "2", "--control", control)
        server = self.serve(dovecot, *options)

        def remembered():
            status = json.loads(run("popserv", "status", "--json", "--control", control).stdout)
            return status["caches"]["passwords"]

        until(
            lambda: self.accepts(server, "secret") and remembered() == 2, "a login at each worker"
        )
        self.change(dovecot, "secret", "changed")
        self.assertTrue(self.accepts(server, "secret"))

        def is_forgotten():
            self.assertEqual(run("popserv", "reload", "--control", control).returncode, 0)
            until(lambda: remembered() == 0, "the end of what was remembered")
            # Dovecot itself may accept it for another moment.
            return not any(self.accepts(server, "secret") for _ in range(8))

        until(is_forgotten, "the end of the old password")

    def test_not_remembered(self):
        """With --auth-cache 0, Dovecot is asked each time."""
        dovecot = DovecotAuth(self)
        dovecot.start()
        server = self.serve(dovecot, "--auth-cache", "0")
        self.assertTrue(self.accepts(server, "secret"))
        self.change(dovecot, "secret", "changed")
        until(lambda: not self.accepts(server, "secret"), "the end of the old password")

    def test_users_file_first(self):
        """A name in a users file is decided there, and Dovecot decides about the others."""
        dovecot = DovecotAuth(self)
        dovecot.start()
        path = temporary_directory(self) / "users"
        path.write_text("eve:{PLAIN}local\nann:!\n")
        path.chmod(0o600)
        server = Server("--auth", f"passwd-file:{path}", "--auth", f"dovecot:{dovecot.path}")
        self.addCleanup(server.stop)
        self.assertEqual(self.capabilities(server)[0], ["PLAIN", "LOGIN"])
        for name, password, accepted in (
            ("eve", "local", b"+OK eve"),
            ("eve", "secret", b"-ERR [AUTH]"),
            ("ann", "secret", b"-ERR [AUTH]"),
            ("Ann", "secret", b"-ERR [AUTH]"),
            ("gina", "secret", b"+OK gina"),
        ):
            self.assertTrue(self.attempt(server, name, password).startswith(accepted), name)


class RestartTests(DovecotAuthCase):
    """Dovecot comes and goes."""

    def test_restart(self):
        """Logins fail as temporary while Dovecot is away; nothing need be done when it is back."""
        dovecot = DovecotAuth(self)
        server = self.serve(dovecot)
        until(lambda: "cannot connect to Dovecot" in server.log, "the problem in the log")
        dovecot.start()
        until(lambda: "connected to Dovecot again" in server.log, "a connection")
        self.assertTrue(self.attempt(server, "ann").startswith(b"+OK"))
        dovecot.stop()
        until(lambda: "connection to Dovecot lost" in server.log, "the end of Dovecot")
        # The mechanisms stay, so that clients do not choose weaker ones.
        self.assertIn("SCRAM-SHA-256", self.capabilities(server)[0])
        reply = self.attempt(server, "ann")
        self.assertEqual(reply, b"-ERR [SYS/TEMP] temporary failure, try again later")
        dovecot.start()
        self.assertTrue(self.attempt(server, "ann").startswith(b"+OK"))

    def test_privileges(self):
        """The socket is opened as the user of --uid, and the log names who lacks permission."""
        if os.geteuid():
            self.skipTest("requires root")
        dovecot = DovecotAuth(self)
        dovecot.start()
        os.chmod(Path(dovecot.path), 0o600)
        os.chown(Path(dovecot.path), 0, 0)
        server = Server(
            "--auth", f"dovecot:{dovecot.path}", twistd=("--uid", "nobody", "--gid", "nogroup")
        )
        self.addCleanup(server.stop)
        line = "cannot connect to Dovecot: Permission denied for user nobody; until then"
        until(lambda: line in server.log, "the problem in the log")
        os.chmod(Path(dovecot.path), 0o666)
        until(lambda: "connected to Dovecot again" in server.log, "a connection")
        self.assertTrue(self.attempt(server, "ann").startswith(b"+OK"))
