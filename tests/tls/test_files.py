"""The files of certificates: which are loaded, what is wrong with them, and when they change."""

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
    Already,
    DirectoryCase,
    FilesCase,
    Pair,
    client_context,
)


class ErrorTests(FilesCase):
    """What is wrong at the start is said in a line: which file, what, and what mends it."""

    def test_files(self):
        """Files that are not there, or no files, or may not be read."""
        self.assertRefused("^/no/such: no such file; name", "/no/such")
        certificate = self.write("cert.pem", SERVER_CERTIFICATE.certificate_pem())
        self.assertRefused("^/no/such: no such file", certificate, "/no/such")
        self.assertRefused(": not a regular file; name", "/dev/null")
        self.assertRefused(": Not a directory", certificate + "/below")
        self.patch(os, "stat", self.forbid)
        self.assertRefused(f"^{certificate}: permission denied; make it readable", certificate)

    def forbid(self, path):
        """As for one who is not root."""
        raise PermissionError(13, "Permission denied", path)

    def test_certificate(self):
        """Files without a certificate, or with a damaged one."""
        key = self.write("key.pem", SERVER_CERTIFICATE.key_pem())
        self.assertRefused(f"^{key}: no certificate in this file; it must be PEM", key)
        pem = SERVER_CERTIFICATE.pem()
        cut = self.write("cut.pem", pem[:60] + pem[90:])
        self.assertRefused(f"^{cut}: invalid certificate; copy", cut)

    def test_key(self):
        """Files without a key, or with one that is damaged, encrypted or another's."""
        certificate = self.write("cert.pem", SERVER_CERTIFICATE.certificate_pem())
        self.assertRefused(f"^{certificate}: no private key in this file; add it", certificate)
        encrypted = self.write("enc.pem", SERVER_CERTIFICATE.pem(b"pw"))
        self.assertRefused(f"^{encrypted}: the private key is encrypted, .*; decrypt", encrypted)
        key = SERVER_CERTIFICATE.key_pem()
        cut = self.write("cut.pem", key[:60] + key[90:])
        self.assertRefused(f"^{cut}: invalid private key; copy", certificate, cut)
        other = self.write("other.pem", issue("x").key_pem())
        self.assertRefused(
            f"^{other}: the private key does not match the first certificate in {certificate}; ",
            certificate,
            other,
        )

    def test_no_key_in_messages(self):
        """Nothing of a key gets into a message, nor into what a traceback would show."""
        key = SERVER_CERTIFICATE.key_pem()
        for pem in (key[:60] + key[90:], SERVER_CERTIFICATE.key_pem(b"pw")):
            path = self.write("a.pem", SERVER_CERTIFICATE.certificate_pem() + pem)
            with self.assertRaises(CertificateError) as caught:
                self.serve(path)
            self.assertIsNone(caught.exception.__context__)
            for line in pem.splitlines()[1:-1]:
                self.assertNotIn(line.decode(), str(caught.exception))

    def test_damage(self):
        """Whatever happens to an octet, what is not loaded is told of in a line."""
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
                self.serve(files[1], client_ca=files[0])
            except CertificateError as error:
                self.assertNotIn("\n", str(error))
            # Of what is odd, but not wrong enough.
            self.flushWarnings()

        check()

    def test_directory(self):
        """A directory needs certificates, and takes no other key."""
        self.assertRefused(f"^{self.root}: no certificate in this directory; add", self.root)
        self.assertRefused(
            f"^{self.root}: in a directory each certificate has its own key", self.root, "/k"
        )
        self.patch(os, "listdir", self.forbid)
        self.assertRefused(f"^{self.root}: Permission denied", self.root)


class DirectoryTests(DirectoryCase):
    """x"""

    def test_default(self):
        """Who names none is shown default.pem, or default/."""
        self.put(a=["a.example.org"], default=["b.example.org"], zz=["c.example.org"])
        self.assertEqual(self.shown(self.serve(self.root), "x.example.org"), "default")
        os.unlink(self.path("default.pem"))
        self.put("default", default=["b.example.org"])
        self.assertEqual(self.shown(self.serve(self.root), None), "default")

    def test_same_name(self):
        """Of two with one name, the first by file name is shown."""
        self.put(z=["x.example.org"], b=["x.example.org"], a=["y.example.org"])
        self.assertEqual(self.shown(self.serve(self.root), "x.example.org"), "b")

    def test_other_files(self):
        """Hidden files, READMEs and directories of something else are left alone."""
        self.put(b=["x.example.org"])
        self.write(".a.pem", b"half")
        self.write("README", b"read me")
        self.write("a/cert.pem", b"")
        os.mkdir(self.path("a.pem"))
        self.assertEqual(self.shown(self.serve(self.root), "x.example.org"), "b")

    def test_one_of_certbots(self):
        """The directory of one certificate is as good as the one above."""
        self.put("a", a=["a.example.org"])
        certificates = self.serve(self.path("a"))
        self.assertEqual(self.shown(certificates, "a.example.org"), "a")


