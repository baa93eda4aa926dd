"""AUTH: the dialogue on the wire (RFC 5034), whatever becomes of it."""

import os
from base64 import b64encode
from hmac import HMAC
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.internet.defer import Deferred, succeed

from popserv.auth.passwords import checker as passwd
from popserv.auth.passwords.checker import PasswdFileChecker
from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.passwords.scram_keys import derive_scram_keys
from popserv.auth.sasl.mechanisms import MECHANISMS, Mechanism
from popserv.core.grammar import MAX_SASL_LINE, decode_base64
from popserv.core.session import State
from popserv.errors import LoginFailed
from popserv.interfaces import ICertificateCredentials, IScramSHA256Credentials, ITokenCredentials
from tests.auth.passwords.test_users_file import UsersFileCase
from tests.auth.sasl.harness import ScramClient
from tests.auth.sasl.test_oauthbearer import GOOGLE_XOAUTH2, RFC_7628_RESPONSE
from tests.commands.harness import (
    CANCELLED,
    KINDS,
    REFUSED,
    STRANGER,
    TRY_LATER,
    Checker,
    FakeChannel,
    ServerCase,
    anybody,
    encoded,
    password_of_ann,
)

WELCOME = b"+OK ann's maildrop has 2 messages (10 octets)\r\n"
NAMELESS = b"+OK maildrop has 2 messages (10 octets)\r\n"
EMPTY = b"+ \r\n"
NOT_BASE64 = b"-ERR invalid base64\r\n"
NOT_OFFERED = b"-ERR mechanism not available\r\n"
TOO_LONG = b"-ERR line too long\r\n"
USER_FIRST = b"-ERR send USER first\r\n"

PLAIN = b"\0ann\0pw"
WRONG = b"\0ann\0wrong"


def token_refused(reason):
    """Make a decision that tells clients why their token is none."""

    def decide(credentials):
        refused = Deferred.fromCoroutine(credentials.refuse(reason))
        return refused.addCallback(lambda _: None).addCallback(_not_in)

    return decide


def _not_in(_):
    raise LoginFailed


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


class PacketTests(ServerCase):
    """How octets come in packets makes no difference."""

    DIALOGUE = b"AUTH LOGIN\r\nYW5u\r\ncHc=\r\nSTAT\r\n"
    ANSWER = b"+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n" + WELCOME + b"+OK 2 10\r\n"

    def test_pipelined(self):
        """A whole dialogue in one packet, and what follows it."""
        self.assertEqual(self.connect().send(self.DIALOGUE), self.ANSWER)

    def test_every_split(self):
        """A dialogue cut in two anywhere."""
        for at in range(len(self.DIALOGUE)):
            client = self.connect()
            answer = client.send(self.DIALOGUE[:at]) + client.send(self.DIALOGUE[at:])
            self.assertEqual(answer, self.ANSWER)
            client.lose()

    def test_octets(self):
        """A dialogue an octet at a time."""
        client = self.connect()
        answer = b"".join(client.send(bytes([octet])) for octet in self.DIALOGUE)
        self.assertEqual(answer, self.ANSWER)

    def test_pipelined_behind_a_wait(self):
        """A line that comes before it is asked for is taken when it is."""
        self.store.slow = {"login"}
        client = self.connect()
        client.send(b"AUTH LOGIN\r\nYW5u\r\ncHc=\r\nRETR 1\r\n")
        self.assertEqual(client.transport.producerState, "paused")
        self.assertEqual(client.send(b"NOOP\r\n"), b"")
        self.store.waiting["login"].callback(None)
        answer = client.received()
        self.assertTrue(answer.startswith(WELCOME + b"+OK 5 octets\r\none\r\n.\r\n+OK"), answer)

    def test_many(self):
        """However many exchanges are pipelined, others have their turn, and all are answered."""
        client = self.connect()
        client.server.MAX_BAD_COMMANDS = 1000
        exchange = b"AUTH LOGIN\r\nYW5u\r\n*\r\n"
        client.server.dataReceived(exchange * 100 + b"AUTH PLAIN " + encoded(PLAIN))
        answer = client.received()
        self.assertLess(answer.count(CANCELLED), 20)
        client.clock.advance(0)
        answer += client.received()
        self.assertEqual(answer.count(CANCELLED), 100)
        self.assertTrue(answer.endswith(WELCOME))

    def test_client_does_not_read(self):
        """A client that does not read its challenge is not listened to until it has."""
        client = self.connect()
        write = client.transport.write

        def full(octets):
            write(octets)
            client.server.pauseProducing()

        client.transport.write = full
        client.server.pauseProducing()
        answer = b""
        for line in self.DIALOGUE.splitlines(keepends=True):
            self.assertEqual(client.send(line), b"")
            client.server.resumeProducing()
            answer += client.received()
        self.assertEqual(answer, self.ANSWER)


