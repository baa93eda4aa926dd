"""AUTH with the checker of a users file, in complete sessions."""

import os
from base64 import b64encode
from hmac import HMAC
from itertools import count, product

from popserv.auth.hmac_md5 import hmac_md5_context
from popserv.auth.passwords import scram_selection
from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.core.grammar import decode_base64
from popserv.interfaces import ITokenCredentials
from tests.auth.passwords.test_users_file import UsersFileCase
from tests.auth.sasl.harness import ScramClient
from tests.commands.harness import (
    LOGIN_FAILED,
    CommandTestCase,
    FakeTLSState,
    response_line,
)
from tests.commands.sasl_harness import (
    NOT_AVAILABLE,
    WELCOME,
)


class UsersFileTests(UsersFileCase, CommandTestCase):
    """SCRAM, CRAM-MD5 and EXTERNAL with a users file."""

    def setUp(self):
        """Use few iterations, so that keys take little time."""
        UsersFileCase.setUp(self)
        CommandTestCase.setUp(self)
        self.patch(scram_selection, "SCRAM_ITERATIONS", 7)

        async def here(function, *args):
            return function(*args)

        self.serve(PasswdFileChecker(self.path, here, monotonic=count().__next__))

    def log_in(self, name, password=b"pw", hash_name="sha256", size=None, mechanism=None):
        """Log in by SCRAM; return the last reply."""
        client = self.connect(tls=True)
        scram = ScramClient(hash_name, password, name=name)
        mechanism = mechanism or (b"SCRAM-SHA-256" if hash_name == "sha256" else b"SCRAM-SHA-1")
        reply = client.send(b"AUTH %b %b" % (mechanism, response_line(scram(b""))))
        while reply.startswith(b"+ "):
            self.challenge = decode_base64(reply[2:-2])
            reply = client.send_and_wait(response_line(scram(self.challenge)))
        client.lose()
        return reply

    def test_scram(self):
        """SCRAM works with SCRAM records and with cleartext passwords."""
        self.write(b"ann:%b\nbob:{PLAIN}pw" % new_scram_sha256(b"pw", 5))
        self.assertEqual(self.log_in(b"ann"), WELCOME)
        self.assertEqual(self.log_in(b"bob"), b"+OK bob's maildrop has 0 messages (0 octets)\r\n")
        for name, password in [(b"ann", b"no"), (b"bob", b"no"), (b"bob", b""), (b"eve", b"pw")]:
            self.assertEqual(self.log_in(name, password), LOGIN_FAILED)
        self.assert_released(2)

    def test_sha1(self):
        """SCRAM-SHA-1 is available only if all users can use it."""
        self.write(b"ann:%b\nbob:{PLAIN}pw" % new_scram_sha256(b"pw", 5))
        names = [b"SCRAM-SHA-256", b"PLAIN", b"LOGIN"]
        self.assertEqual(self.connect().mechanisms(), names)
        self.assertEqual(self.log_in(b"bob", hash_name="sha1"), NOT_AVAILABLE)
        self.write(b"bob:{PLAIN}pw")
        self.assertIn(b"+OK bob's", self.log_in(b"bob", hash_name="sha1"))
        self.assertEqual(self.log_in(b"bob", b"no", hash_name="sha1"), LOGIN_FAILED)
        self.write(b"ann:{SSHA}x\nbob:{PLAIN}pw")
        self.assertEqual(self.connect().mechanisms(), names[1:])

    def test_unknown_users(self):
        """An unknown user gets a challenge like any other, with the same salt each time."""
        self.write(b"ann:%b" % new_scram_sha256(b"pw", 5))
        salts = set()
        for _ in range(3):
            self.assertEqual(self.log_in(b"eve", b"pw"), LOGIN_FAILED)
            _, salt, rounds = self.challenge.split(b",")
            salts.add(salt)
            self.assertEqual(rounds, b"i=5")
        self.assertEqual(len(salts), 1)

    def test_file_removed(self):
        """If the users file is removed during an exchange, the login fails."""
        self.write(b"ann:{PLAIN}pw")
        client = self.connect()
        scram = ScramClient("sha256", b"pw", name=b"ann")
        reply = client.send(b"AUTH SCRAM-SHA-256 " + response_line(scram(b"")))
        os.unlink(self.path)
        reply = client.send(response_line(scram(decode_base64(reply[2:-2]))))
        self.assertTrue(reply.startswith(b"+ "))
        self.assertTrue(client.send(b"\r\n").startswith(b"-ERR [SYS/TEMP]"))

    def test_last_step(self):
        """A client that cancels after the server's signature is not logged in."""
        self.write(b"ann:{PLAIN}pw")
        for end in (b"*", b"eA=="):
            client = self.connect()
            scram = ScramClient("sha256", b"pw", name=b"ann")
            reply = client.send(b"AUTH SCRAM-SHA-256 " + response_line(scram(b"")))
            reply = client.send(response_line(scram(decode_base64(reply[2:-2]))))
            self.assertTrue(reply.startswith(b"+ "))
            self.assertEqual(client.send_and_wait(end + b"\r\n"), LOGIN_FAILED)
            self.assertEqual(client.send(b"STAT\r\n"), b"-ERR log in first\r\n")
        self.assert_released(0)

    def test_cram(self):
        """CRAM-MD5 works if all passwords are stored as cleartext or as the state of HMAC-MD5."""
        fields = b"{PLAIN}pw", b"{CRAM-MD5}" + hmac_md5_context(b"pw").hex().encode()
        for field, name in product(fields, (b"ann", b"Ann")):
            self.write(b"ann:" + field)
            for password, expected in ((b"pw", WELCOME), (b"no", LOGIN_FAILED)):
                client = self.connect()
                challenge = decode_base64(client.send(b"AUTH CRAM-MD5\r\n")[2:-2])
                digest = HMAC(password, challenge, "md5").hexdigest().encode()
                response = response_line(name + b" " + digest)
                self.assertEqual(client.send_and_wait(response), expected)
                client.lose()

    def test_external(self):
        """EXTERNAL works for the names in the client certificate."""
        self.write(b"ann:%b" % new_scram_sha256(b"pw", 5))
        self.tls_state = FakeTLSState([b"office", b"ann"])
        for response, expected in [
            (b"=", WELCOME),
            (b64encode(b"ann"), WELCOME),
            (b64encode(b"office"), LOGIN_FAILED),
            (b64encode(b"eve"), LOGIN_FAILED),
        ]:
            client = self.connect(tls=True)
            self.assertEqual(client.send_and_wait(b"AUTH EXTERNAL %b\r\n" % response), expected)
            client.lose()

    def test_all_credentials(self):
        """The checker supports the credentials of all mechanisms, except tokens."""
        makes = {each.credentials for each in MECHANISMS}
        self.assertLessEqual(
            makes - {ITokenCredentials}, set(PasswdFileChecker.credentialInterfaces)
        )
