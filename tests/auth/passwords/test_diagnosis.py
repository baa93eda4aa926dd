"""Tests of popserv.auth.passwords.diagnosis."""

import fcntl
import os

from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.auth.passwords.diagnosis import diagnose_users
from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.interfaces import IDiagnosed, IUserNames
from popserv.runtime import extras
from tests.doctor.harness import codes, open_directory, unprivileged
from tests.maildrops.maildir.harness import result

SECRET = new_scram_sha256(b"password", 1)


class DiagnosisTests(SynchronousTestCase):
    """A users file."""

    def checker(self, *lines):
        """Write a file; return its checker."""
        self.path = open_directory(self) / "users"
        self.path.write_bytes(b"".join(line + b"\n" for line in lines))
        self.path.chmod(0o600)
        return PasswdFileChecker(str(self.path), maybeDeferred)

    def findings(self, *lines):
        """Return what is found in a file."""
        checker = self.checker(*lines)
        verifyObject(IDiagnosed, checker)
        found = []
        self.diagnose(checker, found)
        return found

    def diagnose(self, checker, found):
        """Collect what a checker finds."""
        found.extend(result(checker.diagnose()))

    def codes(self, *lines):
        """Return the codes of what is found."""
        return codes(self.findings(*lines))

    def test_right(self):
        """A file with strong secrets has nothing wrong with it, nor has a missing one."""
        self.assertEqual(self.codes(b"ann:" + SECRET, b"bob:"), [])
        checker = self.checker()
        self.path.unlink()
        found = []
        self.diagnose(checker, found)
        self.assertEqual(found, [])

    def test_users(self):
        """Users who can log in are listed with their settings."""
        checker = self.checker(
            b"ann:" + SECRET,
            b"bob:" + SECRET + b"::::::popserv_read_only",
            b"eve:" + SECRET + b"::::::nologin",
        )
        verifyObject(IUserNames, checker)
        settings = UserSettings(read_only=True)
        self.assertEqual(
            list(checker.users()),
            [(b"ann", b"ann"), (b"bob", ConfiguredUser(b"bob", settings))],
        )

    def test_lines(self):
        """Mistakes are told with their lines; a user who is disabled on purpose is a hint."""
        found = self.findings(
            b"ann:" + SECRET,
            b"ann:" + SECRET,
            b"bob:" + SECRET + b"::::::nologin",
            b"eve:" + SECRET + b"::::::allow_net=1",
            b"joe:{ROT13}x",
            b"sue:" + SECRET + b"::::::allow_nets=x,192.0.2.1",
        )
        self.assertEqual(
            codes(found),
            ["w users-line", "h users-line", "e users-line", "e users-line", "w users-line"],
        )
        self.assertEqual(found[0].where, f"{self.path}, line 2")

    def test_unreadable(self):
        """A file that the server's user cannot read is an error, or that others can."""
        checker = self.checker(b"ann:" + SECRET)
        checker._users_file.read()
        self.path.chmod(0)
        found = []
        with unprivileged():
            self.diagnose(checker, found)
        self.assertEqual(codes(found), ["e users-file"])
        self.path.chmod(0o644)
        found = []
        self.diagnose(checker, found)
        self.assertEqual(codes(found), ["e users-file"])

    def test_copy(self):
        """A copy that a command has left which was killed is told; one that is written is not."""
        checker = self.checker(b"ann:" + SECRET)
        copy = self.path.with_name(f".users-new-{os.uname().nodename}")
        copy.write_bytes(b"ann:" + SECRET)
        for _ in range(2):
            found = []
            self.diagnose(checker, found)
            self.assertEqual(codes(found), ["h users-file-copy"])
            self.assertEqual(found[0].where, str(copy))
            # The command may have been killed before there was a users file.
            self.path.unlink(missing_ok=True)
        writer = os.open(self.path.parent, os.O_RDONLY)
        self.addCleanup(os.close, writer)
        fcntl.flock(writer, fcntl.LOCK_EX)
        found = []
        self.diagnose(checker, found)
        self.assertEqual(found, [])

    def test_secrets(self):
        """Secrets that match no password are errors, and never shown."""
        found = self.findings(b"ann:{SCRAM-SHA-256}hidden", b"bob:{SHA512-CRYPT}$6$hidden")
        self.assertEqual(codes(found), ["e user-secret", "e user-secret"])
        self.assertNotIn("hidden", str(found))
        after = b"ann:{ROT13}x", b"bob:$y9$hidden", b"joe:{PLAIN}correct horse"
        self.assertEqual(
            self.codes(*after), ["e users-line", "e user-secret", "h cleartext-secret"]
        )
        self.assertTrue(found[0].where.endswith("users, ann"))

    def test_unavailable(self):
        """A secret whose library is missing, or that this system does not support, is an error."""
        from popserv.auth.passwords import schemes, secret_forms

        self.patch(schemes, "argon2", None)
        [finding] = self.findings(b"ann:{ARGON2ID}$argon2id$x")
        self.assertIn(extras.how_to_install("argon2"), finding.remedy)
        found = self.codes(b"ann:{ARGON2ID}$argon2id$x", b"bob:{SCRAM-SHA-256}x")
        self.assertEqual(found, ["e user-secret", "e user-secret"])
        self.patch(schemes, "_crypt_r", lambda password, setting: b"*0")
        self.patch(secret_forms, "_seen", set())
        self.assertEqual(self.codes(b"ann:$6$abc$" + b"x" * 86), ["e user-secret"])
        self.patch(schemes, "_crypt_r", None)
        self.assertEqual(self.codes(b"ann:$6$abc$" + b"x" * 86), ["e user-secret"])

    def test_weak(self):
        """Weak schemes and passwords are warnings, and cleartext is a hint."""
        digest = b"{SHA256.hex}" + b"00" * 32
        self.assertEqual(self.codes(b"ann:" + digest, b"bob:" + digest), ["w weak-scheme"])
        [finding] = self.findings(b"ann:" + digest, b"bob:" + digest)
        self.assertTrue(finding.what.startswith("2 secrets of the scheme SHA256, "))
        self.assertTrue(finding.what.endswith(": ann, bob"))
        [finding] = self.findings(b"ann:" + digest)
        self.assertTrue(finding.what.startswith("1 secret of the scheme SHA256, "))
        long = b"{PLAIN}correct horse"
        self.assertEqual(self.codes(b"ann:" + long), ["h cleartext-secret"])
        self.assertEqual(self.codes(b"ann:{PLAIN}8 octets"), ["h cleartext-secret"])
        self.assertEqual(
            self.codes(b"ann:{PLAIN}7octets"), ["w weak-password", "h cleartext-secret"]
        )
        for name, secret in ((b"ann", b"short"), (b"annabelle@x", b"AnnaBelle")):
            found = self.codes(name + b":{PLAIN}" + secret)
            self.assertEqual(found, ["w weak-password", "h cleartext-secret"])

    def test_database(self):
        """Users of a database have names instead of lines."""
        checker = self.checker(b"ann:{PLAIN}correct horse::::::allow_net=1", b"bob:{SHA}x")
        found = diagnose_users("database", checker._users_file.read())
        self.assertEqual(codes(found), ["e users-line", "e user-secret"])
        self.assertEqual([each.where for each in found], ["database, ann", "database, bob"])

    def test_apop(self):
        """APOP secrets are a hint; beside passwords they are a warning."""
        apop = b"ann:{APOP}correct horse"
        self.assertEqual(self.codes(apop), ["h apop-users"])
        self.assertEqual(
            self.codes(apop, b"bob:" + SECRET), ["h apop-users", "w apop-and-passwords"]
        )
        self.assertEqual(self.codes(apop + b"::::::nologin"), ["h users-line"])