class LongLineTests(ServerCase):
    """Tokens of 64 KiB, and the end of all lengths."""

    def setUp(self):
        """Let any token in."""
        super().setUp()
        self.checker = Checker(anybody, ITokenCredentials, IUsernamePassword)
        self.serve(self.checker)

    def test_large_token(self):
        """A token of 64 KiB goes in an AUTH line or in a response, in packets of any size."""
        token = b"x" * (1 << 16)
        response = encoded(b"n,a=ann,\1auth=Bearer " + token + b"\1\1")
        for octets in (
            b"AUTH OAUTHBEARER " + response,
            b"auth oauthbearer " + response,
            b"AUTH OAUTHBEARER\r\n" + response,
        ):
            octets += b"STAT\r\n"
            for size in (997, 1024, 1025, 1026, 1460, 16384, 65536, len(octets)):
                client = self.connect()
                answer = b"".join(
                    client.send(octets[at : at + size]) for at in range(0, len(octets), size)
                )
                self.assertEqual(answer.removeprefix(EMPTY), WELCOME + b"+OK 2 10\r\n")
                self.assertEqual(self.checker.seen.pop().token, token)
                client.lose()

    def test_an_octet_at_a_time(self):
        """The limit moves in the middle of a line, wherever the packets end."""
        octets = b"AUTH PLAIN " + encoded(b"\0ann\0" + b"x" * 1500) + b"STAT\r\n"
        client = self.connect()
        answer = b"".join(client.send(octets[at : at + 1]) for at in range(len(octets)))
        self.assertEqual(answer, WELCOME + b"+OK 2 10\r\n")

    @given(st.lists(st.integers(1, 3000), max_size=9), st.integers(0, 9000), st.booleans())
    def test_any_packets(self, sizes, length, in_one_line):
        """Whatever the packets, the outcome is one."""
        between = b" " if in_one_line else b"\r\n"
        octets = b"AUTH PLAIN" + between + encoded(b"\0ann\0x" + b"x" * length) + b"STAT\r\n"
        client = self.connect()
        answer = b""
        for size in [*sizes, len(octets)]:
            packet, octets = octets[:size], octets[size:]
            answer += client.send(packet) if packet else b""
        self.assertEqual(answer.removeprefix(EMPTY), WELCOME + b"+OK 2 10\r\n")
        client.lose()

    def test_longest(self):
        """The longest line is as long as it says, and one octet more is too long."""
        for start, more in [
            (b"AUTH X ", 0),
            (b"AUTH PLAIN\r\n", 0),
            (b"AUTH X ", 1),
            (b"AUTH PLAIN\r\n", 1),
        ]:
            line = start.split(b"\r\n")[-1]
            octets = start + b"A" * (MAX_SASL_LINE - len(line) + more) + b"\r\n"
            for size in (len(octets), 1460):
                client = self.connect()
                answer = b"".join(
                    client.send(octets[at : at + size]) for at in range(0, len(octets), size)
                )
                self.assertEqual(answer.endswith(TOO_LONG), bool(more), (start, more, answer))
                self.assertEqual(client.closed, bool(more))

    def test_without_end(self):
        """A line that never ends is refused, once, and nothing of it is kept."""
        for start in (b"AUTH PLAIN ", b"AUTH PLAIN\r\n"):
            client = self.connect()
            answer = client.send(start)
            for _ in range(100):
                answer += client.send(b"A" * 4096)
            self.assertEqual(answer.removeprefix(EMPTY), TOO_LONG)
            self.assertTrue(client.closed)
            self.assertEqual(client.server.clearLineBuffer(), b"")
            client.lose()
            self.assertEqual(self.checker.seen, [])

    def test_other_lines(self):
        """No other line may be longer than before, however alike it looks."""
        for start in (b"", b"AUTH", b"AUTHOR ", b" AUTH ", b"APOP ", b"NOOP\r\nAUTHX "):
            octets = start + b"A" * (1026 - len(start.split(b"\r\n")[-1]))
            client = self.connect()
            self.assertTrue(client.send(octets).endswith(TOO_LONG), start)
            self.assertTrue(client.closed)

    def test_limit_comes_back(self):
        """After a long AUTH line, or a dialogue, other lines are as short as ever."""
        for lines in (
            [b"AUTH X " + b"A" * 5000],
            [b"AUTH PLAIN", b"*"],
            [b"AUTH PLAIN", b"A" * 5000],
        ):
            client = self.connect(*lines)
            self.assertFalse(client.closed)
            self.assertEqual(client.send(b"NOOP " + b"A" * 1100), TOO_LONG)

    def test_long_behind_long(self):
        """Of two long lines in one packet each is judged for itself."""
        long_auth = b"AUTH X " + b"A" * 5000 + b"\r\n"
        self.assertEqual(self.connect().send(long_auth * 3), NOT_OFFERED * 3)
        self.assertEqual(self.connect().send(long_auth + b"A" * 5000), NOT_OFFERED + TOO_LONG)


