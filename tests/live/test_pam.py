"""``--auth pam:SERVICE`` with the real PAM, whose services a test writes to /etc/pam.d."""

import os
import secrets
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.live.harness import Server, require_programs, temporary_directory


class PAMTests(SynchronousTestCase):
    """Services of PAM."""

    def setUp(self):
        """Skip the test without the rights to write a service."""
        if os.geteuid():
            self.skipTest("requires root")

    def add_system_user(self):
        """Return the name and the password of a new user of the system."""
        name, password = f"popserv{secrets.token_hex(4)}", secrets.token_hex(8)
        subprocess.check_call(["useradd", "-M", "-s", "/usr/sbin/nologin", name])
        self.addCleanup(subprocess.check_call, ["userdel", name], stderr=subprocess.DEVNULL)
        subprocess.run(["chpasswd"], input=f"{name}:{password}\n".encode(), check=True)
        return name, password

    def serve(self, service, **options):
        """Start a server with a service that has these lines, which is asked each time."""
        name = f"popserv-test-{secrets.token_hex(4)}"
        path = Path("/etc/pam.d", name)
        path.write_text(service)
        self.addCleanup(path.unlink)
        server = Server("--auth", f"pam:{name}", "--auth-cache", "0", **options)
        self.addCleanup(server.stop)
        return server

    def attempt(self, server, name, password="secret"):
        """Return the reply to a password."""
        connection = server.connect()
        self.addCleanup(connection.abandon)
        connection.ask(b"USER " + name.encode())
        reply = connection.ask(b"PASS " + password.encode())
        self.assertNotIn(password, server.log)
        return reply

    def test_permit(self):
        """What PAM permits is permitted, and what it denies is denied, in both phases."""
        server = self.serve("auth required pam_permit.so\naccount required pam_permit.so\n")
        self.assertTrue(self.attempt(server, "ann").startswith(b"+OK ann's maildrop"))
        for service in (
            "auth required pam_deny.so\naccount required pam_permit.so\n",
            "auth required pam_permit.so\naccount required pam_deny.so\n",
        ):
            server = self.serve(service)
            reply = self.attempt(server, "ann")
            self.assertEqual(reply, b"-ERR [AUTH] authentication failed")
            self.assertIn('login of "ann" by PASS failed: refused by PAM: ', server.log)

    def test_missing_module(self):
        """If a module is missing, the login fails as temporary."""
        server = self.serve("auth required pam_nonesuch.so\naccount required pam_permit.so\n")
        for _ in range(2):
            self.assertTrue(self.attempt(server, "ann").startswith(b"-ERR [SYS/TEMP]"))
        self.assertEqual(server.log.count("of PAM cannot be asked, and logins are refused"), 1)

    def test_system_users(self):
        """Users of the system log in with their passwords, until their accounts expire."""
        require_programs(self, "useradd", "userdel", "chpasswd", "chage")
        name, password = self.add_system_user()
        server = self.serve("auth required pam_unix.so\naccount required pam_unix.so\n")
        self.assertTrue(self.attempt(server, name, password).startswith(b"+OK"))
        refused = b"-ERR [AUTH] authentication failed"
        self.assertEqual(self.attempt(server, name, "mistaken"), refused)
        self.assertEqual(self.attempt(server, f"{name}x", password), refused)
        subprocess.check_call(["chage", "-E", "1", name])
        self.assertEqual(self.attempt(server, name, password), refused)
        self.assertIn("refused by PAM: the account has expired", server.log)
        subprocess.check_call(["chage", "-E", "-1", "-d", "0", name])
        self.assertEqual(self.attempt(server, name, password), refused)
        self.assertIn("refused by PAM: the password has expired", server.log)
        self.assertNotIn(password, server.log)

    def test_group_shadow(self):
        """A member of the group shadow verifies passwords, also if it cannot gain privileges."""
        require_programs(self, "useradd", "userdel", "chpasswd", "setpriv")
        name, password = self.add_system_user()
        service = "auth required pam_unix.so\naccount required pam_unix.so\n"
        for group, replies in (
            ("shadow", (b"+OK", b"-ERR [AUTH]")),
            ("daemon", (b"-ERR [SYS",) * 2),
        ):
            twistd = ("--uid", "daemon", "--gid", group)
            server = self.serve(service, twistd=twistd, prefix=("setpriv", "--no-new-privs"))
            for given, reply in zip((password, "mistaken"), replies, strict=True):
                self.assertEqual(self.attempt(server, name, given)[: len(reply)], reply)

    def test_program(self):
        """A module gets the password, the name and the client's address, and stops nobody."""
        program = temporary_directory(self) / "program"
        program.write_text(
            "#!/bin/sh\npassword=$(tr -d '\\000')\n"
            '[ "$PAM_USER" = slow ] && exec sleep 20\n'
            '[ "$PAM_USER $PAM_RHOST $password" = "ann 127.0.0.1 secret" ]\n'
        )
        program.chmod(0o755)
        server = self.serve(
            f"auth required pam_exec.so expose_authtok quiet {program}\n"
            "account required pam_permit.so\n"
        )
        connection = server.connect()
        self.addCleanup(connection.abandon)
        connection.ask(b"USER slow")
        connection.socket.sendall(b"PASS secret\r\n")
        self.assertTrue(self.attempt(server, "ann").startswith(b"+OK"))
        self.assertTrue(self.attempt(server, "bob").startswith(b"-ERR [AUTH]"))
