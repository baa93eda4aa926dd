"""A server whose users are in a directory, while the directory comes and goes."""

from tests.auth.ldap.harness import SEARCH, add_user
from tests.live.harness import (
    Server,
    ServerTestCase,
    deliver,
    require_programs,
    temporary_directory,
)
from tests.live.slapd import Slapd, program


class LDAPTests(ServerTestCase):
    """``--auth ldap:FILE`` with a real slapd."""

    def test_server(self):
        """A user logs in; while the directory is away nobody does, and one line says so."""
        if not program():
            require_programs(self, "slapd")
        directory = Slapd(self)
        directory.add("", objectClass=["dcObject", "organization"], o=["x"])
        directory.add("ou=people", objectClass=["organizationalUnit"])
        add_user(directory, "ann", "secret")
        file = temporary_directory(self) / "ldap.toml"
        file.write_text(f"urls = ['{directory.url}']\nca-file = '{directory.ca_file}'\n{SEARCH}")
        file.chmod(0o600)
        server = Server("--auth", f"ldap:{file}")
        self.addCleanup(server.stop)
        # The server of this test, for tearDown.
        ServerTestCase._current = LDAPTests, server
        deliver(server.root / "ann", [b"hello\n"])

        def reply(name, password):
            connection = server.connect()
            connection.ask(b"USER " + name)
            reply = connection.ask(b"PASS " + password)
            connection.close()
            return reply

        self.assertIn(b"+OK ann's maildrop has 1 message", reply(b"ANN", b"secret"))
        self.assertIn(b"-ERR [AUTH]", reply(b"ann", b"wrong"))
        self.assertNotIn("wrong\n", server.log.replace("wrong password", ""))
        directory.stop()
        for _ in range(2):
            self.assertIn(b"-ERR [SYS/TEMP]", reply(b"ann", b"secret"))
        self.assertEqual(server.log.count("ldap.toml: the directory cannot be asked"), 1)
        directory.start()
        self.assertIn(b"+OK", reply(b"ann", b"secret"))
        self.assertEqual(server.log.count("ldap.toml: the directory answers again"), 1)