class RefusalTests(ServerCase):
    """A login that fails is a guess, whichever way it was tried."""

    def setUp(self):
        """A server with all mechanisms, whose checker knows nobody."""
        super().setUp()
        self.checker = Checker(lambda credentials: None, *KINDS)
        self.serve(self.checker)
        self.tls_state = FakeChannel([b"ann"])

    GUESSES = [
        [b"AUTH PLAIN " + b64encode(WRONG)],
        [b"AUTH PLAIN " + b64encode(b"bob\0ann\0pw")],
        [b"AUTH PLAIN", b64encode(WRONG)],
        [b"AUTH LOGIN", b"YW5u", b"cHc="],
        [b"AUTH CRAM-MD5", b64encode(b"tim b913a602c7eda7a495b4e6e7334d3890")],
        [b"AUTH EXTERNAL ="],
        [b"AUTH EXTERNAL " + b64encode(b"bob")],
        [b"AUTH OAUTHBEARER " + b64encode(RFC_7628_RESPONSE)],
        [b"AUTH XOAUTH2 " + b64encode(GOOGLE_XOAUTH2)],
        [b"AUTH SCRAM-SHA-256 " + b64encode(b"n,,n=ann,r=x")],
        [b"AUTH SCRAM-SHA-1 " + b64encode(b"n,,n=ann,r=x")],
    ]

    def guess(self, client, lines):
        """Make a guess; return the answer to its last line, which is late."""
        *first, last = lines
        for line in first:
            self.assertTrue(client.send(line + b"\r\n").startswith(b"+ "))
        self.assertEqual(client.send(last + b"\r\n"), b"")
        client.clock.advance(1.9)
        self.assertEqual(client.received(), b"")
        client.clock.advance(0.2)
        return client.received()

    def test_alike(self):
        """All fail with one text, after the same time; AUTH can be tried again."""
        for lines in self.GUESSES:
            client = self.connect(tls=True)
            self.assertEqual(self.guess(client, lines), REFUSED, lines)
            self.assertFalse(client.closed)
            self.checker.decide = anybody
            self.assertEqual(client.send(b"AUTH PLAIN " + encoded(PLAIN)), WELCOME)
            self.checker.decide = lambda credentials: None
            client.lose()

    def test_counted(self):
        """The third ends the connection, whatever they were, PASS among them."""
        for first, second in pairwise(self.GUESSES):
            client = self.connect(tls=True)
            self.assertEqual(self.guess(client, first), REFUSED)
            client.send(b"USER ann\r\n")
            self.assertEqual(self.guess(client, [b"PASS pw"]), REFUSED)
            self.assertFalse(client.closed)
            self.assertEqual(self.guess(client, second), REFUSED)
            self.assertTrue(client.closed)

    def test_no_input_meanwhile(self):
        """While a refusal is late nothing else is answered."""
        client = self.connect()
        self.assertEqual(client.send(b"AUTH PLAIN " + encoded(WRONG) + b"NOOP\r\n"), b"")
        self.assertEqual(client.send(b"NOOP\r\n"), b"")
        self.assertEqual(client.late(), REFUSED + b"-ERR log in first\r\n" * 2)

    def test_malformed_is_a_blunder(self):
        """Twenty malformed exchanges in a row end the connection."""
        client = self.connect()
        for _ in range(19):
            client.send(b"AUTH PLAIN !\r\n")
        self.assertFalse(client.closed)
        client.send(b"AUTH PLAIN !\r\n")
        self.assertTrue(client.closed)

    def test_token_dialogue(self):
        """A refused token is answered with its reason in JSON, then -ERR (RFC 7628 section 4.3)."""
        reason = {
            "status": "invalid_token",
            "scope": "example_scope",
            "openid-configuration": "https://example.com/.well-known/openid-configuration",
        }
        challenge = (
            b"+ eyJzdGF0dXMiOiAiaW52YWxpZF90b2tlbiIsICJzY29wZSI6ICJleGFtcGxlX3Njb3BlIiwgIm9wZW5pZC1"
            b"jb25maWd1cmF0aW9uIjogImh0dHBzOi8vZXhhbXBsZS5jb20vLndlbGwta25vd24vb3BlbmlkLWNvbmZpZ3VyYXR"
            b"pb24ifQ==\r\n"
        )
        self.serve(Checker(token_refused(reason), ITokenCredentials))
        for name, response in ((b"OAUTHBEARER", RFC_7628_RESPONSE), (b"XOAUTH2", GOOGLE_XOAUTH2)):
            for answer in (b"AQ==", b"", b"*", b"nonsense!"):
                client = self.connect()
                line = b"AUTH %b %b" % (name, encoded(response))
                self.assertEqual(client.send(line), challenge)
                self.assertEqual(client.send(answer + b"\r\n"), b"")
                self.assertEqual(client.late(), REFUSED)
                self.assertFalse(client.closed)

    def test_lost_in_the_token_dialogue(self):
        """A client that goes instead of answering why is not missed."""
        self.serve(Checker(token_refused({"status": "x"}), ITokenCredentials))
        client = self.connect()
        client.send(b"AUTH OAUTHBEARER " + encoded(RFC_7628_RESPONSE))
        client.lose()
        client.clock.advance(3)
        self.assertReleased(0)
        self.assertEqual(client.clock.getDelayedCalls(), [])

    def test_reason_is_logged(self):
        """Why is in the log, with the name that was tried."""
        client = self.connect(tls=True)
        for lines, name, why in [
            (self.GUESSES[0], b"ann", "the checker's own words"),
            (
                self.GUESSES[1],
                b"ann",
                "the authorization identity is not the authentication identity",
            ),
            (
                self.GUESSES[6],
                b"bob",
                "the client certificate is for b'ann', not for the authorization identity",
            ),
        ]:
            self.log._events.clear()
            self.guess(client, lines)
            event = next(event for event in self.log if "cause" in event)
            self.assertEqual((event["user"], str(event["cause"])), (name, why))


