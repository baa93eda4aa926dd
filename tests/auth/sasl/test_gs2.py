"""Tests of popserv.auth.sasl.gs2."""

import re

from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.sasl.gs2 import SASLNAME, decode_saslname


class SaslnameTests(SynchronousTestCase):
    """SASLNAME and decode_saslname (RFC 5801 section 4)."""

    def test_decode(self):
        """``=2C`` is a comma, ``=3D`` an equals sign; the result is not decoded again."""
        for saslname, name in (
            (b"user", b"user"),
            (b"=2C=3D", b",="),
            (b"=3D2C", b"=2C"),
            (b"=3D3D2C=2C", b"=3D2C,"),
        ):
            self.assertTrue(re.fullmatch(SASLNAME, saslname))
            self.assertEqual(decode_saslname(saslname), name)

    def test_invalid(self):
        """A saslname is not empty, and has no comma, no NUL and no other escape sequence."""
        for saslname in (b"", b"a,b", b"a\0", b"=", b"a=b", b"=2c", b"=3d", b"=20"):
            self.assertIsNone(re.fullmatch(SASLNAME, saslname), saslname)
