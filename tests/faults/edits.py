"""Changes of a users file by ``popserv user``, of which a system call fails."""

import os
import stat

from tests.faults.base import require
from tests.faults.commands import Command

BEFORE = b"# users\nann:{PLAIN}a:1:2::/home/ann::popserv_since=30d\nbob:{PLAIN}b::::::nologin\n"

OWNER = (1234, 2345)
"""The owner and the group of the file, if this process may give it away."""


class Edit(Command):
    """A user is changed in a file that also has others."""

    benches = ("maildir",)
    before = BEFORE
    mode = 0o640
    arguments = ()
    after = BEFORE
    is_restored = False
    """Whether the file was written anew, without its attributes."""

    @property
    def root(self):
        """The directory of the file."""
        return self.bench.edits / self.user

    @property
    def disk(self):
        """The directory of all such directories."""
        return self.bench.edits

    @property
    def file(self):
        """The users file."""
        return self.root / "users"

    def prepare(self):
        """Write the file."""
        self.root.mkdir()
        if self.before is not None:
            self.file.touch(self.mode)
            self.file.write_bytes(self.before)
        if os.geteuid() == 0:
            for path in self.root, *self.root.iterdir():
                os.chown(path, *OWNER)

    def as_told(self, told, user):
        """See Command."""
        new = super().as_told(told, user)
        new.is_restored = True
        return new

    def act(self):
        """Change the user."""
        argv = ("user", *self.arguments, "--users", self.file)
        self.code, self.output = self.bench.command(*argv, text=b"secret\n")
        return [self.output.encode()]

    def check(self, killed):
        """The file is the old or the new one, as a whole, and can be changed again."""
        found = self.file.read_bytes() if self.file.exists() else None
        require(found in (self.before, self.after), f"the file is {found!r}")
        require(self.code != 0 or found == self.after, f"exit code 0, and the file is {found!r}")
        if found is not None and not self.is_restored:
            self._check_attributes()
        if not killed and not self.may_leave:
            left = {*os.listdir(self.root)} - {"users"}
            require(not left, f"{left} are left")
        code, output = self.bench.command(
            *("user", "add", "--apop", "eve", "--users", self.file), text=b"secret\n"
        )
        require(code == 0, f"the next change failed: {output}")
        expected = (found or b"") + b"eve:{APOP}secret\n"
        require(self.file.read_bytes() == expected, "the next change was another one")
        left = {*os.listdir(self.root)} - {"users"}
        require(not left, f"{left} are left after the next change")

    def _check_attributes(self):
        status = self.file.stat()
        mode = stat.S_IMODE(status.st_mode)
        require(mode == self.mode, f"the mode is {mode:o}")
        if os.geteuid() == 0:
            require((status.st_uid, status.st_gid) == OWNER, "the owner was changed")


class Add(Edit):
    """A user is added."""

    arguments = ("add", "--apop", "cid")
    after = BEFORE + b"cid:{APOP}secret\n"


class AddFirst(Edit):
    """A user is added to a file that does not exist."""

    before = None
    mode = 0o600
    arguments = ("add", "--apop", "cid")
    after = b"cid:{APOP}secret\n"


class SetPassword(Edit):
    """A password is changed."""

    arguments = ("passwd", "--apop", "ann")
    after = BEFORE.replace(b"{PLAIN}a", b"{APOP}secret")


class Remove(Edit):
    """A user is removed."""

    arguments = ("remove", "ann")
    after = BEFORE.replace(BEFORE.splitlines(keepends=True)[1], b"")


class Disable(Edit):
    """A user is disabled."""

    arguments = ("disable", "ann")
    after = BEFORE.replace(b"=30d", b"=30d nologin")


class Enable(Edit):
    """A user is enabled."""

    arguments = ("enable", "bob")
    after = BEFORE.replace(b"::::::nologin", b"")


class SetField(Edit):
    """A field is removed."""

    arguments = ("set", "ann", "popserv_since=")
    after = BEFORE.replace(b"::popserv_since=30d", b"")


class List(Edit):
    """The users are listed."""

    arguments = ("list",)
    is_recorded = False
    listed = "ann\tPLAIN\tpopserv_since=30d\nbob\tPLAIN\tnologin\n"

    def check(self, killed):
        """Nothing changes; a list that succeeds is whole."""
        super().check(killed)
        is_whole = self.output == self.listed or self.may_miss
        require(self.code != 0 or is_whole, f"it lists {self.output!r}")