class AbortTests(ServerCase):
    """Nothing survives an exchange that came to no good end."""

    def test_name(self):
        """The name that USER gave does not outlive an AUTH, nor AUTH's own any exchange."""
        for lines in (
            [b"AUTH"],
            [b"AUTH X"],
            [b"AUTH PLAIN", b"*"],
            [b"AUTH PLAIN !"],
            [b"AUTH LOGIN YW5u", b"*"],
            [b"AUTH LOGIN YW5u", b"!"],
            [b"AUTH PLAIN " + b64encode(WRONG)],
        ):
            client = self.connect(b"USER ann", *lines)
            client.clock.advance(2)
            client.received()
            self.assertEqual(client.send(b"PASS pw\r\n"), USER_FIRST, lines)

    def test_state(self):
        """An aborted exchange leaves the AUTHORIZATION state, and the next begins anew."""
        client = self.connect()
        for _ in range(5):
            self.assertEqual(client.send(b"AUTH LOGIN YW5u\r\n"), b"+ UGFzc3dvcmQ6\r\n")
            self.assertEqual(client.send(b"*\r\n"), CANCELLED)
            self.assertEqual(client.send(b"STAT\r\n"), b"-ERR log in first\r\n")
            # The name of before would be taken for an initial response.
            self.assertEqual(client.send(b"AUTH LOGIN\r\n"), b"+ VXNlcm5hbWU6\r\n")
            self.assertEqual(client.send(b"*\r\n"), CANCELLED)
        self.assertEqual(client.send(b"AUTH PLAIN " + encoded(PLAIN)), WELCOME)

    def test_challenge(self):
        """A challenge is good for the exchange that it belongs to."""
        seen = []
        self.serve(Checker(lambda credentials: seen.append(credentials), IUsernameHashedPassword))
        client = self.connect()
        challenges = set()
        for line in (b"*", b"!", b"YSBi"):
            challenges.add(client.send(b"AUTH CRAM-MD5\r\n"))
            client.late(line + b"\r\n")
        self.assertEqual((len(challenges), len(seen)), (3, 1))

    def test_commands_are_no_responses(self):
        """In a dialogue no line is a command, QUIT neither."""
        for line in (b"QUIT\r\n", b"CAPA\r\n", b"USER ann\r\n"):
            client = self.connect(b"AUTH PLAIN")
            answer = client.send(line)
            self.assertIn(b"-ERR", answer)
            self.assertNotIn(b"+OK", answer)
            self.assertFalse(client.closed)


