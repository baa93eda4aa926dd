"""Certificate files: which of them are loaded, what can be wrong, and reloading."""

import os
import shutil
import ssl

from hypothesis import example, given
from hypothesis import strategies as st

from popserv.tls.files import CertificateError
from tests.certificates import issue
from tests.tls.harness import (
    CA,
    SERVER_CERTIFICATE,
    CertificatesTestCase,
    DirectoryTestCase,
    GivenConnection,
    Handshake,
    client_context,
)


class ErrorTests(CertificatesTestCase):
    """A file that cannot be used is reported in one line: the file, the problem, the remedy."""

    def test_unreadable(self):
        """A file must exist, be a regular file and be readable."""
        self.assert_rejected("^/no/such: no such file; name", "/no/such")
        certificate = self.write("cert.pem", SERVER_CERTIFICATE.certificate_pem())
        self.assert_rejected("^/no/such: no such file", certificate, "/no/such")
        self.assert_rejected(": not a regular file; name", "/dev/null")
        self.assert_rejected(": Not a directory", certificate + "/below")
        self.patch(os, "stat", self.forbid)
        self.assert_rejected(f"^{certificate}: permission denied; make it readable", certificate)

    def forbid(self, path):
        """Raise the error that a user other than root gets."""
        raise PermissionError(13, "Permission denied", path)

    def test_certificate(self):
        """A certificate file must contain a certificate, and it must be valid."""
        key = self.write("key.pem", SERVER_CERTIFICATE.key_pem())
        self.assert_rejected(f"^{key}: no certificate in this file; it must be PEM", key)
        pem = SERVER_CERTIFICATE.pem()
        cut = self.write("cut.pem", pem[:60] + pem[90:])
        self.assert_rejected(f"^{cut}: invalid certificate; copy", cut)

    def test_key(self):
        """A key must be present, valid, not encrypted, and match the certificate."""
        certificate = self.write("cert.pem", SERVER_CERTIFICATE.certificate_pem())
        self.assert_rejected(f"^{certificate}: no private key in this file; add it", certificate)
        encrypted = self.write("enc.pem", SERVER_CERTIFICATE.pem(b"pw"))
        self.assert_rejected(f"^{encrypted}: the private key is encrypted, .*; decrypt", encrypted)
        key = SERVER_CERTIFICATE.key_pem()
        cut = self.write("cut.pem", key[:60] + key[90:])
        self.assert_rejected(f"^{cut}: invalid private key; copy", certificate, cut)
        other = self.write("other.pem", issue("x").key_pem())
        self.assert_rejected(
            f"^{other}: the private key does not match the first certificate in {certificate}; ",
            certificate,
            other,
        )

    def test_no_key_in_messages(self):
        """Neither the message nor the traceback contains any part of a key."""
        key = SERVER_CERTIFICATE.key_pem()
        for pem in (key[:60] + key[90:], SERVER_CERTIFICATE.key_pem(b"pw")):
            path = self.write("a.pem", SERVER_CERTIFICATE.certificate_pem() + pem)
            with self.assertRaises(CertificateError) as caught:
                self.load(path)
            self.assertIsNone(caught.exception.__context__)
            for line in pem.splitlines()[1:-1]:
                self.assertNotIn(line.decode(), str(caught.exception))

    def test_damage(self):
        """A file with one changed octet is loaded, or rejected with one line."""
        whole = [CA.der(), SERVER_CERTIFICATE.der()]
        key = SERVER_CERTIFICATE.key_pem()

        @given(st.integers(0, 1), st.integers(0), st.integers(0, 255))
        @example(0, whole[0].index(b"the CA"), 0xFF)
        @example(0, whole[0].index(b"the CA") - 2, 0x1E)
        def check(which, position, octet):
            ders = [bytearray(der) for der in whole]
            ders[which][position % len(ders[which])] = octet
            files = [
                self.write(name, ssl.DER_cert_to_PEM_cert(bytes(der)).encode() + key)
                for name, der in zip(["ca.pem", "server.pem"], ders, strict=True)
            ]
            try:
                self.load(files[1], client_ca=files[0])
            except CertificateError as error:
                self.assertNotIn("\n", str(error))
            # cryptography warns of certificates that are unusual but valid.
            self.flushWarnings()

        check()

    def test_directory(self):
        """A directory must contain a certificate, and allows no separate key file."""
        self.assert_rejected(f"^{self.root}: no certificate in this directory; add", self.root)
        self.assert_rejected(
            f"^{self.root}: in a directory each certificate has its own key", self.root, "/k"
        )
        self.patch(os, "listdir", self.forbid)
        self.assert_rejected(f"^{self.root}: Permission denied", self.root)


