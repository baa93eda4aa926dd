"""AUTH: its syntax (RFC 5034 section 4)."""

from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword

from popserv.core.grammar import decode_base64
from popserv.interfaces import ICertificateCredentials
from tests.commands.harness import (
    CANCELLED,
    STRANGER,
    Checker,
    FakeChannel,
    ServerCase,
    anybody,
    encoded,
)
from tests.commands.sasl_harness import EMPTY, NAMELESS, NOT_BASE64, NOT_OFFERED, PLAIN, WELCOME


class SyntaxTests(ServerCase):
    """RFC 5034 section 4."""

    def test_initial_response(self):
        """An initial response saves a turn; the name of the mechanism is of any case."""
        for name in (b"PLAIN", b"plain", b"Plain"):
            client = self.connect()
            line = b"AUTH %b %b" % (name, encoded(PLAIN))
            self.assertEqual(client.send(line), WELCOME)
            client.lose()

    def test_no_initial_response(self):
        """Without one the server asks, with an empty challenge: plus and space."""
        for line in (b"AUTH PLAIN\r\n", b"auth plain \r\n", b"AUTH PLAIN\n"):
            client = self.connect()
            self.assertEqual(client.send(line), EMPTY)
            self.assertEqual(client.send(encoded(PLAIN)), WELCOME)
            client.lose()

    def test_empty_initial_response(self):
        """A "=" is an initial response that is empty, not the lack of one."""
        client = self.connect()
        self.assertEqual(client.send(b"AUTH PLAIN =\r\n"), b"-ERR malformed PLAIN response\r\n")
        self.serve(Checker(anybody, ICertificateCredentials))
        self.tls_state = FakeChannel([b"ann"])
        client = self.connect(tls=True)
        self.assertEqual(client.send(b"AUTH EXTERNAL =\r\n"), NAMELESS)

    def test_empty_response(self):
        """An empty line is an empty response; "=" is none, but in an AUTH line."""
        self.serve(Checker(anybody, ICertificateCredentials))
        self.tls_state = FakeChannel([b"ann"])
        client = self.connect(tls=True)
        self.assertEqual(client.send(b"AUTH EXTERNAL\r\n"), EMPTY)
        self.assertEqual(client.send(b"=\r\n"), NOT_BASE64)
        self.assertEqual(client.send(b"AUTH EXTERNAL\r\n"), EMPTY)
        self.assertIn(b"+OK maildrop has 2", client.send(b"\r\n"))

    def test_cancel(self):
        """A "*" ends the exchange with -ERR, and the next command is one."""
        client = self.connect()
        for lines in ([b"AUTH PLAIN", b"*"], [b"AUTH LOGIN", b"YW5u", b"*"], [b"AUTH PLAIN *"]):
            *first, last = lines
            for line in first:
                self.assertTrue(client.send(line + b"\r\n").startswith(b"+ "))
            self.assertEqual(client.send(last + b"\r\n"), CANCELLED)
            self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")

    def test_strict_base64(self):
        """Each response has one spelling (RFC 4648 section 3.5)."""
        right = b64encode(b"\0ann\0pw")
        for wrong in [
            right.rstrip(b"="),
            right + b"=",
            right[:-3] + b"x==",
            b" " + right,
            right + b" ",
            right + b"\t",
            right[:4] + b" " + right[4:],
            right[:4] + b"\r" + right[4:],
            right.replace(b"A", b"-", 1),
            b"!!!!",
            b"\xff\xff\xff\xff",
            b"**",
            b"* ",
            b"=",
            b"====",
        ]:
            client = self.connect()
            self.assertEqual(client.send(b"AUTH PLAIN\r\n"), EMPTY)
            self.assertEqual(client.send(wrong + b"\r\n"), NOT_BASE64)
            self.assertEqual(client.send(b"AUTH PLAIN\r\n"), EMPTY)
            self.assertEqual(client.send(right + b"\r\n"), WELCOME)
            client.lose()

    @given(st.one_of(st.binary(max_size=9), st.from_regex(rb"[A-Za-d+/=]{0,9}", fullmatch=True)))
    def test_any_response(self, response):
        """A response is what it encodes, or no base64, or the end of the exchange."""
        response = response.replace(b"\n", b"")
        client = self.connect(b"AUTH LOGIN")
        answer = client.send(response + b"\r\n")
        try:
            decode_base64(response)
        except ValueError:
            wanted = CANCELLED if response == b"*" else NOT_BASE64
        else:
            wanted = b"+ UGFzc3dvcmQ6\r\n"
        self.assertEqual(answer, wanted)

    def test_list(self):
        """Without a mechanism AUTH lists them, as old clients expect (RFC 1734's drafts)."""
        for line in (b"AUTH\r\n", b"AUTH \r\n", b"auth\r\n"):
            self.assertEqual(
                self.connect().send(line), b"+OK mechanisms follow\r\nPLAIN\r\nLOGIN\r\n.\r\n"
            )
        client = self.connect(peer=STRANGER)
        self.assertEqual(client.send(b"AUTH\r\n"), b"+OK mechanisms follow\r\n.\r\n")

    def test_unknown(self):
        """An unknown mechanism, and one that is known but not offered, are refused alike."""
        for peer, names in [(None, b"KERBEROS_V4 CRAM-MD5 EXTERNAL PLAI X"), (STRANGER, b"PLAIN")]:
            for name in names.split():
                for more in (b"", b" =", b" " + b64encode(PLAIN)):
                    client = self.connect(**({"peer": peer} if peer else {}))
                    self.assertEqual(client.send(b"AUTH " + name + more + b"\r\n"), NOT_OFFERED)
        client = self.connect()
        self.assertEqual(client.send(b"AUTH \xff\r\n"), NOT_OFFERED)

    def test_arguments(self):
        """A mechanism and one response, no more."""
        self.assertEqual(
            self.connect().send(b"AUTH PLAIN = =\r\n"), b"-ERR at most 2 arguments expected\r\n"
        )
        for line in (b"AUTH  PLAIN\r\n", b"AUTH PLAIN  =\r\n"):
            self.assertIn(b"single spaces", self.connect().send(line))
        self.assertIn(b"control characters", self.connect().send(b"AUTH PLAIN\tx\r\n"))

    def test_server_first(self):
        """A mechanism in which the server begins takes no initial response (section 4)."""
        self.serve(Checker(anybody, IUsernameHashedPassword))
        client = self.connect()
        for initial in (b"=", b"dGlt"):
            self.assertEqual(
                client.send(b"AUTH CRAM-MD5 %b\r\n" % initial),
                b"-ERR mechanism does not accept an initial response\r\n",
            )
        challenge = client.send(b"AUTH CRAM-MD5\r\n")
        self.assertRegex(decode_base64(challenge[2:-2]), rb"^<\d+\.\d+@dewey>$")

    def test_states(self):
        """AUTH is for the AUTHORIZATION state (section 4)."""
        client = self.connect(b"AUTH PLAIN " + b64encode(PLAIN))
        for line in (b"AUTH", b"AUTH PLAIN", b"AUTH PLAIN " + b64encode(PLAIN)):
            self.assertEqual(client.send(line + b"\r\n"), b"-ERR already logged in\r\n")

    def test_no_logins(self):
        """Where nobody can log in there is no AUTH, its list neither."""
        self.serve(require_tls=True)
        refusal = b"-ERR login requires TLS\r\n"
        for line in (b"AUTH\r\n", b"AUTH PLAIN\r\n"):
            self.assertEqual(self.connect().send(line), refusal)

    def test_login(self):
        """LOGIN, with an initial response as some send it, and without."""
        for lines in ([b"AUTH LOGIN", b"YW5u"], [b"AUTH LOGIN YW5u"]):
            client = self.connect()
            answers = [client.send(line + b"\r\n") for line in [*lines, b"cHc="]]
            wanted = [b"+ VXNlcm5hbWU6\r\n", b"+ UGFzc3dvcmQ6\r\n", WELCOME]
            self.assertEqual(answers, wanted[-len(answers) :])
            client.lose()

    def test_session(self):
        """After AUTH the session is as after PASS."""
        client = self.connect()
        client.send(b"AUTH PLAIN " + encoded(PLAIN))
        self.assertEqual(
            client.send(b"STAT\r\nDELE 1\r\n"), b"+OK 2 10\r\n+OK message 1 deleted\r\n"
        )
        client.send(b"QUIT\r\n")
        client.lose()
        self.assertReleased()
        self.assertEqual(len(self.store.stored[b"ann"]), 1)

    def test_odd_name(self):
        """A name that would break the status line is not repeated in it."""
        self.serve(Checker(lambda credentials: b"ann", IUsernamePassword))
        for name in (b"a\r\n+OK", b"\x07", b"\x7f", b"\xc3\xbc", b"a" * 41):
            client = self.connect()
            answer = client.send(b"AUTH PLAIN " + encoded(b"\0" + name + b"\0pw"))
            self.assertEqual(answer, NAMELESS)
            client.lose()
