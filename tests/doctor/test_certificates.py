"""Tests of popserv.doctor.certificates."""

import os
import ssl
from datetime import timedelta
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import AuthorityInformationAccessOID
from OpenSSL.crypto import X509, X509Store
from twisted.trial.unittest import SynchronousTestCase

from popserv.doctor import certificates
from popserv.doctor.certificates import (
    check_certificate,
    check_hostname,
    check_key_files,
    system_store,
)
from tests.certificates import CLIENT, SERVER, issue, make_authority
from tests.doctor.harness import codes, open_directory, unprivileged


class Certificate:
    """What a check needs of a server certificate."""

    file = "/pem"

    def __init__(self, *chain, names=("pop.example.org",)):
        self.chain = [getattr(each, "certificate", each) for each in chain]
        self.names = list(names)


class CertificateTests(SynchronousTestCase):
    """A certificate and its chain."""

    def setUp(self):
        """Make a CA that this system trusts."""
        self.root = make_authority("the root")
        self.store = X509Store()
        self.store.add_cert(X509.from_cryptography(self.root.certificate))

    def issue(self, issuer=None, **options):
        """Issue a certificate that is right, except for the options."""
        names = options.pop("names", ["pop.example.org"])
        return issue(*names, issuer=issuer or self.root, **{"usage": [SERVER], **options})

    def findings(self, *chain, trusted=True):
        """Return what is found."""
        return list(check_certificate(Certificate(*chain), self.store if trusted else None))

    def codes(self, *chain, **options):
        """Return the codes of what is found."""
        return codes(self.findings(*chain, **options))

    def test_right(self):
        """A certificate of a trusted CA is right, with an intermediate CA or without it."""
        self.assertEqual(self.codes(self.issue()), [])
        between = make_authority("between", issuer=self.root)
        self.assertEqual(self.codes(self.issue(between), between), [])

    def test_validity(self):
        """Certificates that have expired, or are not valid yet, are errors."""
        self.assertEqual(self.codes(self.issue(ends=-1)), ["e certificate-expired"])
        self.assertEqual(self.codes(self.issue(ends=13)), ["w certificate-expires"])
        self.assertEqual(self.codes(self.issue(ends=15)), [])
        self.assertEqual(self.codes(self.issue(begins=1)), ["e certificate-early"])
        between = make_authority("between", issuer=self.root, ends=-1)
        [finding] = self.findings(self.issue(between), between)
        self.assertIn("the certificate of CN=between expired", finding.what)

    def test_leaf(self):
        """What Apple's programs reject is told."""
        self.assertEqual(self.codes(self.issue(names=[])), ["e certificate-names"])
        self.assertEqual(self.codes(self.issue(names=[], mail=["a@b"])), ["e certificate-names"])
        self.assertEqual(self.codes(self.issue(ends=795)), [])
        self.assertEqual(self.codes(self.issue(ends=796)), ["w certificate-lifetime"])
        for usage in ([], [CLIENT]):
            self.assertIn("w certificate-usage", self.codes(self.issue(usage=usage)))

    def test_order(self):
        """A chain in another order is a warning, and a root in it a hint."""
        upper = make_authority("upper", issuer=self.root)
        lower = make_authority("lower", issuer=upper)
        leaf = self.issue(lower)
        self.assertEqual(self.codes(leaf, lower, upper), [])
        self.assertEqual(self.codes(leaf, upper, lower), ["w certificate-order"])
        self.assertEqual(self.codes(leaf, lower, upper, self.root), ["h certificate-root"])

    def test_signature(self):
        """A weak hash is an error, except for that of a root."""
        leaf = self.issue()
        with mock.patch.object(certificates, "_WEAK_HASHES", (hashes.SHA256.name,)):
            self.assertEqual(self.codes(leaf), ["e certificate-signature"])
            found = self.codes(leaf, self.root)
        self.assertEqual(found, ["h certificate-root", "e certificate-signature"])

    def test_trust(self):
        """A chain without a trusted root is told: why depends on what is missing."""
        self.assertEqual(self.codes(self.issue(), trusted=False), ["u certificate-untrusted"])
        self_signed = issue("pop.example.org", usage=[SERVER])
        self.assertEqual(self.codes(self_signed), ["w certificate-self-signed"])
        other = make_authority("another root")
        self.assertEqual(self.codes(self.issue(other)), ["w certificate-untrusted"])
        self.assertEqual(
            self.codes(self.issue(other), other), ["h certificate-root", "w certificate-untrusted"]
        )
        access = x509.AuthorityInformationAccess(
            [
                x509.AccessDescription(
                    AuthorityInformationAccessOID.CA_ISSUERS,
                    x509.UniformResourceIdentifier("http://ca.example/ca.der"),
                )
            ]
        )
        between = make_authority("between", issuer=self.root)
        public = self.with_access(between, access)
        self.assertEqual(self.codes(public), ["e certificate-incomplete"])
        self.assertEqual(self.codes(public, between), [])

    def with_access(self, issuer, access):
        """Return a certificate that says where that of its issuer is."""
        leaf = self.issue(issuer)
        builder = x509.CertificateBuilder(
            subject_name=leaf.certificate.subject,
            issuer_name=leaf.certificate.issuer,
            public_key=leaf.certificate.public_key(),
            serial_number=leaf.certificate.serial_number,
            not_valid_before=leaf.certificate.not_valid_before_utc,
            not_valid_after=leaf.certificate.not_valid_before_utc + timedelta(days=90),
            extensions=list(leaf.certificate.extensions),
        )
        return builder.add_extension(access, False).sign(issuer.key, hashes.SHA256())

    def test_system(self):
        """The store has the CAs of this system; a system may have none."""
        self.assertIsNotNone(system_store())

        class Paths:
            cafile = capath = None

        self.patch(ssl, "get_default_verify_paths", Paths)
        self.assertIsNone(system_store())

    def test_hostname(self):
        """One of the certificates must have the name of the server; a wildcard may stand for it."""
        for names, expected in (
            (["pop.example.org"], []),
            (["*.example.org"], []),
            (["example.org"], ["w certificate-hostname"]),
            ([], ["w certificate-hostname"]),
        ):
            found = check_hostname("POP.example.org.", [Certificate(names=names)])
            self.assertEqual(codes(found), expected, names)


class KeyFileTests(SynchronousTestCase):
    """The files of a certificate."""

    def test_files(self):
        """A key that others can read is a warning, as is a file that cannot be read again."""
        directory = open_directory(self)
        certificate = Certificate()
        certificate.file, certificate.key_file = str(directory / "pem"), str(directory / "key")
        for name in ("pem", "key"):
            (directory / name).write_text("x")
        os.chmod(certificate.file, 0o644)
        os.chmod(certificate.key_file, 0o640)
        self.assertEqual(codes(check_key_files(certificate)), [])
        os.chmod(certificate.key_file, 0o644)
        self.assertEqual(codes(check_key_files(certificate)), ["w key-exposed"])
        os.chmod(certificate.key_file, 0)
        with unprivileged():
            self.assertEqual(codes(check_key_files(certificate)), ["w certificate-unreadable"])