class EndTests(ServerCase):
    """A connection may end at any step."""

    DIALOGUES = [
        [b"AUTH PLAIN"],
        [b"AUTH LOGIN"],
        [b"AUTH LOGIN", b"YW5u"],
        [b"AUTH SCRAM-SHA-256"],
        [b"AUTH SCRAM-SHA-256", b64encode(b"n,,n=ann,r=x")],
        [b"AUTH CRAM-MD5"],
        [b"AUTH OAUTHBEARER " + b64encode(RFC_7628_RESPONSE)],
    ]

    def setUp(self):
        """A checker that talks on where it can."""
        super().setUp()
        self.ended = []

        def decide(credentials):
            if ITokenCredentials.providedBy(credentials):
                return token_refused({"status": "x"})(credentials)
            if IScramSHA256Credentials.providedBy(credentials):
                keys = derive_scram_keys("sha256", b"pw", b"salt", 1)
                outcome = Deferred.fromCoroutine(credentials.check_keys(keys))
                outcome.addBoth(self.ended.append)
                return outcome
            return password_of_ann(credentials)

        self.serve(Checker(decide, *KINDS))

    def dialogues(self):
        """Yield clients that were asked something, in every dialogue there is."""
        for lines in self.DIALOGUES:
            client = self.connect(*lines)
            self.assertIsNotNone(client.server._sasl_response, lines)
            self.assertFalse(client.closed)
            yield client

    def assertOver(self, client):
        """Nothing of the connection is left."""
        client.clock.advance(5)
        self.assertEqual(client.clock.getDelayedCalls(), [])
        self.assertEqual(list(self.factory.connections), [])
        self.assertIsNone(client.server._sasl_response)
        self.assertIs(client.server.session.state, State.AUTHORIZATION)
        self.assertReleased(0)

    def test_lost(self):
        """A client that goes away in mid-dialogue leaves nothing behind."""
        for client in self.dialogues():
            client.lose()
            self.assertOver(client)
        self.assertEqual(len(self.ended), 1)

    def test_idle(self):
        """A dialogue is no reason to stay; what comes after the end is not heard."""
        for client in self.dialogues():
            client.clock.advance(601)
            self.assertTrue(client.closed)
            self.assertEqual(client.send(encoded(PLAIN)), b"")
            client.lose()
            self.assertOver(client)

    def test_answers_keep_awake(self):
        """An answer is a sign of life."""
        client = self.connect(b"AUTH LOGIN")
        client.clock.advance(599)
        client.send(b"YW5u\r\n")
        client.clock.advance(599)
        self.assertEqual(client.send(b"cHc=\r\n"), WELCOME)

    def test_half_closed(self):
        """A client that will answer no more is gone."""
        for client in self.dialogues():
            client.server.readConnectionLost()
            self.assertTrue(client.closed)
            client.lose()
            self.assertOver(client)

    def test_half_closed_behind_the_dialogue(self):
        """A client that has said all gets all its answers."""
        self.store.slow = {"login"}
        client = self.connect()
        client.send(b"AUTH LOGIN\r\nYW5u\r\ncHc=\r\nSTAT\r\n")
        client.server.readConnectionLost()
        self.assertFalse(client.closed)
        self.store.waiting["login"].callback(None)
        self.assertEqual(client.received(), WELCOME + b"+OK 2 10\r\n")
        self.assertTrue(client.closed)
        client.lose()
        self.assertReleased()

    def test_too_long_an_answer(self):
        """A response that is too long ends the connection, and with it the dialogue."""
        for client in self.dialogues():
            self.assertEqual(client.send(b"A" * (MAX_SASL_LINE + 2)), TOO_LONG)
            self.assertTrue(client.closed)
            client.lose()
            self.assertOver(client)

    def test_write_side_lost(self):
        """A client that cannot be asked is let go."""
        for client in self.dialogues():
            client.server.writeConnectionLost()
            self.assertTrue(client.transport.aborted)
            client.lose()
            self.assertOver(client)

    def test_crowded_out(self):
        """A dialogue makes room for others, as every session does that has not logged in."""
        self.factory.max_connections = 1
        client = self.connect(b"AUTH PLAIN")
        other = self.connect()
        self.assertTrue(client.transport.aborted)
        client.lose()
        self.assertFalse(other.closed)


