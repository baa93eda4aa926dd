"""X.509 certificates: whether they are a CA's, and when they expire."""

from datetime import datetime, timedelta, timezone

from cryptography.x509.oid import NameOID

from popserv.tls.certificates import Certificates
from tests.certificates import VERSION_1, issue, make_authority
from tests.tls.harness import BROKEN_NAMES, CA, SERVER_CERTIFICATE, CertificatesTestCase


class CATests(CertificatesTestCase):
    """A file of client CAs must contain certificates of CAs only."""

    def test_not_a_ca(self):
        """A certificate that is not a CA's is rejected, and named by its subject."""
        self.assert_rejected("^/no/such: no such file", client_ca="/no/such")
        empty = self.write("empty.pem", b"")
        self.assert_rejected(f"^{empty}: no certificate in this file", client_ca=empty)
        mixed = self.write("mixed.pem", CA.certificate_pem() + SERVER_CERTIFICATE.pem())
        self.assert_rejected(
            f"^{mixed}: CN=somebody is not the certificate of a CA; name", client_ca=mixed
        )
        lines = self.write(
            "lines.pem", issue(subject=[(NameOID.COMMON_NAME, "a\nb")]).certificate_pem()
        )
        self.assert_rejected(f"^{lines}: CN=a[?]b is not the certificate of a CA", client_ca=lines)
        broken = self.write("b.pem", issue(extension=BROKEN_NAMES, authority=True).pem())
        self.assert_rejected(f"^{broken}: .* is not the certificate of a CA; ", client_ca=broken)

    def test_version_1(self):
        """A self-signed certificate of X.509 version 1 counts as a CA's."""
        old = issue(issuer=None, authority=None)
        self.assert_rejected(
            "not the certificate of a CA", client_ca=self.write("a.pem", old.certificate_pem())
        )
        Certificates(
            self.write("server.pem", SERVER_CERTIFICATE.pem()),
            client_ca=self.write("v1.pem", VERSION_1),
        )


class ExpiryTests(CertificatesTestCase):
    """Certificates that expire within 14 days are logged."""

    def test_warnings(self):
        """warn_of_expiry logs each certificate and CA that has expired or expires soon."""
        ends = datetime.now(timezone.utc) + timedelta(days=13)
        a = self.write("certs/a.pem", issue("a.example.org", "b.example.org", ends=13).pem())
        b = self.write("certs/b.pem", issue(ends=-1).pem())
        self.write("certs/c.pem", issue("c.example.org", ends=15).pem())
        ca = self.write("ca.pem", make_authority("old", ends=-2).certificate_pem())
        certificates = self.load(self.path("certs"), client_ca=ca)
        self.assertEqual(self.take_log(), [])
        certificates.warn_of_expiry()
        lines = self.take_log()
        names = "a.example.org, b.example.org"
        self.assertEqual(
            lines[0], f"{a}: the certificate for {names} expires on {ends:%Y-%m-%d}; renew it"
        )
        self.assertIn(f"{b}: the certificate for no name expired on ", lines[1])
        self.assertIn(f"{ca}: the certificate for CN=old expired on ", lines[2])
        self.assertEqual(len(lines), 3)
        certificates.warn_of_expiry()
        self.assertEqual(self.take_log(), lines)
        self.load(self.path("certs/c.pem")).warn_of_expiry()
        self.assertEqual(self.take_log(), [])

    def test_no_client(self):
        """A renewed certificate is loaded before its end is told, if no client has connected."""
        path = self.write("cert.pem", issue("a.example.org", ends=1).pem())
        certificates = self.load(path)
        for tell, ends in (
            (certificates.warn_of_expiry, 50),
            (certificates.overview, 60),
            (certificates.ends, 70),
        ):
            before = certificates.server_certificates[0].end()
            self.write("cert.pem", issue("a.example.org", ends=ends).pem())
            self.pass_check_interval()
            tell()
            self.assertEqual(self.take_log(), [f"{path}: TLS certificates reloaded"])
            self.assertGreater(certificates.server_certificates[0].end(), before)

    def test_warned_once(self):
        """A certificate, or a CA, that is loaded for the warning is not warned of twice."""
        path = self.write("cert.pem", issue("a.example.org", ends=1).pem())
        ca = self.write("ca.pem", make_authority("old").certificate_pem())
        certificates = self.load(path, client_ca=ca)
        self.write("cert.pem", issue("a.example.org", ends=2).pem())
        self.pass_check_interval()
        for logged in (2, 1):
            certificates.warn_of_expiry()
            self.assertEqual(len(self.take_log()), logged)
        self.write("ca.pem", make_authority("old", ends=-1).certificate_pem())
        self.pass_check_interval()
        for logged in (3, 2):
            certificates.warn_of_expiry()
            self.assertEqual(len(self.take_log()), logged)

    def test_reloaded(self):
        """A certificate that is loaded later is checked; the others are not logged again."""
        self.write("certs/a.pem", issue("a.example.org", ends=1).pem())
        certificates = self.load(self.path("certs"))
        self.take_log()
        self.write("certs/b.pem", issue("b.example.org", ends=1).pem())
        self.pass_check_interval()
        certificates.serverConnectionForTLS(None)
        loaded, warned = self.take_log()
        self.assertIn("b.pem: TLS certificates reloaded", loaded)
        self.assertIn("b.pem: the certificate for b.example.org expires on", warned)
