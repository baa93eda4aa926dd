"""The SASL mechanisms: what a dialogue comes to, against the RFCs' own examples."""

import contextlib
import json
from base64 import b64decode

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.credentials import CramMD5Credentials
from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS, MECHANISMS
from popserv.core.session import Session
from popserv.errors import BadCommand, LoginFailed, POPError
from popserv.interfaces import (
    ICertificateCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
    ITokenCredentials,
)
from tests.auth.sasl.harness import FakeChannel, finish

BY_NAME = {each.name: each for each in MECHANISMS}

NUL = b"\0"
TOKEN = b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
# RFC 7628 section 4.1, and Google's own example of XOAUTH2.
RFC_7628 = b64decode(
    b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZG"
    b"OWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
)
GOOGLES = b64decode(
    b"dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJo"
    b"ZG1semRHRXVZMjl0Q2cBAQ=="
)


class Certified(FakeChannel):
    """TLS with a client's certificate for these names."""

    def __init__(self, *names):
        super().__init__({})
        self.names = names

    def certificate_names(self):
        """See Channel."""
        return self.names


class Everywhere:
    """A place to log in that offers everything."""

    def supports(self, credentials):
        """Offer it."""
        return True


def session(**facts):
    """A session that is offered everything, but what its connection has not."""
    return Session(Everywhere(), host=b"dewey", **facts)


class Dialogue:
    """What a client answers, in turn, and what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def send_challenge(self, challenge):
        """See Ask."""
        self.asked.append(challenge)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def run(name, *answers, offered=(), **facts):
    """Return a mechanism's credentials, and what the client was asked."""
    dialogue = Dialogue(*answers)
    credentials = finish(BY_NAME[name].run(dialogue.send_challenge, session(**facts), offered))
    verifyObject(BY_NAME[name].credentials, credentials)
    return credentials, dialogue


class MechanismsCase(SynchronousTestCase):
    """Has shorthands for what goes wrong."""

    def assertMalformed(self, name, *answers, **facts):
        """The dialogue is not of the mechanism's form."""
        error = self.assertRaises(BadCommand, run, name, *answers, **facts)
        for answer in answers:
            self.assertNotIn(repr(answer)[2:-1] or "?", str(error.text))

    def assertFails(self, name, *answers, **facts):
        """The login fails as a wrong password does; only the log knows why."""
        error = self.assertRaises(LoginFailed, run, name, *answers, **facts)
        self.assertEqual(error.text, LoginFailed.text)
        self.assertIsNotNone(error.__cause__)