class PendingTests(ServerCase):
    """The checker, or the store, is still at it when the connection ends."""

    def pend(self):
        """A client whose login waits for its checker; how to go on with it."""
        waiting = Deferred()
        self.serve(Checker(lambda credentials: waiting, IUsernamePassword))
        client = self.connect()
        self.assertEqual(client.send(b"AUTH PLAIN " + encoded(PLAIN) + b"STAT\r\n"), b"")
        return client, waiting

    def test_lost(self):
        """The login goes on to its end, and the lock is given up then."""
        for end in (lambda waiting: waiting.callback(b"ann"), lambda w: w.errback(LoginFailed())):
            self.store.released = 0
            client, waiting = self.pend()
            client.lose()
            end(waiting)
            client.clock.advance(3)
            self.assertEqual(self.store.locked, set())
            self.assertLessEqual(self.store.released, 1)
            self.assertEqual(client.clock.getDelayedCalls(), [])

    def test_idle(self):
        """A checker that does not answer keeps no connection."""
        client, waiting = self.pend()
        client.clock.advance(601)
        self.assertTrue(client.closed)
        waiting.callback(b"ann")
        client.lose()
        self.assertReleased()

    def test_lost_in_the_store(self):
        """A lock that is got after client disconnected is given up at once."""
        self.store.slow = {"login"}
        client = self.connect()
        client.send(b"AUTH PLAIN " + encoded(PLAIN))
        client.lose()
        self.store.waiting["login"].callback(None)
        self.assertReleased()

    def test_checker_asks_the_gone(self):
        """Who is asked something after it has gone has broken the exchange off."""
        waiting, ended = Deferred(), []

        async def check(credentials):
            await waiting
            try:
                await credentials.check_keys(derive_scram_keys("sha256", b"pw", b"salt", 1))
            finally:
                ended.append(True)

        self.serve(Checker(lambda c: Deferred.fromCoroutine(check(c)), IScramSHA256Credentials))
        client = self.connect()
        client.send(b"AUTH SCRAM-SHA-256 " + encoded(b"n,,n=ann,r=x"))
        client.lose()
        waiting.callback(None)
        self.assertEqual(ended, [True])
        client.clock.advance(3)
        self.assertReleased(0)
        self.assertEqual(client.clock.getDelayedCalls(), [])


