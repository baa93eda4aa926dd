"""The TLS profiles: versions and ciphers, as clients see them."""

import ssl

from OpenSSL import SSL

from popserv.options.table import TLS_PROFILES
from popserv.tls.profiles import DEFAULT_PROFILE, PROFILES
from tests.certificates import issue
from tests.tls.harness import CA, CertificatesTestCase, Handshake, client_context


class ProfileTests(CertificatesTestCase):
    """Handshakes with a server of each profile, with an RSA and a P-256 certificate."""

    def connect(self, profile, version, ciphers="ALL:@SECLEVEL=0", kind="rsa"):
        """Return the cipher and the version for a client that supports only these; or None."""
        pem = issue("pop.example.org", issuer=CA, kind=kind).pem()
        context = client_context()
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = context.minimum_version = version
        context.set_ciphers(ciphers)
        try:
            pair = Handshake(self.load(self.write("a.pem", pem), profile=profile), context)
        except ssl.SSLError:
            return None
        finally:
            # The constants of old versions are deprecated.
            self.flushWarnings()
        return pair.client.cipher()[:2]

    def test_names(self):
        """The option offers the profiles by name."""
        self.assertEqual(TLS_PROFILES, tuple(PROFILES))
        self.assertIn(DEFAULT_PROFILE, PROFILES)

    def test_versions(self):
        """Modern is TLS 1.3, intermediate includes TLS 1.2, and old also TLS 1.0 and 1.1."""
        versions = [getattr(ssl.TLSVersion, f"TLSv1{minor}") for minor in ("", "_1", "_2", "_3")]
        for profile, supported in (("modern", 1), ("intermediate", 2), ("old", 4)):
            found = [self.connect(profile, version) is not None for version in versions]
            self.assertEqual(found, [False] * (4 - supported) + [True] * supported, profile)

    def test_old_windows(self):
        """The ciphers that Windows 7 to 8.1 has for RSA certificates are available with old only.

        They are those of Schannel without DHE: CBC with ECDHE or RSA key exchange.
        """
        for cipher in (
            "ECDHE-RSA-AES256-SHA384",
            "ECDHE-RSA-AES128-SHA256",
            "ECDHE-RSA-AES256-SHA",
            "AES128-GCM-SHA256",
            "AES256-SHA256",
            "AES128-SHA",
        ):
            only = f"{cipher}:@SECLEVEL=0"
            self.assertEqual(
                self.connect("old", ssl.TLSVersion.TLSv1_2, only)[0], cipher, "with old"
            )
            self.assertIsNone(self.connect("intermediate", ssl.TLSVersion.TLSv1_2, only))
        self.assertEqual(
            self.connect("old", ssl.TLSVersion.TLSv1, "AES128-SHA:@SECLEVEL=0"),
            ("AES128-SHA", "SSLv3"),
        )

    def test_preference(self):
        """With old, the server chooses the cipher; a client that offers a better one gets it."""
        offered = "AES128-SHA:ECDHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0"
        self.assertEqual(
            self.connect("old", ssl.TLSVersion.TLSv1_2, offered)[0], "ECDHE-RSA-AES128-GCM-SHA256"
        )

    def test_no_weak_ciphers(self):
        """No profile offers anonymous ciphers, or ciphers without encryption or with RC4."""
        for profile in PROFILES.values():
            context = SSL.Context(SSL.TLS_SERVER_METHOD)
            profile.apply(context)
            for cipher in SSL.Connection(context, None).get_cipher_list():
                self.assertNotRegex(cipher, "NULL|ADH|AECDH|RC4|MD5|EXP|CAMELLIA|ARIA|CCM")
