"""The users file: what is read from it, who is shut out, and how it is rewritten."""

import os
import stat
import subprocess
import sys
from unittest import SkipTest, mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

import popserv
from popserv.auth.passwords import users_file
from popserv.auth.passwords.users_file import (
    UsersFile,
    UsersFileError,
    default_path,
    remove_user,
    set_secret,
)
from tests.auth.test_names import BAD_NAMES


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
        return UsersFile(self.path).read().secrets

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
        for line in ("line 1:", "line 2:", "line 4: b'ann' stands further up"):
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
        self.assertEqual(users.read().secrets, {b"ann": b"{PLAIN}a"})
        os.unlink(self.path)
        with self.assertRaisesRegex(UsersFileError, "has been removed"):
            users.read()
        self.write(b"ann:{PLAIN}a")
        self.assertEqual(users.read().secrets, {b"ann": b"{PLAIN}a"})

    def test_reread(self):
        """A change is seen at the next login, however it was made; no change costs no reading."""
        users = UsersFile(self.path)
        self.write(b"ann:{PLAIN}a")
        first = users.read()
        self.assertIs(users.read(), first)
        with open(self.path, "ab") as file:
            file.write(b"\nbob:{PLAIN}b")
        self.assertEqual(set(users.read().secrets), {b"ann", b"bob"})
        self.write(b"cid:{PLAIN}c")
        self.assertEqual(set(users.read().secrets), {b"cid"})

    def test_public(self):
        """A file that everybody can use is refused; the message has the command that mends it."""
        self.path = os.path.join(self.directory, "my users")
        for mode in (0o604, 0o602, 0o601, 0o666, 0o644):
            self.write(b"ann:{PLAIN}a", mode)
            error = self.error_of(UsersFile(self.path).read)
            command = error.partition("mend it: ")[2]
            subprocess.run(command, shell=True, check=True)
            self.assertEqual(self.mode(), mode & 0o770)
            self.assertEqual(set(UsersFile(self.path).read().secrets), {b"ann"})

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
        self.assertEqual(set(users.read().secrets), {b"ann"})

    def test_unreadable(self):
        """A file that cannot be read is an error that names it."""
        os.mkdir(self.path, 0o700)
        self.assertIn(f"cannot read {self.path}: ", self.error_of(UsersFile(self.path).read))
        below = os.path.join(self.path, "file", "users")
        open(os.path.dirname(below), "x").close()
        self.assertIn(f"cannot read {below}: ", self.error_of(UsersFile(below).read))


