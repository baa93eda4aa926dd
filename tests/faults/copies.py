"""``popserv copy`` while a system call fails, at the source or at the destination."""

import re

from tests.faults.base import look, require, subjects
from tests.faults.bench import MESSAGES, message
from tests.faults.commands import LEFT_OUT, Command
from tests.faults.power import restore

LARGE = message(7, 1_500_000)
"""A message that a copy has in a temporary file."""

_LEFT = re.compile(r"\.new$|^\.popserv-new-|\.lock$")
"""The names of files that a copy needs only while it runs; the next one needs a journal."""


class Copy(Command):
    """Mail is copied from Maildirs to a store, of which a system call fails."""

    source_kind = "maildir"
    messages = MESSAGES
    before = ()
    """The messages that were copied before."""

    def prepare(self):
        """Deliver mail to the source."""
        self.source = self.bench.source(self.source_kind)
        self.bodies = {}
        for each in self.before:
            self._deliver(each)
        if self.before:
            code, output = self._copy()
            require(code == 0, output)
        for each in self.messages[len(self.before) :]:
            self._deliver(each)
        self.expected = [self.bench.store.normalize(each) for each in self.messages]
        self.untouched = self._snapshot()

    def _deliver(self, text):
        key = self.source.deliver(self.user, text, self.bench.choose)
        self.bodies[key] = text

    def _copy(self):
        stores = self.source.name, self.bench.store.name
        return self.bench.command("copy", *stores, "--user", self.user)

    def act(self):
        """Copy it."""
        self.code, self.output = self._copy()
        return [self.output.encode()]

    def as_told(self, told, user):
        """The source has mail of the other user, too."""
        new = super().as_told(told, user)
        # That of the first user is gone if the bench has begun again with its users.
        restore(self.untouched, lambda path: self.source.root / user / path)
        return new

    def check(self, killed):
        """The same command goes on; nothing is there twice, and the source is what it was."""
        require(self._snapshot() == self.untouched, "the source was changed")
        if not killed and not self.may_leave:
            require(not (left := self._left()), f"{left} are left")
        first = look(self.bench, self.user)
        if self.code == 0 and not self.may_miss:
            require([*first.values()] == self.expected, f"exit code 0, and there are {len(first)}")
        code, output = self._copy()
        is_told = (killed or self.may_leave) and "stale dotlock removed" in output
        require(code == 0 or is_told, f"the next copy failed: {output}")
        shown = look(self.bench, self.user)
        texts = [*shown.values()]
        has_left_out = bool(LEFT_OUT.search(self.output))
        if has_left_out:
            # What was left out is at the end.
            require(self.code == 1, f"a message is left out, and the exit code is {self.code}")
            texts = sorted(texts, key=self.expected.index)
        require(texts == self.expected, f"there are {subjects(texts)}; {output}")
        require(first.items() <= shown.items(), f"unique-ids were {[*first]}, and are {[*shown]}")
        if self.source_kind == "maildir":
            ids = [each.encode() for each in self.bodies]
            require(
                [*shown] == ids or has_left_out,
                f"unique-ids are {[*shown]}, not {ids}",
            )
        require(self._snapshot() == self.untouched, "the source was changed")

    def _snapshot(self):
        """Return the messages of the source by path, with their times, and None for directories."""
        path = self.source.root / self.user
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        return {
            str(each.relative_to(path)): (
                None if each.is_dir() else (each.read_bytes(), each.stat().st_mtime_ns)
            )
            for each in files
            if "popserv" not in each.name
        }

    def _left(self):
        """Return the files of the destination that a copy needs only while it runs."""
        mail = self.bench.mail
        return [
            str(path)
            for path in mail.rglob("*")
            if (path.parent.name == "tmp" or _LEFT.search(path.name))
            # A dotlock that could not be removed is stale, and a message in an MH folder with
            # another name still needs its flags.
            and path.stat().st_mtime
            and path.stat().st_nlink == 1
            and re.search(rf"(?<!\w){self.user}(?!\w)", str(path.relative_to(mail)))
        ]


class ContinuedCopy(Copy):
    """Mail is copied to a maildrop that has some of it."""

    before = MESSAGES[:2]


class PinnedCopy(ContinuedCopy):
    """Mail is copied from an mbox file to a Maildir that has some of it, whose names are others."""

    benches = ("maildir",)
    source_kind = "mbox"


class LargeCopy(Copy):
    """A large message is copied, while a system call in the directory for such files fails."""

    benches = ("maildir",)
    is_recorded = False
    messages = (*MESSAGES[:1], LARGE)

    @property
    def root(self):
        """The directory for temporary files."""
        return self.bench.temporary

    @property
    def told(self):
        """Either directory: what is read from one is written to the other."""
        return self.bench.temporary.parent


class CopyFrom(Copy):
    """Mail is copied, while a system call in the source fails."""

    benches = ("maildir",)
    is_recorded = False

    @property
    def root(self):
        """The directory of the source."""
        return self.source.root


class CopyFromMbox(CopyFrom):
    """Mail is copied from an mbox file, in which a system call fails."""

    source_kind = "mbox"


class CopyFromMH(CopyFrom):
    """Mail is copied from an MH folder, in which a system call fails."""

    source_kind = "mh"
