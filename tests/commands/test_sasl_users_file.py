"""AUTH with the checker of a users file, in whole sessions."""

import os
from base64 import b64encode
from hmac import HMAC

from popserv.auth.passwords import checker as passwd
from popserv.auth.passwords.checker import PasswdFileChecker
from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.core.grammar import decode_base64
from popserv.interfaces import ITokenCredentials
from tests.auth.passwords.test_users_file import UsersFileCase
from tests.auth.sasl.test_scram import Client as ScramClient
from tests.commands.harness import (
    REFUSED,
    FakeChannel,
    ServerCase,
    encoded,
)
from tests.commands.sasl_harness import (
    NOT_OFFERED,
    WELCOME,
)


class UsersFileTests(UsersFileCase, ServerCase):
    """Whole sessions with the checker of a users file."""

    def setUp(self):
        """Make keys cheap."""
        UsersFileCase.setUp(self)
        ServerCase.setUp(self)
        self.patch(passwd, "SCRAM_ROUNDS", 7)

        async def here(function, *args):
            return function(*args)

        self.serve(PasswdFileChecker(self.path, here))

    def exchange(self, name, password=b"pw", hash_name="sha256", size=None, mechanism=None):
        """Log in by SCRAM; return the server's last answer."""
        client = self.connect(tls=True)
        scram = ScramClient(hash_name, password, name=name)
        mechanism = mechanism or (b"SCRAM-SHA-256" if hash_name == "sha256" else b"SCRAM-SHA-1")
        answer = client.send(b"AUTH %b %b" % (mechanism, encoded(scram(b""))))
        while answer.startswith(b"+ "):
            self.told = decode_base64(answer[2:-2])
            answer = client.late(encoded(scram(self.told)))
        client.lose()
        return answer

    def test_scram(self):
        """A user gets in by the right password, with a record of either kind."""
        self.write(b"ann:%b\nbob:{PLAIN}pw" % new_scram_sha256(b"pw", 5))
        self.assertEqual(self.exchange(b"ann"), WELCOME)
        self.assertEqual(self.exchange(b"bob"), b"+OK bob's maildrop has 0 messages (0 octets)\r\n")
        for name, password in [(b"ann", b"no"), (b"bob", b"no"), (b"bob", b""), (b"eve", b"pw")]:
            self.assertEqual(self.exchange(name, password), REFUSED)
        self.assertReleased(2)

    def test_sha1(self):
        """SCRAM-SHA-1 is offered only if all records can serve it."""
        self.write(b"ann:%b\nbob:{PLAIN}pw" % new_scram_sha256(b"pw", 5))
        names = [b"SCRAM-SHA-256", b"PLAIN", b"LOGIN"]
        self.assertEqual(self.connect().mechanisms(), names)
        self.assertEqual(self.exchange(b"bob", hash_name="sha1"), NOT_OFFERED)
        self.write(b"bob:{PLAIN}pw")
        self.assertIn(b"+OK bob's", self.exchange(b"bob", hash_name="sha1"))
        self.assertEqual(self.exchange(b"bob", b"no", hash_name="sha1"), REFUSED)
        self.write(b"ann:{SSHA}x\nbob:{PLAIN}pw")
        self.assertEqual(self.connect().mechanisms(), names[1:])

    def test_unknown_users(self):
        """An unknown name is challenged as a user is, always alike."""
        self.write(b"ann:%b" % new_scram_sha256(b"pw", 5))
        salts = set()
        for _ in range(3):
            self.assertEqual(self.exchange(b"eve", b"pw"), REFUSED)
            _, salt, rounds = self.told.split(b",")
            salts.add(salt)
            self.assertEqual(rounds, b"i=5")
        self.assertEqual(len(salts), 1)

    def test_file_changes_in_mid_dialogue(self):
        """A users file that is gone when the exchange ends lets nobody in."""
        self.write(b"ann:{PLAIN}pw")
        client = self.connect()
        scram = ScramClient("sha256", b"pw", name=b"ann")
        answer = client.send(b"AUTH SCRAM-SHA-256 " + encoded(scram(b"")))
        os.unlink(self.path)
        answer = client.send(encoded(scram(decode_base64(answer[2:-2]))))
        self.assertTrue(answer.startswith(b"+ "))
        self.assertTrue(client.send(b"\r\n").startswith(b"-ERR [SYS/TEMP]"))

    def test_last_step(self):
        """A client that breaks off at the server's signature is not logged in."""
        self.write(b"ann:{PLAIN}pw")
        for end in (b"*", b"eA=="):
            client = self.connect()
            scram = ScramClient("sha256", b"pw", name=b"ann")
            answer = client.send(b"AUTH SCRAM-SHA-256 " + encoded(scram(b"")))
            answer = client.send(encoded(scram(decode_base64(answer[2:-2]))))
            self.assertTrue(answer.startswith(b"+ "))
            self.assertEqual(client.late(end + b"\r\n"), REFUSED)
            self.assertEqual(client.send(b"STAT\r\n"), b"-ERR log in first\r\n")
        self.assertReleased(0)

    def test_cram(self):
        """CRAM-MD5 where all passwords stand in the clear."""
        self.write(b"ann:{PLAIN}pw")
        for password, wanted in ((b"pw", WELCOME), (b"no", REFUSED)):
            client = self.connect()
            challenge = decode_base64(client.send(b"AUTH CRAM-MD5\r\n")[2:-2])
            digest = HMAC(password, challenge, "md5").hexdigest().encode()
            self.assertEqual(client.late(encoded(b"ann " + digest)), wanted)
            client.lose()

    def test_external(self):
        """EXTERNAL where TLS vouches for a user's name."""
        self.write(b"ann:%b" % new_scram_sha256(b"pw", 5))
        self.tls_state = FakeChannel([b"office", b"ann"])
        for response, wanted in [
            (b"=", WELCOME),
            (b64encode(b"ann"), WELCOME),
            (b64encode(b"office"), REFUSED),
            (b64encode(b"eve"), REFUSED),
        ]:
            client = self.connect(tls=True)
            self.assertEqual(client.late(b"AUTH EXTERNAL %b\r\n" % response), wanted)
            client.lose()

    def test_mechanisms_are_whole(self):
        """All that a users file can serve is in the table."""
        makes = {each.credentials for each in MECHANISMS}
        self.assertLessEqual(
            makes - {ITokenCredentials}, set(PasswdFileChecker.credentialInterfaces)
        )