class DirectoryTests(DirectoryTestCase):
    """Which files of a directory are certificates, and which one is the default."""

    def test_default(self):
        """A client without a server name gets default.pem or default/."""
        self.write_certificates(
            a=["a.example.org"], default=["b.example.org"], zz=["c.example.org"]
        )
        self.assertEqual(self.presented(self.load(self.root), "x.example.org"), "default")
        os.unlink(self.path("default.pem"))
        self.write_certificates("default", default=["b.example.org"])
        self.assertEqual(self.presented(self.load(self.root), None), "default")

    def test_same_name(self):
        """Of two certificates with the same name, the first by file name is used."""
        self.write_certificates(z=["x.example.org"], b=["x.example.org"], a=["y.example.org"])
        self.assertEqual(self.presented(self.load(self.root), "x.example.org"), "b")

    def test_ignored_files(self):
        """Hidden files and files of other kinds are ignored."""
        self.write_certificates(b=["x.example.org"])
        self.write(".a.pem", b"half")
        self.write("README", b"read me")
        self.write("a/cert.pem", b"")
        os.mkdir(self.path("a.pem"))
        self.assertEqual(self.presented(self.load(self.root), "x.example.org"), "b")

    def test_certbot_directory(self):
        """A directory of certbot's for one certificate can be given."""
        self.write_certificates("a", a=["a.example.org"])
        certificates = self.load(self.path("a"))
        self.assertEqual(self.presented(certificates, "a.example.org"), "a")


