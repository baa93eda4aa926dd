"""Tests of popserv.auth.sasl.oauthbearer: OAUTHBEARER (RFC 7628) and XOAUTH2."""

import contextlib
import json
from base64 import b64decode

from hypothesis import given
from hypothesis import strategies as st

from popserv.errors import BadCommand, POPError
from tests.auth.sasl.harness import MechanismCase, result_of, run_exchange

TOKEN = b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
# The examples of RFC 7628 section 4.1 and of Google's documentation of XOAUTH2.
RFC_7628_RESPONSE = b64decode(
    b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZG"
    b"OWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
)
GOOGLE_XOAUTH2 = b64decode(
    b"dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJo"
    b"ZG1semRHRXVZMjl0Q2cBAQ=="
)


class TokenTests(MechanismCase):
    """OAUTHBEARER (RFC 7628) and XOAUTH2."""

    def test_examples(self):
        """The examples of RFC 7628 and of Google are accepted."""
        for mechanism, response, name, token in [
            (b"OAUTHBEARER", RFC_7628_RESPONSE, b"user@example.com", TOKEN),
            (
                b"XOAUTH2",
                GOOGLE_XOAUTH2,
                b"someuser@example.com",
                b"ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg",
            ),
        ]:
            credentials, client = run_exchange(mechanism, response)
            self.assertEqual((credentials.username, credentials.token), (name, token))
            self.assertEqual(client.challenges, [b""])

    def test_header(self):
        """The user name is a saslname, and optional (section 3.1, RFC 5801 section 4)."""
        for header, name in [
            (b"n,,", b""),
            (b"y,,", b""),
            (b"n,a=,", b""),
            (b"n,a=user,", b"user"),
            (b"n,a=a=2Cb=3Dc=3D2C,", b"a,b=c=2C"),
            (b"n,a=\xc3\xbc,", b"\xc3\xbc"),
        ]:
            credentials, _ = run_exchange(b"OAUTHBEARER", header + b"\1auth=Bearer t\1\1")
            self.assertEqual(credentials.username, name)

    def test_bad_headers(self):
        """Other GS2 headers are malformed, also those with channel binding."""
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
        """There must be one token; the scheme is case-insensitive (RFC 7235 section 2.1)."""
        for pairs, token in [
            (b"auth=Bearer t\1\1", b"t"),
            (b"auth=bearer t\1\1", b"t"),
            (b"auth=Bearer  t \1\1", b"t"),
            (b"host=h\1port=1\1auth=Bearer a.b-c_d~e+f/g==\1\1", b"a.b-c_d~e+f/g=="),
            (b"auth=Bearer t\1more=later\1\1", b"t"),
            (b"auth=Bearer t\1\1", b"t"),
        ]:
            for mechanism, first in ((b"OAUTHBEARER", b"n,,"), (b"XOAUTH2", b"user=x")):
                self.assertEqual(run_exchange(mechanism, first + b"\1" + pairs)[0].token, token)

    def test_bad_tokens(self):
        """Other key=value pairs are malformed."""
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
        """A response of XOAUTH2 must start with the user name."""
        for first in (b"", b"user", b"n,,", b"User=x", b" user=x"):
            self.assertMalformed(b"XOAUTH2", first + b"\1auth=Bearer t\1\1")

    def test_refuse(self):
        """A refusal is a challenge in JSON; any response is accepted (section 3.2.2)."""
        reason = {"status": "invalid_token", "scope": "m\u00e4il"}
        for response in (b"\1", b"", b"nonsense", POPError("authentication cancelled")):
            credentials, client = run_exchange(b"OAUTHBEARER", RFC_7628_RESPONSE, response)
            self.assertIsNone(result_of(credentials.refuse(reason)))
            self.assertEqual(json.loads(client.challenges[1].decode("ascii")), reason)
            self.assertEqual(client.responses, [])

    @given(st.binary(max_size=20), st.binary(max_size=20))
    def test_any(self, header, pairs):
        """Any response has a token or is malformed."""
        for mechanism in (b"OAUTHBEARER", b"XOAUTH2"):
            for response in (header + b"\1" + pairs, header + b"\1auth=Bearer " + pairs + b"\1\1"):
                with contextlib.suppress(BadCommand):
                    self.assertTrue(run_exchange(mechanism, response)[0].token)
