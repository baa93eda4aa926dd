"""The users file: what is read from it, who is shut out, and how it is rewritten."""

import os
import stat
import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords.users_file import (
    UsersFile,
    UsersFileError,
    default_path,
)


class UsersFileCase(SynchronousTestCase):
    """Has a users file of its own, and hears what is logged."""

    def setUp(self):
        """Make an empty directory for the users file, and start to listen."""
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory)
        self.path = default_path(self.directory)
        self.events = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def write(self, text, mode=0o600):
        """Replace the users file, as an editor would."""
        with open(self.path + "~", "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        os.rename(self.path + "~", self.path)

    def content(self):
        """Return the bytes of the users file."""
        with open(self.path, "rb") as file:
            return file.read()

    def mode(self):
        """Return the permissions of the users file."""
        return stat.S_IMODE(os.stat(self.path).st_mode)

    def secrets(self, text):
        """Return what is read from a users file of this text."""
        self.write(text)
        return UsersFile(self.path).read().password_fields

    def logged(self):
        """Return all that was logged, the events' own fields included."""
        return "\n".join(f"{formatEvent(event)} {event!r}" for event in self.events)

    def error_of(self, call, *args, **more):
        """Return the text of the UsersFileError that the call must raise."""
        return str(self.assertRaises(UsersFileError, call, *args, **more))


class ReadTests(UsersFileCase):
    """From a file's bytes to who may log in, and with what."""

    def test_lines(self):
        """Comments and blank lines are passed over, and lines may end with CRLF or not at all."""
        text = b"# admins\r\nann:{PLAIN}a\r\n\r\n \t\n#bob:{PLAIN}b\ncid:{PLAIN}c:1:2::/home\ndan:"
        expected = {b"ann": b"{PLAIN}a", b"cid": b"{PLAIN}c", b"dan": b""}
        self.assertEqual(self.secrets(text), expected)
        self.assertEqual(self.events, [])

    def test_any_name(self):
        """Names are bytes, taken as they are written."""
        names = [b"ann@example.org", b"\xff\xfe", "jürgen".encode(), b"A", b"a", b"two words"]
        text = b"\n".join(b"%b:{PLAIN}x" % name for name in names)
        self.assertEqual(list(self.secrets(text)), names)

    def test_not_of_the_form(self):
        """A line of another form lets nobody in; the log tells its number, never its text."""
        text = b"s3cret\n:{PLAIN}s3cret\nann:{PLAIN}s3cret\nann:{PLAIN}s3cret2\n"
        self.assertEqual(self.secrets(text), {b"ann": b"{PLAIN}s3cret"})
        logged = self.logged()
        for line in (
            "line 1:",
            "line 2:",
            "line 4: line ignored, b'ann' is already on an earlier line",
        ):
            self.assertIn(f"{self.path}, {line}", logged)
        self.assertEqual(len(self.events), 3)
        self.assertNotIn("s3cret", logged)

    def test_shut_out(self):
        """Dovecot's extra fields nologin and allow_nets shut a user out."""
        for extra in (
            b"nologin",
            b"nologin=y",
            b"nologin=",
            b"allow_nets=10.0.0.0/8,::1",
            b"allow_nets=",
            b"userdb_quota=1 nologin",
            b"nologin reason=gone away",
            b"nodelay\tallow_nets=local",
        ):
            self.events.clear()
            text = b"ann:{PLAIN}s3cret:::::: %b\nbob:{PLAIN}b" % extra
            for line in (text, text.replace(b":: ", b"::"), text.replace(b"\n", b"\r\n")):
                self.assertEqual(self.secrets(line), {b"bob": b"{PLAIN}b"}, f"{line!r}")
            self.assertIn("b'ann' cannot log in", self.logged())
            self.assertNotIn("s3cret", self.logged())

    def test_not_shut_out(self):
        """Other fields only look like those: a shell, a prefix, a value."""
        for others in (
            b":::::/usr/sbin/nologin",
            b":::::: userdb_nologin=y",
            b":::::: nologins=1 xallow_nets=1",
            b"::::/home/allow_nets::",
            b":::::: reason=nologin",
        ):
            line = b"ann:{PLAIN}a:" + others
            self.assertEqual(self.secrets(line), {b"ann": b"{PLAIN}a"}, f"{line!r}")

    def test_shut_out_further_up(self):
        """A user whom the first line shuts out is not let in by another line of that name."""
        self.assertEqual(self.secrets(b"ann:{PLAIN}a:::::: nologin\nann:{PLAIN}b\n"), {})

    def test_apop(self):
        """Passwords and APOP secrets are told apart: no user has both (RFC 1725 section 12)."""
        self.write(b"ann:{APOP}a\nbob:{PLAIN}b\ncid:{apop.hex}63\n")
        users = UsersFile(self.path).read()
        self.assertEqual(users.passwords, [b"{PLAIN}b"])
        self.assertTrue(users.has_apop)
        self.write(b"bob:{PLAIN}b\n")
        self.assertFalse(UsersFile(self.path).read().has_apop)

    @settings(deadline=None, database=None)
    @given(
        st.lists(st.sampled_from([b"a", b":", b"\n", b"\r", b"#", b"{APOP}", b"\0"])).map(b"".join)
    )
    def test_any_users(self, text):
        """Whatever the bytes are, they are so many users, each of whom stands in them."""
        for name, field in self.secrets(text).items():
            self.assertIn(name + b":" + field, text)

    @settings(deadline=None, database=None)
    @given(st.binary())
    def test_any_bytes(self, text):
        """Whatever the bytes are, reading them fails with no unexpected exception."""
        self.assertIsInstance(self.secrets(text), dict)


class ChangeTests(UsersFileCase):
    """A UsersFile that lives on while its file changes."""

    def test_absent(self):
        """No file is no users, until there is one; one that has gone is a fault to mend."""
        users = UsersFile(self.path)
        self.assertEqual(users.read(), ({}, [], frozenset(), False, frozenset()))
        self.write(b"ann:{PLAIN}a")
        self.assertEqual(users.read().password_fields, {b"ann": b"{PLAIN}a"})
        os.unlink(self.path)
        with self.assertRaisesRegex(UsersFileError, "has been removed"):
            users.read()
        self.write(b"ann:{PLAIN}a")
        self.assertEqual(users.read().password_fields, {b"ann": b"{PLAIN}a"})

    def test_reread(self):
        """A change is seen at the next login, however it was made; no change costs no reading."""
        users = UsersFile(self.path)
        self.write(b"ann:{PLAIN}a")
        first = users.read()
        self.assertIs(users.read(), first)
        with open(self.path, "ab") as file:
            file.write(b"\nbob:{PLAIN}b")
        self.assertEqual(set(users.read().password_fields), {b"ann", b"bob"})
        self.write(b"cid:{PLAIN}c")
        self.assertEqual(set(users.read().password_fields), {b"cid"})

    def test_public(self):
        """A file that everybody can use is refused; the message has the command that mends it."""
        self.path = os.path.join(self.directory, "my users")
        for mode in (0o604, 0o602, 0o601, 0o666, 0o644):
            self.write(b"ann:{PLAIN}a", mode)
            error = self.error_of(UsersFile(self.path).read)
            command = error.partition("run: ")[2]
            subprocess.run(command, shell=True, check=True)
            self.assertEqual(self.mode(), mode & 0o770)
            self.assertEqual(set(UsersFile(self.path).read().password_fields), {b"ann"})

    def test_made_public(self):
        """A file that is opened to everybody at run time is refused from then on, even at once."""
        users = UsersFile(self.path)
        for _ in range(50):
            self.write(b"ann:{PLAIN}a")
            users.read()
            os.chmod(self.path, 0o644)
            self.assertIn("chmod o=", self.error_of(users.read))
            self.assertIn("chmod o=", self.error_of(users.read))
        os.chmod(self.path, 0o640)
        self.assertEqual(set(users.read().password_fields), {b"ann"})

    def test_unreadable(self):
        """A file that cannot be read is an error that names it."""
        os.mkdir(self.path, 0o700)
        self.assertIn(f"cannot read {self.path}: ", self.error_of(UsersFile(self.path).read))
        below = os.path.join(self.path, "file", "users")
        open(os.path.dirname(below), "x").close()
        self.assertIn(f"cannot read {below}: ", self.error_of(UsersFile(below).read))
