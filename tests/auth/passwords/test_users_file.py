"""Tests of popserv.auth.passwords.users_file."""

import codecs
import os
import stat
import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.passwords.users_file import (
    UsersFile,
    UsersFileError,
    default_path,
)


class UsersFileCase(SynchronousTestCase):
    """Has a users file and records the log."""

    def setUp(self):
        """Make a directory for the users file, and start to record the log."""
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory)
        self.path = default_path(self.directory)
        self.events = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def write(self, text, mode=0o600):
        """Replace the users file, like an editor."""
        with open(self.path + "~", "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        os.rename(self.path + "~", self.path)

    def content(self):
        """Return the content of the users file."""
        with open(self.path, "rb") as file:
            return file.read()

    def mode(self):
        """Return the permissions of the users file."""
        return stat.S_IMODE(os.stat(self.path).st_mode)

    def password_fields(self, text):
        """Return the password fields that are read from a users file with this content."""
        self.write(text)
        return UsersFile(self.path).read().password_fields

    def logged(self):
        """Return the log, with all fields of the events."""
        return "\n".join(f"{formatEvent(event)} {event!r}" for event in self.events)

    def error_of(self, call, *args, **more):
        """Return the message of the UsersFileError that the call must raise."""
        return str(self.assertRaises(UsersFileError, call, *args, **more))


class ReadTests(UsersFileCase):
    """The content of a users file."""

    def test_lines(self):
        """Comments and blank lines are ignored; a line may end with CRLF, or without a line end."""
        text = b"# admins\r\nann:{PLAIN}a\r\n\r\n \t\n#bob:{PLAIN}b\ncid:{PLAIN}c:1:2::/home\ndan:"
        expected = {b"ann": b"{PLAIN}a", b"cid": b"{PLAIN}c", b"dan": b""}
        self.assertEqual(self.password_fields(text), expected)
        self.assertEqual(self.events, [])

    def test_any_name(self):
        """Names are octets and stay unchanged."""
        names = [b"ann@example.org", b"\xff\xfe", "jürgen".encode(), b"A", b"a", b"two words"]
        text = b"\n".join(b"%b:{PLAIN}x" % name for name in names)
        self.assertEqual(list(self.password_fields(text)), names)

    def test_malformed(self):
        """A malformed line is ignored; the log has its number, never its text."""
        text = b"s3cret\n:{PLAIN}s3cret\nann:{PLAIN}s3cret\nann:{PLAIN}s3cret2\n"
        self.assertEqual(self.password_fields(text), {b"ann": b"{PLAIN}s3cret"})
        logged = self.logged()
        for line in (
            "line 1:",
            "line 2:",
            "line 4: line ignored, ann is already on an earlier line",
        ):
            self.assertIn(f"{self.path}, {line}", logged)
        self.assertEqual(len(self.events), 3)
        self.assertNotIn("s3cret", logged)

    def test_ignored(self):
        """A problem tells whether its whole line is ignored."""
        self.write(b"x\nann:{PLAIN}a\nann:{PLAIN}b\nbob:{X}b\n")
        problems = UsersFile(self.path).read().problems
        self.assertEqual(
            [(each.line, each.is_ignored) for each in problems], [(1, True), (3, True), (4, False)]
        )

    def test_schemes(self):
        """Users have only certain schemes if those are all, and if there are users."""
        for text, schemes, expected in (
            (b"ann:{PLAIN}a", {b"PLAIN"}, True),
            (b"ann:{PLAIN}a", {b"PLAIN", b"SHA"}, True),
            (b"ann:{PLAIN}a\nbob:{SHA}b", {b"PLAIN"}, False),
            (b"", {b"PLAIN"}, False),
        ):
            self.write(text)
            users = UsersFile(self.path).read()
            self.assertIs(users.has_only_schemes(frozenset(schemes)), expected)

    def test_refused(self):
        """A user whom a field refuses cannot log in; the log names the user and the field."""
        for extra, field in (
            (b"nologin", "nologin"),
            (b"proxy=y host=192.0.2.1", "proxy"),
            (b"nodelay surprise=1", "surprise"),
        ):
            self.events.clear()
            text = b"ann:{PLAIN}s3cret:::::: %b\nbob:{PLAIN}b" % extra
            for line in (text, text.replace(b":: ", b"::"), text.replace(b"\n", b"\r\n")):
                self.assertEqual(self.password_fields(line), {b"bob": b"{PLAIN}b"}, f"{line!r}")
            line = f"{self.path}, line 1: ann cannot log in: .*{field}"
            self.assertRegex(formatEvent(self.events[0]), line)
            self.assertNotIn("s3cret", self.logged())

    def test_unknown_schemes(self):
        """A user whose secret cannot be verified is named; a client certificate still works."""
        text = b"ann:{DIGEST-MD5}s3cret\nbob:{OTP}s3cret\ncid:{PLAIN-MD4.hex}s3cret\ndan:{PLAIN}x"
        self.assertEqual(len(self.password_fields(text)), 4)
        self.assertEqual(UsersFile(self.path).read().passwords, [b"{PLAIN}x"])
        for line, name, scheme in (
            (1, "ann", "DIGEST-MD5"),
            (2, "bob", "OTP"),
            (3, "cid", "PLAIN-MD4"),
        ):
            reason = f"{name} cannot log in by password: unknown password scheme {scheme}"
            self.assertIn(f"{self.path}, line {line}: {reason}", self.logged())
        self.assertNotIn("s3cret", self.logged())

    def test_mistakes(self):
        """A network that is none is named; the user can log in from the others."""
        text = b"ann:{PLAIN}a::::::allow_nets=10.0.0.0/8,10.0.0\n"
        self.assertEqual(list(self.password_fields(text)), [b"ann"])
        reason = "line 1: ann has a mistake: allow_nets: 10.0.0 is not a network"
        self.assertIn(reason, self.logged())

    def test_names_in_the_log(self):
        """A name is logged as text, and cannot forge a line."""
        self.password_fields("jürgen:{PLAIN}a::::::fail\nx\x1b[1m\ry:{PLAIN}a::::::fail".encode())
        self.assertIn("jürgen cannot log in", formatEvent(self.events[0]))
        self.assertIn(r"x\x1b[1m\ry cannot log in", formatEvent(self.events[1]))

    def test_byte_order_mark(self):
        """A byte order mark at the start of the file is not a part of the first name."""
        for text in (b"ann:{PLAIN}a", b"# comment\nann:{PLAIN}a", b"\r\nann:{PLAIN}a"):
            users = self.password_fields(codecs.BOM_UTF8 + text)
            self.assertEqual(users, {b"ann": b"{PLAIN}a"})
        self.assertEqual(self.password_fields(codecs.BOM_UTF8), {})
        self.assertEqual(self.events, [])

    def test_find(self):
        """A name is found as sent, then prepared, then as the only one without regard to case."""
        self.write("ann:1\nBob:2\nCID:3\ncid:4\nJürgen:5\nshut:6::::::fail\n".encode())
        users = UsersFile(self.path).read()
        for sent, found in (
            ("ann", "ann"),
            ("Ann", "ann"),
            ("ANN", "ann"),
            ("\uff21\uff4e\uff4e", "ann"),
            ("bob", "Bob"),
            ("cid", "cid"),
            ("CID", "CID"),
            ("Cid", None),
            ("Ju\u0308rgen", "Jürgen"),
            ("jürgen", "Jürgen"),
            ("JÜRGEN", None),
            ("Shut", "shut"),
            ("", None),
            ("annn", None),
        ):
            user = users.find(sent.encode())
            self.assertEqual(user and user.name.decode(), found, sent)

    def test_no_login_and_duplicate(self):
        """A user who cannot log in by the first line cannot log in by a later line."""
        self.assertEqual(self.password_fields(b"ann:{PLAIN}a:::::: nologin\nann:{PLAIN}b\n"), {})

    def test_apop(self):
        """A user has either a password or an APOP secret (RFC 1725 section 12)."""
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
        """Each user that is read from any content is in the content."""
        for name, field in self.password_fields(text).items():
            self.assertIn(name + b":" + field, text)

    @settings(deadline=None, database=None)
    @given(st.binary())
    def test_any_bytes(self, text):
        """Any content can be read."""
        self.assertIsInstance(self.password_fields(text), dict)


class ChangeTests(UsersFileCase):
    """A users file that changes while it is in use."""

    def test_missing(self):
        """A file that never existed has no users; a file that was removed is an error."""
        users = UsersFile(self.path)
        self.assertEqual(users.read().by_name, {})
        self.write(b"ann:{PLAIN}a")
        self.assertEqual(users.read().password_fields, {b"ann": b"{PLAIN}a"})
        os.unlink(self.path)
        with self.assertRaisesRegex(UsersFileError, "has been removed"):
            users.read()
        self.write(b"ann:{PLAIN}a")
        self.assertEqual(users.read().password_fields, {b"ann": b"{PLAIN}a"})

    def test_reread(self):
        """A change of any kind is read at the next login; an unchanged file is not read again."""
        users = UsersFile(self.path)
        self.write(b"ann:{PLAIN}a")
        first = users.read()
        self.assertIs(users.read(), first)
        with open(self.path, "ab") as file:
            file.write(b"\nbob:{PLAIN}b")
        self.assertEqual(set(users.read().password_fields), {b"ann", b"bob"})
        self.write(b"cid:{PLAIN}c")
        self.assertEqual(set(users.read().password_fields), {b"cid"})

    def test_recent(self):
        """read_recent looks at the file again after a tenth of a second, an error or expire."""
        clock = Clock()
        users = UsersFile(self.path, clock.seconds)
        self.assertEqual(users.read_recent().by_name, {})
        self.write(b"ann:{PLAIN}a")
        clock.advance(0.09)
        self.assertEqual(users.read_recent().by_name, {})
        clock.advance(0.02)
        self.assertEqual(set(users.read_recent().by_name), {b"ann"})
        self.write(b"bob:{PLAIN}b")
        self.assertEqual(set(users.read_recent().by_name), {b"ann"})
        users.expire()
        self.assertEqual(set(users.read_recent().by_name), {b"bob"})
        os.chmod(self.path, 0o644)
        clock.advance(0.11)
        for _ in range(2):
            self.assertIn("chmod o=", self.error_of(users.read_recent))
        os.chmod(self.path, 0o600)
        self.assertEqual(set(users.read_recent().by_name), {b"bob"})

    def test_recent_costs_nothing(self):
        """Neither the content nor the status of the file is read for read_recent."""
        self.write(b"ann:{PLAIN}a")
        users = UsersFile(self.path, Clock().seconds)
        expected = users.read()
        self.patch(os, "stat", None)
        self.assertIs(users.read_recent(), expected)

    def test_public(self):
        """The error for a file that is accessible to other users has the command to correct it."""
        self.path = os.path.join(self.directory, "my users")
        for mode in (0o604, 0o602, 0o601, 0o666, 0o644):
            self.write(b"ann:{PLAIN}a", mode)
            error = self.error_of(UsersFile(self.path).read)
            command = error.partition("run: ")[2]
            subprocess.run(command, shell=True, check=True)
            self.assertEqual(self.mode(), mode & 0o770)
            self.assertEqual(set(UsersFile(self.path).read().password_fields), {b"ann"})

    def test_made_public(self):
        """A file that becomes accessible to other users at run time is an error from then on."""
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
        """If a file cannot be read, the error names it."""
        os.mkdir(self.path, 0o700)
        self.assertIn(f"cannot read {self.path}: ", self.error_of(UsersFile(self.path).read))
        below = os.path.join(self.path, "file", "users")
        open(os.path.dirname(below), "x").close()
        self.assertIn(f"cannot read {below}: ", self.error_of(UsersFile(below).read))