class ReloadTests(CertificatesTestCase):
    """Files that change while the server runs are reloaded."""

    def renew(self):
        """Return a new certificate for the same name."""
        return issue("pop.example.org", issuer=CA)

    def test_reload(self):
        """A new file is used after a second; established connections are not affected."""
        certificates = self.load()
        before = Handshake(certificates)
        used = SERVER_CERTIFICATE
        for new in (self.renew(), self.renew()):
            path = self.write("server.pem", new.pem())
            self.assertEqual(Handshake(certificates).presented(), used.der())
            self.pass_check_interval()
            self.assertEqual(Handshake(certificates).presented(), new.der())
            self.assertEqual(self.take_log(), [f"{path}: TLS certificates reloaded"])
            used = new
        self.assertEqual(before.exchange_data(), (b"from the server", b"from the client"))

    def test_during_handshake(self):
        """A handshake that starts before a reload has a matching certificate and key."""
        certificates = self.load()
        begun = certificates.serverConnectionForTLS(None)
        new = self.renew()
        self.write("server.pem", new.pem())
        self.pass_check_interval()
        certificates.serverConnectionForTLS(None)
        self.assertEqual(Handshake(GivenConnection(begun)).presented(), new.der())

    def test_unchanged(self):
        """A file that has not changed is not read again."""
        certificates = self.load()
        self.patch(certificates, "_loaded", dict(certificates._loaded))
        self.pass_check_interval()
        context = certificates.serverConnectionForTLS(None).get_context()
        self.pass_check_interval()
        self.assertIs(certificates.serverConnectionForTLS(None).get_context(), context)
        self.assertEqual(self.take_log(), [])

    def test_half_written(self):
        """While certificate and key do not match, the previous ones are used; logged once."""
        certificate = self.write("cert.pem", SERVER_CERTIFICATE.certificate_pem())
        key = self.write("key.pem", SERVER_CERTIFICATE.key_pem())
        certificates = self.load(certificate, key)
        new = self.renew()
        self.write("cert.pem", new.certificate_pem())
        for lines in (1, 0, 0):
            self.pass_check_interval()
            self.assertEqual(Handshake(certificates).presented(), SERVER_CERTIFICATE.der())
            logged = self.take_log()
            self.assertEqual(len(logged), lines)
        self.write("cert.pem", b"")
        self.pass_check_interval()
        Handshake(certificates)
        (line,) = self.take_log()
        self.assertEqual(
            line,
            "TLS certificates not reloaded, the previous ones stay in use: "
            f"{certificate}: no certificate in this file; it must be PEM, with BEGIN CERTIFICATE",
        )
        self.write("cert.pem", new.certificate_pem())
        self.write("key.pem", new.key_pem())
        self.pass_check_interval()
        self.assertEqual(Handshake(certificates).presented(), new.der())
        self.assertEqual(self.take_log(), [f"{certificate}: TLS certificates reloaded"])

    def test_half_written_chain(self):
        """So they are while the file ends within a certificate of the chain."""
        whole = SERVER_CERTIFICATE.certificate_pem()
        certificate = self.write("cert.pem", whole)
        certificates = self.load(certificate, self.write("key.pem", SERVER_CERTIFICATE.key_pem()))
        begin = b"-----BEGIN CERTIFICATE-----\n"
        end = whole.rindex(b"-----END")
        for cut, is_whole in ((begin, False), (begin + whole[30:end], False), (b"", True)):
            self.write("cert.pem", whole + cut)
            self.pass_check_interval()
            self.assertEqual(Handshake(certificates).presented(), SERVER_CERTIFICATE.der())
            (line,) = self.take_log()
            self.assertEqual("ends within a certificate; copy it again" in line, not is_whole)

    def test_in_place(self):
        """A file that is changed in place, or behind a symbolic link, is reloaded."""
        path = self.write("archive/1.pem", SERVER_CERTIFICATE.pem())
        link = self.path("live.pem")
        os.symlink(path, link)
        certificates = self.load(link)
        new = self.renew()
        with open(path, "wb") as file:
            file.write(new.pem())
        self.pass_check_interval()
        self.assertEqual(Handshake(certificates).presented(), new.der())
        os.unlink(link)
        os.symlink(self.write("archive/2.pem", SERVER_CERTIFICATE.pem()), link)
        self.pass_check_interval()
        self.assertEqual(Handshake(certificates).presented(), SERVER_CERTIFICATE.der())

    def test_removed(self):
        """A removed file is used until it is there again."""
        certificates = self.load()
        os.unlink(self.path("server.pem"))
        for _ in range(2):
            self.pass_check_interval()
            self.assertEqual(Handshake(certificates).presented(), SERVER_CERTIFICATE.der())
        self.assertEqual(len(self.take_log()), 1)
        new = self.renew()
        self.write("server.pem", new.pem())
        self.pass_check_interval()
        self.assertEqual(Handshake(certificates).presented(), new.der())

    def test_directory(self):
        """Files in a directory are added and removed; a broken one does not affect the others."""
        names = {}
        for name in "abcd":
            names[name] = issue(f"{name}.example.org", issuer=CA)
        for name in "ab":
            self.write(f"certs/{name}.pem", names[name].pem())
        certificates = self.load(self.path("certs"))

        def presented(name):
            context = client_context(check_hostname=False)
            found = Handshake(certificates, context, f"{name}.example.org").presented()
            return next(each for each in names if names[each].der() == found)

        self.assertEqual([presented(name) for name in "abcd"], list("abaa"))
        self.write("certs/c.pem", names["c"].pem())
        self.write("certs/b.pem", b"half")
        self.pass_check_interval()
        self.assertEqual([presented(name) for name in "abcd"], list("abca"))
        self.write("certs/d.pem", b"half")
        os.unlink(self.path("certs/b.pem"))
        self.pass_check_interval()
        self.assertEqual([presented(name) for name in "abcd"], list("aaca"))
        self.take_log()
        self.write("certs/d.pem", names["d"].pem())
        os.unlink(self.path("certs/a.pem"))
        self.pass_check_interval()
        self.assertEqual([presented(name) for name in "abcd"], list("cccd"))
        self.assertEqual(
            self.take_log(), [f"{self.path('certs/d.pem')}: TLS certificates reloaded"]
        )

    def assert_kept(self, certificates, problem):
        """Check that b is still presented after a check, and that a problem is logged once."""
        for lines in (1, 0):
            self.pass_check_interval()
            context = client_context(check_hostname=False)
            presented = Handshake(certificates, context, "b.example.org").presented()
            self.assertEqual(presented, self.b.der())
            logged = self.take_log()
            self.assertEqual(len(logged), lines)
            if lines:
                self.assertIn(problem, logged[0])

    def assert_removed(self, certificates):
        """Check that b is no longer presented after a check."""
        self.pass_check_interval()
        context = client_context(check_hostname=False)
        presented = Handshake(certificates, context, "b.example.org").presented()
        self.assertNotEqual(presented, self.b.der())
        self.assertEqual(self.take_log(), [])

    def load_two(self):
        """Load a directory with the certificates a and b, each in a directory as of certbot."""
        self.b = issue("b.example.org", issuer=CA)
        for name, each in (("a", issue("a.example.org", issuer=CA)), ("b", self.b)):
            self.write(f"certs/{name}/fullchain.pem", each.certificate_pem())
            self.write(f"certs/{name}/privkey.pem", each.key_pem())
        return self.load(self.path("certs"))

    def test_forbidden(self):
        """A certificate that can no longer be examined is used, and the reason is logged."""
        certificates = self.load_two()
        stat = os.stat

        def forbid(path, **options):
            if "/b/" in str(path):
                raise PermissionError(13, "Permission denied", path)
            return stat(path, **options)

        self.patch(os, "stat", forbid)
        self.assert_kept(certificates, "b/fullchain.pem: permission denied; make it readable")

    def test_ignored_at_the_start(self):
        """At the start, a directory that cannot be examined, or is none of certbot, is ignored."""
        self.write("certs/privkey/privkey.pem", b"x")
        os.symlink("nowhere", self.path("certs/link.pem"))
        stat = os.stat

        def forbid(path, **options):
            if "/lost+found/" in str(path):
                raise PermissionError(13, "Permission denied", path)
            return stat(path, **options)

        os.mkdir(self.path("certs/lost+found"))
        self.patch(os, "stat", forbid)
        certificates = self.load_two()
        self.assertEqual(len(certificates.server_certificates), 2)
        self.pass_check_interval()
        context = client_context(check_hostname=False)
        presented = Handshake(certificates, context, "b.example.org").presented()
        self.assertEqual(presented, self.b.der())
        self.assertEqual(self.take_log(), [])

    def test_link(self):
        """So is one whose links do not exist for a moment, as certbot replaces them."""
        certificates = self.load_two()
        path = self.path("certs/b/fullchain.pem")
        os.rename(path, path + ".1")
        self.assert_kept(certificates, "b/fullchain.pem: no such file")
        os.symlink(path + ".2", path)
        os.unlink(self.path("certs/b/privkey.pem"))
        self.assert_kept(certificates, "b/fullchain.pem: no such file")
        os.unlink(path)
        self.assert_removed(certificates)

    def test_file_instead_of_directory(self):
        """A certificate whose directory is replaced by a file is removed."""
        certificates = self.load_two()
        shutil.rmtree(self.path("certs/b"))
        self.write("certs/b", b"x")
        self.assert_removed(certificates)

    def test_empty_directory(self):
        """If a directory is emptied or removed, the previous certificates are used."""
        self.write("certs/a.pem", SERVER_CERTIFICATE.pem())
        certificates = self.load(self.path("certs"))
        os.unlink(self.path("certs/a.pem"))
        self.pass_check_interval()
        self.assertEqual(Handshake(certificates).presented(), SERVER_CERTIFICATE.der())
        self.assertIn("no certificate in this directory", self.take_log()[0])
        shutil.rmtree(self.path("certs"))
        self.pass_check_interval()
        self.assertEqual(Handshake(certificates).presented(), SERVER_CERTIFICATE.der())
        self.assertIn("no such file", self.take_log()[0])
