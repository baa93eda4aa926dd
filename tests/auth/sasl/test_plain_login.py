"""Tests of popserv.auth.sasl.plain_login: PLAIN (RFC 4616) and LOGIN."""

from hypothesis import given
from hypothesis import strategies as st

from popserv.auth.sasl.plain_login import plain_exchange
from popserv.errors import LoginFailed, POPError
from tests.auth.sasl.harness import (
    MechanismCase,
    ScriptedClient,
    make_session,
    result_of,
    run_exchange,
)

NUL = b"\0"


class PlainTests(MechanismCase):
    """PLAIN (RFC 4616)."""

    def test_response(self):
        """Names and passwords are non-empty and have no NUL (section 2)."""
        for response, name, password in [
            (b"\0tim\0tanstaaftanstaaf", b"tim", b"tanstaaftanstaaf"),
            (b"\0t\xc3\xafm\0 p w \r\n", b"t\xc3\xafm", b" p w \r\n"),
            # The authorization identity may be the authentication identity.
            (b"tim\0tim\0pw", b"tim", b"pw"),
        ]:
            credentials, client = run_exchange(b"PLAIN", response)
            self.assertEqual((credentials.username, credentials.password), (name, password))
            self.assertEqual(client.challenges, [b""])

    def test_other_authzid(self):
        """Another authorization identity fails, as in the example of section 4."""
        for response in (b"Ursel\0Kurt\0xipj3plmq", b"KURT\0Kurt\0pw", b"Kurt \0Kurt\0pw"):
            self.assertFails(b"PLAIN", response)

    def test_name(self):
        """The session has the name of a login that fails, for the log."""
        session = make_session()
        client = ScriptedClient(b"Ursel\0Kurt\0pw")
        login = plain_exchange(client.send_challenge, session, ())
        self.assertRaises(LoginFailed, result_of, login)
        self.assertEqual(session.name, b"Kurt")

    def test_malformed(self):
        """Other responses are malformed."""
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
    def test_any(self, authzid, name, password):
        """For any response, only the authentication identity can log in."""
        response = authzid + NUL + name + NUL + password
        try:
            credentials, _ = run_exchange(b"PLAIN", response)
        except POPError:
            self.assertTrue(NUL in authzid + name + password or not name or not password or authzid)
        else:
            self.assertEqual((credentials.username, credentials.password), (name, password))
            self.assertIn(authzid, (b"", name))


class LoginTests(MechanismCase):
    """LOGIN."""

    def test_response(self):
        """The server asks for the name, then for the password."""
        credentials, client = run_exchange(b"LOGIN", b"tim", b" p w ")
        self.assertEqual((credentials.username, credentials.password), (b"tim", b" p w "))
        self.assertEqual(client.challenges, [b"Username:", b"Password:"])

    def test_malformed(self):
        """The name and the password must not be empty or have a NUL."""
        for responses in [(b"", b"pw"), (b"tim", b""), (b"t\0m", b"pw"), (b"tim", b"p\0w")]:
            self.assertMalformed(b"LOGIN", *responses)
