"""Tests of popserv.auth.passwords.login_methods."""

from popserv.auth.passwords.login_methods import methods_of
from popserv.auth.passwords.users_file import UsersFile
from tests.auth.passwords.test_users_file import UsersFileCase


class MethodsTests(UsersFileCase):
    """methods_of; the tests of the checker are those of supports."""

    def methods(self, text):
        """Return the methods of the first user in a file."""
        self.write(text)
        users = UsersFile(self.path).read()
        return list(methods_of(users, users.by_name[b"ann"]))

    def test_methods(self):
        """A user has APOP, or what works with all passwords, or without one a certificate."""
        everything = ["password", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"]
        for text, methods in (
            (b"ann:{APOP}a", ["APOP"]),
            (b"ann:", ["certificate"]),
            (b"ann:{PLAIN}a", everything),
            (b"ann:{PLAIN}a\nbob:{SHA}a", ["password"]),
        ):
            self.assertEqual(self.methods(text), methods)