class ReloadTests(FilesCase):
    """Files change while the server runs."""

    def renewed(self):
        """Another certificate for the same name."""
        return issue("pop.example.org", issuer=CA)

    def test_reload(self):
        """A new file is shown after a second, and a session under way goes on."""
        certificates = self.serve()
        before = Pair(certificates)
        new = self.renewed()
        path = self.write("server.pem", new.pem())
        self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())
        self.later()
        self.assertEqual(Pair(certificates).shown(), new.der())
        self.assertEqual(self.logged(), [f"{path}: TLS certificates reloaded"])
        self.assertEqual(before.talk(), (b"from the server", b"from the client"))

    def test_in_mid_handshake(self):
        """A handshake that began before a change ends with what fits together."""
        certificates = self.serve()
        begun = certificates.serverConnectionForTLS(None)
        new = self.renewed()
        self.write("server.pem", new.pem())
        self.later()
        certificates.serverConnectionForTLS(None)
        self.assertEqual(Pair(Already(begun)).shown(), new.der())

    def test_unchanged(self):
        """What has not changed is not read."""
        certificates = self.serve()
        self.patch(certificates, "_loaded", dict(certificates._loaded))
        self.later()
        context = certificates.serverConnectionForTLS(None).get_context()
        self.later()
        self.assertIs(certificates.serverConnectionForTLS(None).get_context(), context)
        self.assertEqual(self.logged(), [])

    def test_half_written(self):
        """While certificate and key do not fit the old ones stay, and the log says so once."""
        certificate = self.write("cert.pem", SERVER_CERTIFICATE.certificate_pem())
        key = self.write("key.pem", SERVER_CERTIFICATE.key_pem())
        certificates = self.serve(certificate, key)
        new = self.renewed()
        self.write("cert.pem", new.certificate_pem())
        for lines in (1, 0, 0):
            self.later()
            self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())
            logged = self.logged()
            self.assertEqual(len(logged), lines)
        self.write("cert.pem", b"")
        self.later()
        Pair(certificates)
        (line,) = self.logged()
        self.assertEqual(
            line,
            "TLS certificates not reloaded, the previous ones stay in use: "
            f"{certificate}: no certificate in this file; it must be PEM, with BEGIN CERTIFICATE",
        )
        self.write("cert.pem", new.certificate_pem())
        self.write("key.pem", new.key_pem())
        self.later()
        self.assertEqual(Pair(certificates).shown(), new.der())
        self.assertEqual(self.logged(), [f"{certificate}: TLS certificates reloaded"])

    def test_in_place(self):
        """A file that is written in place, through a link, counts as changed, too."""
        path = self.write("archive/1.pem", SERVER_CERTIFICATE.pem())
        link = self.path("live.pem")
        os.symlink(path, link)
        certificates = self.serve(link)
        new = self.renewed()
        with open(path, "wb") as file:
            file.write(new.pem())
        self.later()
        self.assertEqual(Pair(certificates).shown(), new.der())
        os.unlink(link)
        os.symlink(self.write("archive/2.pem", SERVER_CERTIFICATE.pem()), link)
        self.later()
        self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())

    def test_gone(self):
        """Files that vanish are shown on, and seen again when they are back."""
        certificates = self.serve()
        os.unlink(self.path("server.pem"))
        for _ in range(2):
            self.later()
            self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())
        self.assertEqual(len(self.logged()), 1)
        new = self.renewed()
        self.write("server.pem", new.pem())
        self.later()
        self.assertEqual(Pair(certificates).shown(), new.der())

    def test_directory(self):
        """In a directory files come and go, and a broken one does no harm to the others."""
        names = {}
        for name in "abcd":
            names[name] = issue(f"{name}.example.org", issuer=CA)
        for name in "ab":
            self.write(f"certs/{name}.pem", names[name].pem())
        certificates = self.serve(self.path("certs"))

        def shown(name):
            context = client_context(check_hostname=False)
            found = Pair(certificates, context, f"{name}.example.org").shown()
            return next(each for each in names if names[each].der() == found)

        self.assertEqual([shown(name) for name in "abcd"], list("abaa"))
        self.write("certs/c.pem", names["c"].pem())
        self.write("certs/b.pem", b"half")
        self.later()
        self.assertEqual([shown(name) for name in "abcd"], list("abca"))
        self.write("certs/d.pem", b"half")
        os.unlink(self.path("certs/b.pem"))
        self.later()
        self.assertEqual([shown(name) for name in "abcd"], list("aaca"))
        self.logged()
        self.write("certs/d.pem", names["d"].pem())
        os.unlink(self.path("certs/a.pem"))
        self.later()
        self.assertEqual([shown(name) for name in "abcd"], list("cccd"))
        self.assertEqual(self.logged(), [f"{self.path('certs/d.pem')}: TLS certificates reloaded"])

    def test_directory_emptied(self):
        """A directory that is emptied or goes away leaves what was there."""
        self.write("certs/a.pem", SERVER_CERTIFICATE.pem())
        certificates = self.serve(self.path("certs"))
        os.unlink(self.path("certs/a.pem"))
        self.later()
        self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())
        self.assertIn("no certificate in this directory", self.logged()[0])
        shutil.rmtree(self.path("certs"))
        self.later()
        self.assertEqual(Pair(certificates).shown(), SERVER_CERTIFICATE.der())
        self.assertIn("no such file", self.logged()[0])