class RewriteTests(UsersFileCase):
    """set_secret and remove_user: one line changes, all else stays."""

    def test_new_file(self):
        """A new file is its owner's alone, whatever the umask, and of the directory's owner."""
        self.addCleanup(os.umask, os.umask(0))
        if os.geteuid() == 0:
            os.chown(self.directory, 12, 34)
        set_secret(self.path, b"ann", b"{PLAIN}a", new=True)
        self.assertEqual(self.content(), b"ann:{PLAIN}a\n")
        self.assertEqual(self.mode(), 0o600)
        file, directory = os.stat(self.path), os.stat(self.directory)
        self.assertEqual((file.st_uid, file.st_gid), (directory.st_uid, directory.st_gid))
        self.assertEqual(os.listdir(self.directory), [".users"])

    def test_edits(self):
        """Only the secret changes: comments, other users, and what stands behind it stay."""
        before = b"# mine\nann:{PLAIN}a:1:2::/home/ann::x=y\n\nbob:{PLAIN}b\n#ann:old\n"
        for edit, expected in {
            (set_secret, b"ann", b"{X}n"): before.replace(b"{PLAIN}a", b"{X}n"),
            (set_secret, b"bob", b"{X}n"): before.replace(b"{PLAIN}b", b"{X}n"),
            (set_secret, b"an", b"{X}n", True): before + b"an:{X}n\n",
            (remove_user, b"ann"): before.replace(b"ann:{PLAIN}a:1:2::/home/ann::x=y\n", b""),
            (remove_user, b"bob"): before.replace(b"bob:{PLAIN}b\n", b""),
        }.items():
            self.write(before)
            change, name, *rest = edit
            if change is set_secret:
                change(self.path, name, rest[0], new=len(rest) > 1)
            else:
                change(self.path, name)
            self.assertEqual(self.content(), expected)

    def test_ends(self):
        """A last line without end, CRLF lines and an empty file are all edited well."""
        for before, expected in (
            (b"ann:{PLAIN}a", b"ann:{PLAIN}a\nbob:{X}n\n"),
            (b"", b"bob:{X}n\n"),
            (b"\n", b"\nbob:{X}n\n"),
        ):
            self.write(before)
            set_secret(self.path, b"bob", b"{X}n", new=True)
            self.assertEqual(self.content(), expected)
        self.write(b"ann:{PLAIN}a\r\nbob:{PLAIN}b::\r\n")
        set_secret(self.path, b"ann", b"{X}1", new=False)
        set_secret(self.path, b"bob", b"{X}2", new=False)
        set_secret(self.path, b"cid", b"{X}3", new=True)
        expected = {b"ann": b"{X}1", b"bob": b"{X}2", b"cid": b"{X}3"}
        self.assertEqual(UsersFile(self.path).read().secrets, expected)

    def test_remove_all(self):
        """A file whose last user goes is empty, and takes a user again."""
        self.write(b"ann:{PLAIN}a\n")
        remove_user(self.path, b"ann")
        self.assertEqual(self.content(), b"")
        set_secret(self.path, b"bob", b"{X}n", new=True)
        self.assertEqual(self.content(), b"bob:{X}n\n")

    def test_remove_duplicates(self):
        """Who was taken out is out, even if another line has the same name."""
        self.write(b"ann:{PLAIN}a\nbob:{PLAIN}b\nann:{PLAIN}c\n")
        remove_user(self.path, b"ann")
        self.assertEqual(UsersFile(self.path).read().secrets, {b"bob": b"{PLAIN}b"})

    def test_duplicate(self):
        """Of two lines of one name, the one that counts is changed."""
        self.write(b"ann:{PLAIN}a\nann:{PLAIN}b\n")
        set_secret(self.path, b"ann", b"{X}n", new=False)
        self.assertEqual(UsersFile(self.path).read().secrets, {b"ann": b"{X}n"})

    def test_refused(self):
        """A user is added once, and only one who is there is changed or removed."""
        self.write(b"ann:{PLAIN}a\n")
        for said, call, *args in (
            (f"ann is in {self.path} already", set_secret, b"ann", True),
            (f"bob is not in {self.path}", set_secret, b"bob", False),
            (f"bob is not in {self.path}", remove_user, b"bob"),
            (f"an is not in {self.path}", remove_user, b"an"),
        ):
            name, *new = args
            more = {"field": b"{PLAIN}s3cret", "new": new[0]} if new else {}
            error = self.error_of(call, self.path, name, **more)
            self.assertIn(said, error)
            self.assertNotIn("s3cret", error)
            self.assertEqual(self.content(), b"ann:{PLAIN}a\n")
        self.assertEqual(os.listdir(self.directory), [".users"])

    def test_names(self):
        """A user whose name is not valid is not added."""
        for name in BAD_NAMES:
            self.assertRaises(ValueError, set_secret, self.path, name, b"{PLAIN}x", new=True)
        self.assertEqual(os.listdir(self.directory), [])

    def test_modes_kept(self):
        """What owner and group may do stays; what everybody might do does not."""
        for before, after in ((0o640, 0o640), (0o600, 0o600), (0o660, 0o660), (0o644, 0o640)):
            self.write(b"ann:{PLAIN}a\n", before)
            set_secret(self.path, b"ann", b"{PLAIN}b", new=False)
            self.assertEqual(self.mode(), after)

    def test_owner_kept(self):
        """Root's edits leave a file to its owner and group."""
        if os.geteuid() != 0:
            raise SkipTest("only root can give files away")
        self.write(b"ann:{PLAIN}a\n", 0o640)
        os.chown(self.path, 12, 34)
        set_secret(self.path, b"ann", b"{PLAIN}b", new=False)
        found = os.stat(self.path)
        self.assertEqual((found.st_uid, found.st_gid, self.mode()), (12, 34, 0o640))

    def test_not_root(self):
        """Whoever is not root gives nothing away and needs no right to."""
        self.patch(users_file.os, "geteuid", lambda: 1000)
        self.patch(users_file.os, "fchown", None)
        set_secret(self.path, b"ann", b"{PLAIN}b", new=True)
        self.assertEqual(self.content(), b"ann:{PLAIN}b\n")

    def test_symbolic_link(self):
        """A link stays a link: the file that it leads to is replaced, where it is."""
        os.mkdir(os.path.join(self.directory, "etc"))
        link, self.path = self.path, os.path.join(self.directory, "etc", "users")
        self.write(b"ann:{PLAIN}a\n", 0o640)
        os.symlink(os.path.join("etc", "users"), link)
        set_secret(link, b"bob", b"{PLAIN}b", new=True)
        self.assertEqual(os.readlink(link), os.path.join("etc", "users"))
        self.assertEqual(self.content(), b"ann:{PLAIN}a\nbob:{PLAIN}b\n")
        self.assertEqual(self.mode(), 0o640)
        self.assertEqual(set(UsersFile(link).read().secrets), {b"ann", b"bob"})

    def test_nowhere(self):
        """A directory that is not there is an error that names the file."""
        path = os.path.join(self.directory, "none", "users")
        error = self.error_of(set_secret, path, b"ann", b"{PLAIN}s3cret", new=True)
        self.assertIn(f"cannot write {path}: ", error)
        self.assertNotIn("s3cret", error)

    def test_interrupted(self):
        """A rewrite that fails at any step leaves the old file whole, and nothing beside it."""
        for step in ("fchmod", "fsync", "rename"):
            self.write(b"ann:{PLAIN}a\n")
            for reason in (OSError(28, "No space left on device"), KeyboardInterrupt()):
                expected = UsersFileError if isinstance(reason, OSError) else KeyboardInterrupt
                with mock.patch.object(users_file.os, step, side_effect=reason):
                    self.assertRaises(expected, remove_user, self.path, b"ann")
                self.assertEqual(self.content(), b"ann:{PLAIN}a\n")
                self.assertEqual(os.listdir(self.directory), [".users"])

    def test_many_writers(self):
        """Writers in several processes lose no user, and a reader never sees half a file."""
        script = (
            "import sys; from popserv.auth.passwords.users_file import set_secret\n"
            "for n in range(10): set_secret(sys.argv[1], b'%b-%d' % (sys.argv[2].encode(), n),"
            " b'{PLAIN}' + b'x' * 5000, new=True)"
        )
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(popserv.__path__[0])}
        writers = [
            subprocess.Popen([sys.executable, "-c", script, self.path, name], env=environment)
            for name in "abcd"
        ]
        users, seen = UsersFile(self.path), set()
        while any(writer.poll() is None for writer in writers):
            secrets = users.read().secrets
            self.assertLessEqual(seen, set(secrets))
            self.assertLessEqual(set(secrets.values()), {b"{PLAIN}" + b"x" * 5000})
            seen = set(secrets)
        self.assertEqual([writer.returncode for writer in writers], [0] * 4)
        everybody = {b"%c-%d" % (name, n) for name in b"abcd" for n in range(10)}
        self.assertEqual(set(users.read().secrets), everybody)
        self.assertEqual(self.events, [])
