"""Tests of popserv.auth.hmac_md5."""

import hmac
from hashlib import md5

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.hmac_md5 import CONTEXT_LENGTH, hmac_md5, hmac_md5_context
from tests.live.harness import require_programs, run


class HmacMD5Tests(SynchronousTestCase):
    """hmac_md5_context and hmac_md5."""

    def test_rfc2195(self):
        """The example of RFC 2195 section 2 has the digest that the RFC shows."""
        challenge = b"<1896.697170952@postoffice.reston.mci.net>"
        digest = hmac_md5(hmac_md5_context(b"tanstaaftanstaaf"), challenge)
        self.assertEqual(digest.hex(), "b913a602c7eda7a495b4e6e7334d3890")

    def test_rfc2104(self):
        """The test vectors of RFC 2104 have the digests that the RFC shows."""
        for key, data, digest in (
            (b"\x0b" * 16, b"Hi There", "9294727a3638bb1c13f48ef8158bfc9d"),
            (b"Jefe", b"what do ya want for nothing?", "750c783e6ab0b503eaa86e310a5db738"),
            (b"\xaa" * 16, b"\xdd" * 50, "56be34521d144c88dbb8c733f0e8b3f6"),
        ):
            self.assertEqual(hmac_md5(hmac_md5_context(key), data).hex(), digest)

    @given(st.binary(max_size=200), st.binary(max_size=300))
    def test_hashlib(self, key, message):
        """The result is that of Python's hmac for every password and message."""
        context = hmac_md5_context(key)
        self.assertEqual(len(context), CONTEXT_LENGTH)
        self.assertEqual(hmac_md5(context, message), hmac.digest(key, message, "md5"))

    def test_lengths(self):
        """The result is right at the lengths where the padding needs another block."""
        for length in (*range(53, 66), *range(117, 130)):
            key = message = bytes(length)
            expected = hmac.new(key, message, md5).digest()
            self.assertEqual(hmac_md5(hmac_md5_context(key), message), expected, length)

    def test_doveadm(self):
        """The context is the one that doveadm pw writes for the same password."""
        require_programs(self, "doveadm")
        for password in ("password", "ü", "x" * 65):
            for scheme in ("CRAM-MD5", "HMAC-MD5"):
                line = run("doveadm", "pw", "-s", scheme, "-p", password).stdout.strip()
                context = hmac_md5_context(password.encode()).hex()
                self.assertEqual(line.decode(), f"{{{scheme}}}{context}")
