"""Tests of popserv.testing.authority, with the ssl module of Python as the client."""

import os
import ssl
import stat

from twisted.trial.unittest import SynchronousTestCase

from popserv.testing.authority import Authority
from popserv.testing.settings import CERTIFICATES


class AuthorityTests(SynchronousTestCase):
    """The certificates are what their kinds say."""

    def setUp(self):
        """Make an authority."""
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        self.authority = Authority(self.directory)

    def connect(self, kind, host):
        """Complete a handshake in memory with a server that has a certificate of this kind."""
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(self.authority.certificate(kind))
        client = ssl.create_default_context(cafile=self.authority.ca_file)
        # The default of Python 3.13.
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [
            client.wrap_bio(to_client, to_server, server_hostname=host),
            server.wrap_bio(to_server, to_client, server_side=True),
        ]
        while ends:
            try:
                ends[0].do_handshake()
                del ends[0]
            except ssl.SSLWantReadError:
                ends.reverse()

    def test_valid(self):
        """A client that trusts the authority accepts the certificate for each name of loopback."""
        for host in ("localhost", "127.0.0.1", "::1"):
            self.connect("valid", host)
        with self.assertRaisesRegex(ssl.SSLCertVerificationError, "mismatch"):
            self.connect("valid", "pop.example.org")

    def test_invalid(self):
        """A client rejects each of the other certificates, for the reason of its kind."""
        reasons = {"expired": "expired", "untrusted": "self.signed", "wrong-host": "mismatch"}
        self.assertEqual({"valid", *reasons}, set(CERTIFICATES))
        for kind, reason in reasons.items():
            with self.assertRaisesRegex(ssl.SSLCertVerificationError, reason):
                self.connect(kind, "localhost")

    def test_files(self):
        """A certificate is made once, and others cannot read its key."""
        path = self.authority.certificate("valid")
        made = os.stat(path)
        self.assertEqual(self.authority.certificate("valid"), path)
        self.assertEqual(os.stat(path).st_mtime_ns, made.st_mtime_ns)
        self.assertEqual(stat.S_IMODE(made.st_mode), 0o600)