class TableTests(MechanismsCase):
    """The table of mechanisms."""

    def test_names(self):
        """Names are those of the registry, 1 to 20 characters (RFC 4422 section 3.1)."""
        for each in MECHANISMS:
            self.assertRegex(each.name, rb"^[A-Z0-9_-]{1,20}$")
        self.assertEqual(len(BY_NAME), len(MECHANISMS))

    def test_order(self):
        """The strong come before the weak, and bound ones before the unbound."""
        self.assertEqual(
            [each.name.decode() for each in MECHANISMS],
            "SCRAM-SHA-256-PLUS SCRAM-SHA-256 SCRAM-SHA-1-PLUS SCRAM-SHA-1 EXTERNAL "
            "OAUTHBEARER XOAUTH2 CRAM-MD5 PLAIN LOGIN".split(),
        )

    def test_by_default(self):
        """CRAM-MD5 and channel binding must be asked for."""
        left_out = {each.name for each in MECHANISMS} - {each.name for each in DEFAULT_MECHANISMS}
        self.assertEqual(left_out, {b"CRAM-MD5", b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-1-PLUS"})

    def test_available(self):
        """What shows a secret needs privacy, what builds on TLS needs that, all need a login."""
        everything = set(BY_NAME)
        cleartext = {b"OAUTHBEARER", b"XOAUTH2", b"PLAIN", b"LOGIN"}
        plus = {b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-1-PLUS"}
        bound = FakeChannel({b"tls-exporter": b"x"})
        for facts, missing in [
            ({}, plus | {b"EXTERNAL"}),
            ({"allows_cleartext": False}, cleartext | plus | {b"EXTERNAL"}),
            ({"allows_login": False}, everything),
            ({"tls_state": bound}, {b"EXTERNAL"}),
            ({"tls_state": FakeChannel({b"tls-server-end-point": b"x"})}, {b"EXTERNAL"}),
            # RFC 9266 section 3: not tls-unique, which is not to be had in TLS 1.3.
            ({"tls_state": FakeChannel({b"tls-unique": b"x"})}, plus | {b"EXTERNAL"}),
            ({"tls_state": Certified(b"ann")}, plus),
            ({"tls_state": Certified()}, plus | {b"EXTERNAL"}),
            ({"tls_state": bound, "allows_cleartext": False}, cleartext | {b"EXTERNAL"}),
        ]:
            there = {each.name for each in MECHANISMS if each.is_available(session(**facts))}
            self.assertEqual(everything - there, missing, facts)

    def test_offers(self):
        """What no checker offers is not there."""
        login = Everywhere()
        login.supports = lambda kind: kind is IUsernamePassword
        somewhere = Session(login)
        there = [each.name for each in MECHANISMS if each.is_available(somewhere)]
        self.assertEqual(there, [b"PLAIN", b"LOGIN"])


class PlainTests(MechanismsCase):
    """PLAIN (RFC 4616)."""

    def test_form(self):
        """Names and passwords are anything but NUL and nothing (section 2)."""
        for response, name, password in [
            (b"\0tim\0tanstaaftanstaaf", b"tim", b"tanstaaftanstaaf"),
            (b"\0t\xc3\xafm\0 p w \r\n", b"t\xc3\xafm", b" p w \r\n"),
            # Acting as oneself is no acting for another.
            (b"tim\0tim\0pw", b"tim", b"pw"),
        ]:
            credentials, dialogue = run(b"PLAIN", response)
            self.assertEqual((credentials.username, credentials.password), (name, password))
            self.assertEqual(dialogue.asked, [b""])

    def test_acting_for_another(self):
        """Nobody acts for another; section 4's Kurt cannot be Ursel."""
        for response in (b"Ursel\0Kurt\0xipj3plmq", b"KURT\0Kurt\0pw", b"Kurt \0Kurt\0pw"):
            self.assertFails(b"PLAIN", response)

    def test_malformed(self):
        """Anything else is malformed."""
        for response in (
            b"",
            b"tim",
            b"tim\0pw",
            b"\0tim\0",
            b"\0\0pw",
            b"\0\0",
            b"\0a\0b\0",
            b"a\0",
        ):
            self.assertMalformed(b"PLAIN", response)

    @given(*[st.binary(max_size=4)] * 3)
    def test_any(self, act_as, name, password):
        """Whatever comes, nothing but the name in it is logged in as."""
        response = act_as + NUL + name + NUL + password
        try:
            credentials, _ = run(b"PLAIN", response)
        except POPError:
            self.assertTrue(NUL in act_as + name + password or not name or not password or act_as)
        else:
            self.assertEqual((credentials.username, credentials.password), (name, password))
            self.assertIn(act_as, (b"", name))


class LoginTests(MechanismsCase):
    """LOGIN, as Outlook speaks it."""

    def test_form(self):
        """The name comes first, then the password."""
        credentials, dialogue = run(b"LOGIN", b"tim", b" p w ")
        self.assertEqual((credentials.username, credentials.password), (b"tim", b" p w "))
        self.assertEqual(dialogue.asked, [b"Username:", b"Password:"])

    def test_malformed(self):
        """Neither may be empty or hold a NUL."""
        for answers in [(b"", b"pw"), (b"tim", b""), (b"t\0m", b"pw"), (b"tim", b"p\0w")]:
            self.assertMalformed(b"LOGIN", *answers)


class CramMD5Tests(MechanismsCase):
    """CRAM-MD5 (RFC 2195)."""

    CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"
    DIGEST = b"b913a602c7eda7a495b4e6e7334d3890"

    def test_example(self):
        """Section 2's example is right, and for no other challenge, password or form of it."""
        right = CramMD5Credentials(b"tim", self.CHALLENGE, self.DIGEST)
        verifyObject(IUsernameHashedPassword, right)
        self.assertIs(right.checkPassword(b"tanstaaftanstaaf"), True)
        for challenge, digest, password in [
            (self.CHALLENGE[1:], self.DIGEST, b"tanstaaftanstaaf"),
            (self.CHALLENGE, self.DIGEST.upper(), b"tanstaaftanstaaf"),
            (self.CHALLENGE, self.DIGEST[1:], b"tanstaaftanstaaf"),
            (self.CHALLENGE, b"\xff" * 32, b"tanstaaftanstaaf"),
            (self.CHALLENGE, b"", b""),
            (self.CHALLENGE, self.DIGEST, b""),
            (self.CHALLENGE, self.DIGEST, b"tanstaaf"),
        ]:
            self.assertIs(
                CramMD5Credentials(b"tim", challenge, digest).checkPassword(password), False
            )

    def test_form(self):
        """A name, which may have spaces, and a digest."""
        for response, name in [(b"tim " + self.DIGEST, b"tim"), (b"t i m x", b"t i m")]:
            credentials, dialogue = run(b"CRAM-MD5", response)
            self.assertEqual(credentials.username, name)
            self.assertRegex(dialogue.asked[0], rb"^<\d+\.\d+@dewey>$")

    def test_never_twice(self):
        """No two challenges are alike (section 2)."""
        asked = {run(b"CRAM-MD5", b"a b")[1].asked[0] for _ in range(100)}
        self.assertEqual(len(asked), 100)

    def test_malformed(self):
        """Without a name or a digest it is none."""
        for response in (b"", b"tim", b" " + self.DIGEST):
            self.assertMalformed(b"CRAM-MD5", response)


class ExternalTests(MechanismsCase):
    """EXTERNAL (RFC 4422 appendix A)."""

    def test_names(self):
        """The client may ask to be one of those in its certificate, or leave it to the server."""
        names = (b"ann@example.org", b"office@example.org")
        for wanted in (b"", *names):
            credentials, dialogue = run(b"EXTERNAL", wanted, tls_state=Certified(*names))
            self.assertEqual((credentials.names, credentials.username), (names, wanted))
            self.assertEqual(dialogue.asked, [b""])

    def test_others(self):
        """Nobody else will do."""
        for wanted in (b"bob@example.org", b"ANN@example.org", b"ann", b"\0"):
            self.assertFails(b"EXTERNAL", wanted, tls_state=Certified(b"ann@example.org"))

    def test_certificate_gone(self):
        """Without TLS there is no name at all."""
        credentials, _ = run(b"EXTERNAL", b"")
        self.assertEqual(credentials.names, ())
        self.assertFails(b"EXTERNAL", b"ann")


class TokenTests(MechanismsCase):
    """OAUTHBEARER (RFC 7628) and XOAUTH2."""

    def test_examples(self):
        """The RFC's example, and Google's."""
        for mechanism, response, name, token in [
            (b"OAUTHBEARER", RFC_7628, b"user@example.com", TOKEN),
            (
                b"XOAUTH2",
                GOOGLES,
                b"someuser@example.com",
                b"ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg",
            ),
        ]:
            credentials, dialogue = run(mechanism, response)
            self.assertEqual((credentials.username, credentials.token), (name, token))
            self.assertEqual(dialogue.asked, [b""])

    def test_header(self):
        """The name is a saslname, or not given (section 3.1, RFC 5801 section 4)."""
        for header, name in [
            (b"n,,", b""),
            (b"y,,", b""),
            (b"n,a=,", b""),
            (b"n,a=user,", b"user"),
            (b"n,a=a=2Cb=3Dc=3D2C,", b"a,b=c=2C"),
            (b"n,a=\xc3\xbc,", b"\xc3\xbc"),
        ]:
            credentials, _ = run(b"OAUTHBEARER", header + b"\1auth=Bearer t\1\1")
            self.assertEqual(credentials.username, name)

    def test_bad_headers(self):
        """Anything else is malformed, channel binding included."""
        for header in [
            b"",
            b"n",
            b"n,",
            b"y,",
            b",,",
            b"N,,",
            b"p=tls-exporter,,",
            b"n,a=user",
            b"n,user,",
            b"n,a",
            b"n,a=user,,",
            b"n,a=a,b,",
            b"n,a=a=b,",
            b"n,a=a=2c,",
            b"n,a=a\0,",
            b"n,,n=user,",
        ]:
            self.assertMalformed(b"OAUTHBEARER", header + b"\1auth=Bearer t\1\1")

    def test_token(self):
        """A bearer's token is there once, its scheme in any case (RFC 7235 section 2.1)."""
        for pairs, token in [
            (b"auth=Bearer t\1\1", b"t"),
            (b"auth=bearer t\1\1", b"t"),
            (b"auth=Bearer  t \1\1", b"t"),
            (b"host=h\1port=1\1auth=Bearer a.b-c_d~e+f/g==\1\1", b"a.b-c_d~e+f/g=="),
            (b"auth=Bearer t\1more=later\1\1", b"t"),
            (b"auth=Bearer t\1\1", b"t"),
        ]:
            for mechanism, first in ((b"OAUTHBEARER", b"n,,"), (b"XOAUTH2", b"user=x")):
                self.assertEqual(run(mechanism, first + b"\1" + pairs)[0].token, token)

    def test_bad_tokens(self):
        """Anything else is malformed."""
        for pairs in [
            b"",
            b"\1",
            b"\1\1",
            b"auth=Bearer t",
            b"auth=Bearer t\1",
            b"auth=Bearer t\1\1x",
            b"auth=Bearer\1\1",
            b"auth=Bearer \1\1",
            b"auth=Bearer\tt\1\1",
            b"auth=Basic dDp0\1\1",
            b"auth=t\1\1",
            b"Auth=Bearer t\1\1",
            b"auth=Bearer t\1auth=Bearer u\1\1",
        ]:
            for mechanism, first in ((b"OAUTHBEARER", b"n,,"), (b"XOAUTH2", b"user=x")):
                self.assertMalformed(mechanism, first + b"\1" + pairs)

    def test_bad_users(self):
        """XOAUTH2 begins with the name."""
        for first in (b"", b"user", b"n,,", b"User=x", b" user=x"):
            self.assertMalformed(b"XOAUTH2", first + b"\1auth=Bearer t\1\1")

    def test_refuse(self):
        """A refusal is a challenge in JSON, to which any answer will do (section 3.2.2)."""
        reason = {"status": "invalid_token", "scope": "m\u00e4il"}
        for answer in (b"\1", b"", b"nonsense", POPError("authentication cancelled")):
            credentials, dialogue = run(b"OAUTHBEARER", RFC_7628, answer)
            self.assertIsNone(finish(credentials.refuse(reason)))
            self.assertEqual(json.loads(dialogue.asked[1].decode("ascii")), reason)
            self.assertEqual(dialogue.answers, [])

    @given(st.binary(max_size=20), st.binary(max_size=20))
    def test_any(self, header, pairs):
        """Whatever comes is a token or malformed."""
        for mechanism in (b"OAUTHBEARER", b"XOAUTH2"):
            for response in (header + b"\1" + pairs, header + b"\1auth=Bearer " + pairs + b"\1\1"):
                with contextlib.suppress(BadCommand):
                    self.assertTrue(run(mechanism, response)[0].token)


class ScramTests(MechanismsCase):
    """The four SCRAMs' entries; tests/auth/test_scram.py has the dialogue."""

    def test_entries(self):
        """Each name has its hash, and its binding."""
        tls_state = FakeChannel()
        for name, kind, header in [
            (b"SCRAM-SHA-256", IScramSHA256Credentials, b"n,,"),
            (b"SCRAM-SHA-1", IScramSHA1Credentials, b"n,,"),
            (b"SCRAM-SHA-256-PLUS", IScramSHA256Credentials, b"p=tls-exporter,,"),
            (b"SCRAM-SHA-1-PLUS", IScramSHA1Credentials, b"p=tls-server-end-point,,"),
        ]:
            self.assertIs(BY_NAME[name].credentials, kind)
            credentials, _ = run(name, header + b"n=user,r=abc", tls_state=tls_state)
            self.assertEqual(credentials.username, b"user")
            self.assertMalformed(name, b"nonsense", tls_state=tls_state)

    def test_hidden_plus(self):
        """A client that was not shown what it could bind by finds out (RFC 5802 section 6)."""
        first = b"y,,n=user,r=abc"
        for name in (b"SCRAM-SHA-256", b"SCRAM-SHA-1"):
            self.assertFails(name, first, offered=[name, name + b"-PLUS"])
            run(name, first, offered=[name])
        # The other hash's -PLUS is another mechanism.
        run(b"SCRAM-SHA-1", first, offered=[b"SCRAM-SHA-1", b"SCRAM-SHA-256-PLUS"])


class KindsTests(MechanismsCase):
    """What credentials each mechanism makes."""

    def test_kinds(self):
        """Those of its entry, which cred asks its checkers by."""
        for name, kind in [
            (b"PLAIN", IUsernamePassword),
            (b"LOGIN", IUsernamePassword),
            (b"CRAM-MD5", IUsernameHashedPassword),
            (b"EXTERNAL", ICertificateCredentials),
            (b"OAUTHBEARER", ITokenCredentials),
            (b"XOAUTH2", ITokenCredentials),
        ]:
            self.assertIs(BY_NAME[name].credentials, kind)

    def test_server_first(self):
        """CRAM-MD5 alone begins with the server (RFC 2195 section 2)."""
        self.assertEqual([each.name for each in MECHANISMS if each.server_first], [b"CRAM-MD5"])
