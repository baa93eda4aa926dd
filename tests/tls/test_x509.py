"""X.509 certificates."""

from datetime import datetime, timedelta, timezone

from cryptography.x509.oid import NameOID

from popserv.tls.certificates import Certificates
from tests.certificates import VERSION_1, issue, make_authority
from tests.tls.harness import BROKEN_NAMES, CA, SERVER_CERTIFICATE, ClientCase, FilesCase


class CATests(FilesCase):
    """x"""

    def test_client_ca(self):
        """The CAs' file must hold CAs."""
        self.assertRefused("^/no/such: no such file", client_ca="/no/such")
        empty = self.write("empty.pem", b"")
        self.assertRefused(f"^{empty}: no certificate in this file", client_ca=empty)
        mixed = self.write("mixed.pem", CA.certificate_pem() + SERVER_CERTIFICATE.pem())
        self.assertRefused(
            f"^{mixed}: CN=somebody is not the certificate of a CA; name", client_ca=mixed
        )
        lines = self.write(
            "lines.pem", issue(subject=[(NameOID.COMMON_NAME, "a\nb")]).certificate_pem()
        )
        self.assertRefused(f"^{lines}: CN=a[?]b is not the certificate of a CA", client_ca=lines)
        broken = self.write("b.pem", issue(extension=BROKEN_NAMES, authority=True).pem())
        self.assertRefused(f"^{broken}: .* is not the certificate of a CA; ", client_ca=broken)


class Version1Tests(ClientCase):
    """x"""

    def test_version_1(self):
        """An old CA that cannot say that it is one is taken for one."""
        old = issue(issuer=None, authority=None)
        self.assertRefused(
            "not the certificate of a CA", client_ca=self.write("a.pem", old.certificate_pem())
        )
        Certificates(
            self.write("server.pem", SERVER_CERTIFICATE.pem()),
            client_ca=self.write("v1.pem", VERSION_1),
        )


class ExpiryTests(FilesCase):
    """An operator is told before users are."""

    def test_warnings(self):
        """Certificates that ended or soon will are warned of when asked, as at the start."""
        ends = datetime.now(timezone.utc) + timedelta(days=13)
        a = self.write("certs/a.pem", issue("a.example.org", "b.example.org", ends=13).pem())
        b = self.write("certs/b.pem", issue(ends=-1).pem())
        self.write("certs/c.pem", issue("c.example.org", ends=15).pem())
        ca = self.write("ca.pem", make_authority("old", ends=-2).certificate_pem())
        certificates = self.serve(self.path("certs"), client_ca=ca)
        self.assertEqual(self.logged(), [])
        certificates.warn_of_expiry()
        lines = self.logged()
        names = "a.example.org, b.example.org"
        self.assertEqual(
            lines[0], f"{a}: the certificate for {names} expires on {ends:%Y-%m-%d}; renew it"
        )
        self.assertIn(f"{b}: the certificate for no name expired on ", lines[1])
        self.assertIn(f"{ca}: the certificate for CN=old expired on ", lines[2])
        self.assertEqual(len(lines), 3)
        certificates.warn_of_expiry()
        self.assertEqual(self.logged(), lines)
        self.serve(self.path("certs/c.pem")).warn_of_expiry()
        self.assertEqual(self.logged(), [])

    def test_reloaded(self):
        """What is loaded anew is looked at, too, and the rest is not told again."""
        self.write("certs/a.pem", issue("a.example.org", ends=1).pem())
        certificates = self.serve(self.path("certs"))
        self.logged()
        self.write("certs/b.pem", issue("b.example.org", ends=1).pem())
        self.later()
        certificates.serverConnectionForTLS(None)
        loaded, warned = self.logged()
        self.assertIn("b.pem: TLS certificates reloaded", loaded)
        self.assertIn("b.pem: the certificate for b.example.org expires on", warned)