class TroubleTests(ServerCase):
    """What nobody foresaw is a temporary failure, and the client learns no more."""

    def test_checker(self):
        """An exception in a checker, at once or later."""

        def later(credentials):
            return succeed(None).addCallback(at_once)

        def at_once(credentials):
            raise RuntimeError("a secret of the server's")

        for decide in (at_once, later):
            self.serve(Checker(decide, IUsernamePassword))
            client = self.connect()
            self.assertEqual(client.late(b"AUTH PLAIN " + encoded(PLAIN)), TRY_LATER)
            self.assertEqual(
                client.late(b"USER ann\r\nPASS pw\r\n"), b"+OK send PASS\r\n" + TRY_LATER
            )
            self.assertFalse(client.closed)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_mechanism(self):
        """An exception in a mechanism, before it asks and after."""
        for asks in range(2):

            async def run(send_challenge, session, offered, asks=asks):
                for _ in range(asks):
                    await send_challenge(b"?")
                raise RuntimeError("a secret of the server's")

            self.serve(mechanisms=[Mechanism(b"X", IUsernamePassword, run, cleartext=True)])
            client = self.connect()
            answer = client.send(b"AUTH X\r\n" + b"\r\n" * asks)
            self.assertEqual(answer, b"+ Pw==\r\n" * asks + TRY_LATER)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_store(self):
        """What the store says is passed on by its kind."""
        first = self.connect()
        first.send(b"AUTH PLAIN " + encoded(PLAIN))
        client = self.connect()
        self.assertEqual(
            client.send(b"AUTH PLAIN " + encoded(PLAIN)),
            b"-ERR [IN-USE] maildrop already locked\r\n",
        )
        self.assertFalse(client.closed)
        first.lose()
        self.assertEqual(client.send(b"AUTH PLAIN " + encoded(PLAIN)), WELCOME)

    def test_canary(self):
        """No password or token is in the log, in base64 neither, whatever becomes of it."""
        secret = b"canary-4711"

        def broken(credentials):
            raise RuntimeError("a bug")

        exchanges = [
            [b"AUTH PLAIN " + b64encode(b"\0ann\0" + secret)],
            [b"AUTH PLAIN " + b64encode(b"bob\0ann\0" + secret)],
            [b"AUTH PLAIN " + b64encode(b"\0ann\0" + secret) + b"!"],
            [b"AUTH PLAIN " + b64encode(b"ann\0" + secret)],
            [b"AUTH PLAIN", b64encode(b"\0ann\0" + secret)],
            [b"AUTH X " + b64encode(secret)],
            [b"AUTH LOGIN YW5u", b64encode(secret)],
            [b"AUTH OAUTHBEARER " + b64encode(b"n,,\1auth=Bearer " + secret + b"\1\1"), b"AQ=="],
            [b"AUTH XOAUTH2 " + b64encode(b"user=ann\1auth=Bearer " + secret + b"\1\1"), b"AQ=="],
            [b"AUTH OAUTHBEARER " + b64encode(b"n,,\1auth=Basic " + secret + b"\1\1")],
            [b"AUTH PLAIN " + b64encode(secret * 20_000)],
        ]
        for decide in (lambda credentials: None, broken, anybody):
            self.serve(Checker(decide, *KINDS))
            for lines in exchanges:
                client = self.connect()
                for line in lines:
                    client.late(line + b"\r\n")
                client.send(b"QUIT\r\n")
                client.lose()
            self.flushLoggedErrors(RuntimeError)
        logged = self.logged()
        self.assertIn("'ann'", logged)
        self.assertNotIn("canary", logged)
        for at in range(3):
            self.assertNotIn(b64encode(b"x" * at + secret)[4:12].decode(), logged)


class UsersFileTests(UsersFileCase, ServerCase):
    """Whole sessions with the checker of a users file."""

    def setUp(self):
        """Make keys cheap."""
        UsersFileCase.setUp(self)
        ServerCase.setUp(self)
        self.patch(passwd, "SCRAM_ITERATIONS", 7)

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
