"""AUTH: its syntax, and complete exchanges (RFC 5034 section 4)."""

from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword

from popserv.core.grammar import decode_base64
from popserv.interfaces import ICertificateCredentials
from tests.commands.harness import (
    CANCELLED,
    REMOTE_PEER,
    Checker,
    CommandTestCase,
    FakeTLSState,
    accept_all,
    response_line,
)
from tests.commands.sasl_harness import (
    EMPTY,
    NOT_AVAILABLE,
    NOT_BASE64,
    PLAIN,
    WELCOME,
    WELCOME_WITHOUT_NAME,
)


class AuthTests(CommandTestCase):
    """The AUTH command (RFC 5034 section 4)."""

    def test_initial_response(self):
        """An initial response follows the mechanism, whose case does not matter."""
        for name in (b"PLAIN", b"plain", b"Plain"):
            client = self.connect()
            line = b"AUTH %b %b" % (name, response_line(PLAIN))
            self.assertEqual(client.send(line), WELCOME)
            client.lose()

    def test_no_initial_response(self):
        """Without an initial response the server sends an empty challenge."""
        for line in (b"AUTH PLAIN\r\n", b"auth plain \r\n", b"AUTH PLAIN\n"):
            client = self.connect()
            self.assertEqual(client.send(line), EMPTY)
            self.assertEqual(client.send(response_line(PLAIN)), WELCOME)
            client.lose()

    def test_empty_initial_response(self):
        """``=`` stands for an empty initial response."""
        client = self.connect()
        self.assertEqual(client.send(b"AUTH PLAIN =\r\n"), b"-ERR malformed PLAIN response\r\n")
        self.serve(Checker(accept_all, ICertificateCredentials))
        self.tls_state = FakeTLSState([b"ann"])
        client = self.connect(tls=True)
        self.assertEqual(client.send(b"AUTH EXTERNAL =\r\n"), WELCOME_WITHOUT_NAME)

    def test_empty_response(self):
        """An empty line is an empty response, and so is ``=``, but only to an empty challenge."""
        self.serve(Checker(accept_all, ICertificateCredentials))
        self.tls_state = FakeTLSState([b"ann"])
        # curl before 8.22 sends "=".
        for response in (b"\r\n", b"=\r\n"):
            client = self.connect(tls=True)
            self.assertEqual(client.send(b"AUTH EXTERNAL\r\n"), EMPTY)
            self.assertEqual(client.send(response), WELCOME_WITHOUT_NAME)
            client.lose()
        self.serve()
        client = self.connect()
        self.assertEqual(client.send(b"AUTH LOGIN\r\n"), b"+ VXNlcm5hbWU6\r\n")
        self.assertEqual(client.send(b"=\r\n"), NOT_BASE64)
        for response in (b"==\r\n", b"= \r\n", b"=A\r\n"):
            self.assertEqual(client.send(b"AUTH PLAIN\r\n"), EMPTY)
            self.assertEqual(client.send(response), NOT_BASE64)

    def test_cancel(self):
        """``*`` cancels the exchange, and the next line is a command."""
        client = self.connect()
        for lines in ([b"AUTH PLAIN", b"*"], [b"AUTH LOGIN", b"YW5u", b"*"], [b"AUTH PLAIN *"]):
            *first, last = lines
            for line in first:
                self.assertTrue(client.send(line + b"\r\n").startswith(b"+ "))
            self.assertEqual(client.send(last + b"\r\n"), CANCELLED)
            self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")

    def test_strict_base64(self):
        """Only canonical base64 is accepted (RFC 4648 section 3.5)."""
        valid = b64encode(b"\0ann\0pw")
        for invalid in [
            valid.rstrip(b"="),
            valid + b"=",
            valid[:-3] + b"x==",
            b" " + valid,
            valid + b" ",
            valid + b"\t",
            valid[:4] + b" " + valid[4:],
            valid[:4] + b"\r" + valid[4:],
            valid.replace(b"A", b"-", 1),
            b"!!!!",
            b"\xff\xff\xff\xff",
            b"**",
            b"* ",
            b"====",
        ]:
            client = self.connect()
            self.assertEqual(client.send(b"AUTH PLAIN\r\n"), EMPTY)
            self.assertEqual(client.send(invalid + b"\r\n"), NOT_BASE64)
            self.assertEqual(client.send(b"AUTH PLAIN\r\n"), EMPTY)
            self.assertEqual(client.send(valid + b"\r\n"), WELCOME)
            client.lose()

    @given(st.one_of(st.binary(max_size=9), st.from_regex(rb"[A-Za-d+/=]{0,9}", fullmatch=True)))
    def test_any_response(self, response):
        """A response is decoded, rejected as invalid base64, or cancels the exchange."""
        response = response.replace(b"\n", b"")
        client = self.connect(b"AUTH LOGIN")
        reply = client.send(response + b"\r\n")
        try:
            decode_base64(response)
        except ValueError:
            expected = CANCELLED if response == b"*" else NOT_BASE64
        else:
            expected = b"+ UGFzc3dvcmQ6\r\n"
        self.assertEqual(reply, expected)

    def test_list(self):
        """Without a mechanism AUTH lists the mechanisms, for old clients."""
        for line in (b"AUTH\r\n", b"AUTH \r\n", b"auth\r\n"):
            self.assertEqual(
                self.connect().send(line), b"+OK mechanisms follow\r\nPLAIN\r\nLOGIN\r\n.\r\n"
            )
        client = self.connect(peer=REMOTE_PEER)
        self.assertEqual(client.send(b"AUTH\r\n"), b"+OK mechanisms follow\r\n.\r\n")

    def test_unknown(self):
        """Unknown mechanisms and mechanisms that are not available get the same reply."""
        for peer, names in [
            (None, b"KERBEROS_V4 CRAM-MD5 EXTERNAL PLAI X"),
            (REMOTE_PEER, b"PLAIN"),
        ]:
            for name in names.split():
                for more in (b"", b" =", b" " + b64encode(PLAIN)):
                    client = self.connect(**({"peer": peer} if peer else {}))
                    self.assertEqual(client.send(b"AUTH " + name + more + b"\r\n"), NOT_AVAILABLE)
        client = self.connect()
        self.assertEqual(client.send(b"AUTH \xff\r\n"), NOT_AVAILABLE)

    def test_arguments(self):
        """AUTH has at most two arguments."""
        self.assertEqual(
            self.connect().send(b"AUTH PLAIN = =\r\n"), b"-ERR at most 2 arguments expected\r\n"
        )
        for line in (b"AUTH  PLAIN\r\n", b"AUTH PLAIN  =\r\n"):
            self.assertIn(b"single spaces", self.connect().send(line))
        self.assertIn(b"control characters", self.connect().send(b"AUTH PLAIN\tx\r\n"))

    def test_server_first(self):
        """If the server sends the first message, there is no initial response (section 4)."""
        self.serve(Checker(accept_all, IUsernameHashedPassword))
        client = self.connect()
        for initial in (b"=", b"dGlt"):
            self.assertEqual(
                client.send(b"AUTH CRAM-MD5 %b\r\n" % initial),
                b"-ERR mechanism does not accept an initial response\r\n",
            )
        challenge = client.send(b"AUTH CRAM-MD5\r\n")
        self.assertRegex(decode_base64(challenge[2:-2]), rb"^<\d+\.\d+@dewey>$")

    def test_states(self):
        """AUTH is available in the AUTHORIZATION state only (section 4)."""
        client = self.connect(b"AUTH PLAIN " + b64encode(PLAIN))
        for line in (b"AUTH", b"AUTH PLAIN", b"AUTH PLAIN " + b64encode(PLAIN)):
            self.assertEqual(client.send(line + b"\r\n"), b"-ERR already logged in\r\n")

    def test_require_tls(self):
        """Where login requires TLS, AUTH is rejected, and its list as well."""
        self.serve(require_tls=True)
        refusal = b"-ERR login requires TLS\r\n"
        for line in (b"AUTH\r\n", b"AUTH PLAIN\r\n"):
            self.assertEqual(self.connect().send(line), refusal)

    def test_login_mechanism(self):
        """LOGIN works with and without an initial response."""
        for lines in ([b"AUTH LOGIN", b"YW5u"], [b"AUTH LOGIN YW5u"]):
            client = self.connect()
            replies = [client.send(line + b"\r\n") for line in [*lines, b"cHc="]]
            expected = [b"+ VXNlcm5hbWU6\r\n", b"+ UGFzc3dvcmQ6\r\n", WELCOME]
            self.assertEqual(replies, expected[-len(replies) :])
            client.lose()

    def test_session(self):
        """A session after AUTH is like one after PASS."""
        client = self.connect()
        client.send(b"AUTH PLAIN " + response_line(PLAIN))
        self.assertEqual(
            client.send(b"STAT\r\nDELE 1\r\n"), b"+OK 2 10\r\n+OK message 1 deleted\r\n"
        )
        client.send(b"QUIT\r\n")
        client.lose()
        self.assert_released()
        self.assertEqual(len(self.store.stored[b"ann"]), 1)

    def test_unprintable_name(self):
        """A long or unprintable name is not repeated in the reply."""
        self.serve(Checker(lambda credentials: b"ann", IUsernamePassword))
        for name in (b"a\r\n+OK", b"\x07", b"\x7f", b"\xc3\xbc", b"a" * 41):
            client = self.connect()
            reply = client.send(b"AUTH PLAIN " + response_line(b"\0" + name + b"\0pw"))
            self.assertEqual(reply, WELCOME_WITHOUT_NAME)
            client.lose()
