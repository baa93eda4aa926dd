"""Tests of popserv.auth.passwords.users_file_editing."""

import codecs
import errno
import fcntl
import os
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest, mock

import popserv
from popserv.auth.passwords import users_file_editing
from popserv.auth.passwords.users_file import UsersFile, UsersFileError
from popserv.auth.passwords.users_file_editing import (
    abandoned_copy,
    read_records,
    remove_user,
    set_secret,
)
from tests.auth.passwords.test_users_file import UsersFileCase
from tests.auth.test_names import BAD_NAMES

COPY = f".users-new-{os.uname().nodename}"
"""The name of the edited copy."""


class ReadingTests(UsersFileCase):
    """read_records."""

    def test_records(self):
        """Of each name it is the first line, without a line end; a byte order mark is no name."""
        self.write(codecs.BOM_UTF8 + b"ann:{PLAIN}a:1:2\r\nbob:{PLAIN}b\nann:{PLAIN}c\nalone\n")
        expected = {b"ann": b"{PLAIN}a:1:2", b"bob": b"{PLAIN}b", b"alone": b"", b"": b""}
        self.assertEqual(read_records(self.path), expected)


class EditingTests(UsersFileCase):
    """set_secret and remove_user."""

    def test_new_file(self):
        """A new file belongs to the directory's owner, and only the owner can access it."""
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
        """Only the password field changes; comments, other users and other fields stay."""
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

    def test_line_ends(self):
        """A file may be empty, have CRLF lines, or end without a line end."""
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
        self.assertEqual(UsersFile(self.path).read().password_fields, expected)

    def test_byte_order_mark(self):
        """A byte order mark stays at the start of the file, and the first user can be edited."""
        mark = codecs.BOM_UTF8
        self.write(mark + b"ann:{PLAIN}a:1\nbob:{PLAIN}b\n")
        set_secret(self.path, b"ann", b"{X}n", new=False)
        self.assertEqual(self.content(), mark + b"ann:{X}n:1\nbob:{PLAIN}b\n")
        self.assertIn("already", self.error_of(set_secret, self.path, b"ann", b"{X}n", new=True))
        remove_user(self.path, b"ann")
        self.assertEqual(self.content(), mark + b"bob:{PLAIN}b\n")
        remove_user(self.path, b"bob")
        self.assertEqual(self.content(), mark)
        set_secret(self.path, b"cid", b"{X}n", new=True)
        self.assertEqual(self.content(), mark + b"cid:{X}n\n")

    def test_remove_all(self):
        """After the last user is removed, the file is empty, and a user can be added."""
        self.write(b"ann:{PLAIN}a\n")
        remove_user(self.path, b"ann")
        self.assertEqual(self.content(), b"")
        set_secret(self.path, b"bob", b"{X}n", new=True)
        self.assertEqual(self.content(), b"bob:{X}n\n")

    def test_remove_duplicates(self):
        """All lines of a user are removed."""
        self.write(b"ann:{PLAIN}a\nbob:{PLAIN}b\nann:{PLAIN}c\n")
        remove_user(self.path, b"ann")
        self.assertEqual(UsersFile(self.path).read().password_fields, {b"bob": b"{PLAIN}b"})

    def test_duplicate(self):
        """If a user has two lines, the first is changed."""
        self.write(b"ann:{PLAIN}a\nann:{PLAIN}b\n")
        set_secret(self.path, b"ann", b"{X}n", new=False)
        self.assertEqual(UsersFile(self.path).read().password_fields, {b"ann": b"{X}n"})

    def test_errors(self):
        """An existing user cannot be added; an unknown user cannot be changed or removed."""
        self.write(b"ann:{PLAIN}a\n")
        for message, call, *args in (
            (f"user ann is already in {self.path}", set_secret, b"ann", True),
            (f"user bob is not in {self.path}", set_secret, b"bob", False),
            (f"user bob is not in {self.path}", remove_user, b"bob"),
            (f"user an is not in {self.path}", remove_user, b"an"),
        ):
            name, *new = args
            more = {"field": b"{PLAIN}s3cret", "new": new[0]} if new else {}
            error = self.error_of(call, self.path, name, **more)
            self.assertIn(message, error)
            self.assertNotIn("s3cret", error)
            self.assertEqual(self.content(), b"ann:{PLAIN}a\n")
        self.assertEqual(os.listdir(self.directory), [".users"])

    def test_names(self):
        """A user with an invalid name cannot be added."""
        for name in BAD_NAMES:
            self.assertRaises(ValueError, set_secret, self.path, name, b"{PLAIN}x", new=True)
        self.assertEqual(os.listdir(self.directory), [])

    def test_spellings(self):
        """A user is found by each spelling of the name, and first by that of the file."""
        composed, decomposed = "é".encode(), "e\u0301".encode()
        for before, name, after in (
            (b"%b:{X}a\n" % composed, decomposed, b"%b:{X}n\n" % composed),
            (b"%b:{X}a\n" % composed, composed, b"%b:{X}n\n" % composed),
            (b"%b:{X}a\n" % decomposed, decomposed, b"%b:{X}n\n" % decomposed),
            (
                b"%b:{X}a\n%b:{X}b\n" % (composed, decomposed),
                decomposed,
                b"%b:{X}a\n%b:{X}n\n" % (composed, decomposed),
            ),
        ):
            self.write(before)
            set_secret(self.path, name, b"{X}n", new=False)
            self.assertEqual(self.content(), after)
            remove_user(self.path, name)
            self.assertNotIn(b"{X}n", self.content())

    def test_modes_kept(self):
        """The permissions of owner and group are kept, those of other users are removed."""
        for before, after in (
            *((0o640, 0o640), (0o600, 0o600), (0o660, 0o660)),
            *((0o644, 0o640), (0o777, 0o660)),
        ):
            self.write(b"ann:{PLAIN}a\n", before)
            set_secret(self.path, b"ann", b"{PLAIN}b", new=False)
            self.assertEqual(self.mode(), after)

    def test_private(self):
        """Until the copy has the permissions of the file, only its owner can access it."""
        self.addCleanup(os.umask, os.umask(0))
        self.write(b"ann:{PLAIN}a\n", 0o640)
        modes, change = [], os.fchmod

        def fchmod(fd, mode):
            modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
            change(fd, mode)

        with mock.patch.object(users_file_editing.os, "fchmod", fchmod):
            set_secret(self.path, b"ann", b"{PLAIN}b", new=False)
        self.assertEqual((modes, self.mode()), ([0o600], 0o640))

    def test_synced(self):
        """The whole copy is on disk before it replaces the file, and the directory after that."""
        self.write(b"ann:{PLAIN}a\n")
        synced = []

        def fsync(fd):
            files = {path.name: path.read_bytes() for path in Path(self.directory).iterdir()}
            synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), files))

        with mock.patch.object(users_file_editing.os, "fsync", fsync):
            set_secret(self.path, b"ann", b"{PLAIN}b", new=False)
        before, after = ({".users": b"ann:{PLAIN}%b\n" % each} for each in (b"a", b"b"))
        copy = {COPY: after[".users"]}
        self.assertEqual(synced, [(False, {**before, **copy}), (True, after)])

    def test_owner_kept(self):
        """If root edits a file, its owner and group are kept."""
        if os.geteuid() != 0:
            raise SkipTest("only root can change the owner of a file")
        self.write(b"ann:{PLAIN}a\n", 0o640)
        os.chown(self.path, 12, 34)
        set_secret(self.path, b"ann", b"{PLAIN}b", new=False)
        found = os.stat(self.path)
        self.assertEqual((found.st_uid, found.st_gid, self.mode()), (12, 34, 0o640))

    def test_not_root(self):
        """A user who is not root does not change the owner."""
        self.patch(users_file_editing.os, "geteuid", lambda: 1000)
        self.patch(users_file_editing.os, "fchown", None)
        set_secret(self.path, b"ann", b"{PLAIN}b", new=True)
        self.assertEqual(self.content(), b"ann:{PLAIN}b\n")

    def test_group_kept(self):
        """A group that can read the file keeps it; if that is impossible, nothing is changed."""
        status = os.stat(self.directory)
        changed, group_of_old = [], [0]

        def fchown(fd, uid, gid):
            changed.append((uid, gid))
            if gid == 56:
                raise PermissionError(errno.EPERM, "Operation not permitted")

        def fstat(fd):
            found = os_fstat(fd)
            group = group_of_old[0] if found.st_size == 13 else status.st_gid
            return os.stat_result((*found[:5], group, *found[6:10]))

        os_fstat = os.fstat
        self.patch(users_file_editing.os, "geteuid", lambda: 1000)
        self.patch(users_file_editing.os, "fchown", fchown)
        self.patch(users_file_editing.os, "fstat", fstat)
        for group, mode, expected in (
            (status.st_gid, 0o640, []),
            (34, 0o640, [(-1, 34)]),
            (34, 0o600, []),
            (56, 0o600, []),
        ):
            changed.clear()
            group_of_old[0] = group
            self.write(b"ann:{PLAIN}a\n", mode)
            set_secret(self.path, b"ann", b"{PLAIN}bc", new=False)
            self.assertEqual((changed, self.mode()), (expected, mode))
        self.write(b"ann:{PLAIN}a\n", 0o640)
        error = self.error_of(set_secret, self.path, b"ann", b"{PLAIN}bc", new=False)
        self.assertIn(f"cannot write {self.path}: group 56 has access to it, of which ", error)
        self.assertIn(" is no member; run the command as root", error)
        self.assertEqual(self.content(), b"ann:{PLAIN}a\n")
        self.assertEqual(os.listdir(self.directory), [".users"])

    def test_acl(self):
        """The access control list of a file stays, also if its directory has one for new files."""
        # acl(5): the owner, a user, the group, the mask and others.
        named, default = (
            struct.pack("<I" + 5 * "HHi", 2, 1, 6, -1, 2, 4, uid, 4, 0, -1, 16, 4, -1, 32, 0, -1)
            for uid in (1234, 2345)
        )
        self.write(b"ann:{PLAIN}a\n", 0o640)
        try:
            os.setxattr(self.directory, "system.posix_acl_default", default)
        except (OSError, AttributeError):
            raise SkipTest("the file system has no ACL") from None
        set_secret(self.path, b"ann", b"{PLAIN}b", new=False)
        self.assertEqual((os.listxattr(self.path), self.mode()), ([], 0o640))
        os.setxattr(self.path, "system.posix_acl_access", named)
        set_secret(self.path, b"ann", b"{PLAIN}c", new=False)
        self.assertEqual(os.getxattr(self.path, "system.posix_acl_access"), named)
        self.assertEqual(self.mode(), 0o640)

    def test_no_acl(self):
        """Elsewhere files have none; if it cannot be read, the file stays."""
        self.write(b"ann:{PLAIN}a\n")
        for error in (OSError(errno.ENOTSUP, ""), AttributeError()):
            with mock.patch.object(users_file_editing.os, "getxattr", side_effect=error):
                set_secret(self.path, b"ann", b"{PLAIN}b", new=False)
            self.assertEqual(self.content(), b"ann:{PLAIN}b\n")
        with mock.patch.object(
            users_file_editing.os, "getxattr", side_effect=OSError(errno.EIO, "I/O error")
        ):
            error = self.error_of(set_secret, self.path, b"ann", b"{PLAIN}c", new=False)
        self.assertIn("I/O error", error)
        self.assertEqual(self.content(), b"ann:{PLAIN}b\n")

    def test_symbolic_link(self):
        """A symbolic link stays; its target is replaced."""
        os.mkdir(os.path.join(self.directory, "etc"))
        link, self.path = self.path, os.path.join(self.directory, "etc", "users")
        self.write(b"ann:{PLAIN}a\n", 0o640)
        os.symlink(os.path.join("etc", "users"), link)
        set_secret(link, b"bob", b"{PLAIN}b", new=True)
        self.assertEqual(os.readlink(link), os.path.join("etc", "users"))
        self.assertEqual(self.content(), b"ann:{PLAIN}a\nbob:{PLAIN}b\n")
        self.assertEqual(self.mode(), 0o640)
        self.assertEqual(set(UsersFile(link).read().password_fields), {b"ann", b"bob"})

    def test_link_of_others(self):
        """A symbolic link of another user is not followed, also if it is made meanwhile."""
        victim = os.path.join(self.directory, "victim")
        with open(victim, "wb") as file:
            file.write(b"root:x\n")
        os.symlink("victim", self.path)
        with mock.patch.object(users_file_editing, "this_uid", lambda: 12345):
            if os.geteuid() == 0:
                os.lchown(self.path, 54321, 54321)
            error = self.error_of(set_secret, self.path, b"ann", b"{PLAIN}a", new=True)
        self.assertIn(f"{self.path} is a symbolic link of the user ", error)
        self.assertIn("; name the file itself", error)
        with mock.patch.object(users_file_editing, "_followed", lambda path: path):
            self.assertIn("cannot write", self.error_of(remove_user, self.path, b"root"))
        with open(victim, "rb") as file:
            self.assertEqual(file.read(), b"root:x\n")

    def test_directory_link(self):
        """Links to directories are followed, also before .., to the file that the server reads."""
        root = Path(self.directory)
        (root / "data/etc").mkdir(parents=True)
        for name, target in (
            ("conf", "data/link"),
            ("data/link", str(root / "data/etc")),
            ("link", "conf/../users"),
        ):
            (root / name).symlink_to(target)
        for path, edited in (
            ("conf/users", "data/etc/users"),
            ("link", "data/users"),
            ("conf/../users", "users"),
        ):
            set_secret(f"{root}/{path}", b"ann", b"{PLAIN}a", new=True)
            self.assertEqual(set(UsersFile(f"{root}/{path}").read().password_fields), {b"ann"})
            self.assertEqual((root / edited).read_bytes(), b"ann:{PLAIN}a\n")

    def test_directory_link_of_others(self):
        """A link of another user to a directory is not followed."""
        os.mkdir(os.path.join(self.directory, "etc"))
        link = os.path.join(self.directory, "conf")
        os.symlink("etc", link)
        with mock.patch.object(users_file_editing, "this_uid", lambda: 12345):
            if os.geteuid() == 0:
                os.lchown(link, 54321, 54321)
            path = os.path.join(link, "users")
            error = self.error_of(set_secret, path, b"ann", b"{PLAIN}a", new=True)
        self.assertIn(f"{link} is a symbolic link of the user ", error)
        self.assertEqual(os.listdir(os.path.join(self.directory, "etc")), [])

    def test_link_of_root(self):
        """A link of root is followed by every user."""
        os.mkdir(os.path.join(self.directory, "etc"))
        link = os.path.join(self.directory, "conf")
        os.symlink("etc", link)
        lstat = os.lstat

        def as_of_root(path, **options):
            status = lstat(path, **options)
            return os.stat_result((*status[:4], 0, *status[5:10]))

        with (
            mock.patch.object(users_file_editing, "this_uid", lambda: 12345),
            mock.patch.object(users_file_editing.os, "lstat", as_of_root),
        ):
            set_secret(os.path.join(link, "users"), b"ann", b"{PLAIN}a", new=True)
        self.assertEqual(os.listdir(os.path.join(self.directory, "etc")), ["users"])

    def test_relative_path(self):
        """A relative path begins at the current directory."""
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.directory)
        set_secret(os.path.basename(self.path), b"ann", b"{PLAIN}a", new=True)
        self.assertEqual(self.content(), b"ann:{PLAIN}a\n")

    def test_link_loop(self):
        """Links that lead to themselves are an error."""
        os.symlink(os.path.basename(self.path), self.path)
        error = self.error_of(set_secret, self.path, b"ann", b"{PLAIN}a", new=True)
        self.assertIn(f"cannot write {self.path}: ", error)

    def test_no_directory(self):
        """If the directory does not exist, or is none, the error names the file."""
        os.mkfifo(os.path.join(self.directory, "fifo"))
        for directory in ("none", "fifo"):
            path = os.path.join(self.directory, directory, "users")
            error = self.error_of(set_secret, path, b"ann", b"{PLAIN}s3cret", new=True)
            self.assertIn(f"cannot write {path}: ", error)
            self.assertNotIn("s3cret", error)

    def test_interrupted(self):
        """If an edit fails at any step, the old file stays, and no temporary file is left."""
        for step in ("fchmod", "fsync", "rename"):
            self.write(b"ann:{PLAIN}a\n")
            for reason in (OSError(28, "No space left on device"), KeyboardInterrupt()):
                expected = UsersFileError if isinstance(reason, OSError) else KeyboardInterrupt
                with mock.patch.object(users_file_editing.os, step, side_effect=reason):
                    self.assertRaises(expected, remove_user, self.path, b"ann")
                self.assertEqual(self.content(), b"ann:{PLAIN}a\n")
                self.assertEqual(os.listdir(self.directory), [".users"])

    def test_killed(self):
        """If a writer is killed at any step, the next change removes the copy that it has left."""
        script = (
            "import os, signal, sys\n"
            "from popserv.auth.passwords import users_file_editing as editing\n"
            "kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "setattr(editing.os, sys.argv[2], kill)\n"
            "editing.set_secret(sys.argv[1], b'bob', b'{PLAIN}b', new=True)"
        )
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(popserv.__path__[0])}
        for step, is_new in (("fsync", False), ("rename", False), ("link", True)):
            if is_new:
                os.unlink(self.path)
            else:
                self.write(b"ann:{PLAIN}a\n")
            done = subprocess.run(
                [sys.executable, "-c", script, self.path, step], env=environment, check=False
            )
            self.assertEqual(done.returncode, -signal.SIGKILL)
            copy = os.path.join(self.directory, COPY)
            self.assertEqual(abandoned_copy(self.path), copy)
            self.assertEqual(stat.S_IMODE(os.stat(copy).st_mode), 0o600)
            set_secret(self.path, b"cid", b"{PLAIN}c", new=True)
            before = b"" if is_new else b"ann:{PLAIN}a\n"
            self.assertEqual(self.content(), before + b"cid:{PLAIN}c\n")
            self.assertEqual(os.listdir(self.directory), [".users"])
            self.assertIsNone(abandoned_copy(self.path))

    def test_copy_in_use(self):
        """A copy that a command is writing is not abandoned; without a directory there is none."""
        Path(self.directory, COPY).touch()
        fd = os.open(self.directory, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self.assertIsNone(abandoned_copy(self.path))
        fcntl.flock(fd, fcntl.LOCK_UN)
        self.assertEqual(abandoned_copy(self.path), os.path.join(self.directory, COPY))
        self.assertIsNone(abandoned_copy(os.path.join(self.directory, "none", "users")))

    def test_not_found(self):
        """A file that is there, although the system has said that it is not, is not replaced."""
        self.write(b"ann:{PLAIN}a\n")

        def open_new(path, mode, **options):
            if path == self.path:
                raise FileNotFoundError(2, "No such file or directory")
            return open(path, mode, **options)

        with mock.patch.object(users_file_editing, "open", open_new, create=True):
            error = self.error_of(set_secret, self.path, b"bob", b"{PLAIN}b", new=True)
        self.assertIn(f"cannot write {self.path}: File exists", error)
        self.assertEqual(self.content(), b"ann:{PLAIN}a\n")
        self.assertEqual(os.listdir(self.directory), [".users"])

    def test_without_links(self):
        """On a file system without links, such as FAT, a new file is made all the same."""
        for reason in (OSError(errno.EPERM, "denied"), OSError(errno.ENOTSUP, "no")):
            with mock.patch.object(users_file_editing.os, "link", side_effect=reason):
                set_secret(self.path, b"ann", b"{PLAIN}a", new=True)
            self.assertEqual(self.content(), b"ann:{PLAIN}a\n")
            self.assertEqual(os.listdir(self.directory), [".users"])
            os.unlink(self.path)

    def test_not_removed(self):
        """If the temporary file cannot be removed either, the first error is told."""
        self.write(b"ann:{PLAIN}a\n")
        full = mock.patch.object(users_file_editing.os, "fsync", side_effect=OSError(28, "full"))
        # There is none before it is written.
        removals = FileNotFoundError(), OSError(5, "bad")
        denied = mock.patch.object(users_file_editing.os, "unlink", side_effect=removals)
        with full, denied:
            self.assertIn("full", self.error_of(remove_user, self.path, b"ann"))
        self.assertEqual(self.content(), b"ann:{PLAIN}a\n")

    def test_concurrent_writers(self):
        """Concurrent writers lose no user, and a reader never sees an incomplete file."""
        script = (
            "import sys; from popserv.auth.passwords.users_file_editing import set_secret\n"
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
            fields = users.read().password_fields
            self.assertLessEqual(seen, set(fields))
            self.assertLessEqual(set(fields.values()), {b"{PLAIN}" + b"x" * 5000})
            seen = set(fields)
        self.assertEqual([writer.returncode for writer in writers], [0] * 4)
        everybody = {b"%c-%d" % (name, n) for name in b"abcd" for n in range(10)}
        self.assertEqual(set(users.read().password_fields), everybody)
        self.assertEqual(self.events, [])
