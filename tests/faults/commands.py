"""The popserv command while a system call fails: copies, imports, deliveries."""

import re

from tests.faults.base import Scenario, look, require, subjects
from tests.faults.bench import MESSAGES, message
from tests.faults.power import restore
from tests.faults.sessions import Delivery
from tests.faults.shim import KILLED, SHORT

LARGE = message(7, 1_500_000)
"""A message that a copy has in a temporary file."""

_LEFT = re.compile(r"\.new$|^\.popserv-new-|\.lock$")
"""The names of files that a copy needs only while it runs; the next one needs a journal."""

_LEFT_OUT = re.compile("is not copied|message skipped")
"""What is told of a message that the copy, or the store, leaves out."""


class Command(Scenario):
    """A command.

    :ivar code: its exit code, once it has ended.
    :ivar output: what it has printed.
    """

    is_command = True
    code = None
    output = ""

    def recover(self):
        """Check that the command was killed."""
        require(self.code == KILLED, f"the command has ended by itself: {self.code}")
        self.bench.age_dotlocks()

    @property
    def confirmation(self):
        """What a successful command says by its exit code."""
        return b"0" if self.code == 0 else b""

    def as_told(self, told, user):
        """Without the exit code, it is not certain that anything was done."""
        new = super().as_told(told, user)
        new.code = self.code if told else KILLED
        return new

    def check_told(self, replies, log):
        """The exit code says whether it was done, and the output what has failed, and where."""
        require("Traceback" not in self.output, "there is a traceback")
        require("Unhandled" not in self.output, "there is an unhandled error")
        require(self.code in (0, 1, 2), f"the exit code is {self.code}")
        if self.code == 0 or self.fault.error == SHORT:
            return
        if self.fault.calls == "lock" and "maildrop already locked" in self.output:
            # By EACCES a system may tell that another program has the lock (fcntl(2)).
            return
        # With ENOENT the user counts as unknown.  If a directory cannot be examined, the message
        # names the one above it.
        above = f"the directory {self.told.parent} cannot be searched"
        is_told = str(self.told) in self.output or above in self.output
        require(is_told or self.fault.error == "ENOENT", f"no path is told: {self.output!r}")
        if not self.may_miss:
            require(
                self.fault.text in self.output, f"{self.fault.text!r} is not told: {self.output!r}"
            )

    @property
    def told(self):
        """The directory of the files that are told."""
        return self.root

    @property
    def may_leave(self):
        """Whether a file that is not needed may be left, because it cannot be removed."""
        return self.lasts or (self.fault is not None and self.fault.calls == "unlink")


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
        has_left_out = bool(_LEFT_OUT.search(self.output))
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


class Import(Command):
    """The unique-ids of Dovecot are imported into a Maildir."""

    benches = ("maildir",)
    before = 0
    """The messages whose unique-ids were imported before, which Dovecot has no more."""

    def prepare(self):
        """Deliver mail, and write Dovecot's list."""
        self.bodies = {}
        if self.before:
            self._deliver(MESSAGES[: self.before])
            code, output = self._import()
            require(code == 0, output)
        self._deliver(MESSAGES[self.before :])
        self.wanted = [b"1700000000.%d" % uid for uid in range(1, len(MESSAGES) + 1)]

    def _deliver(self, messages):
        first = len(self.bodies) + 1
        new = self.bench.deliver(self.user, messages)
        self.bodies |= new
        lines = [f"{uid} :{key}\n" for uid, key in enumerate(new, first)]
        self.listed = f"3 V1700000000 N{len(self.bodies) + 1} G0\n{''.join(lines)}"
        self._list.write_text(self.listed)

    @property
    def _list(self):
        return self.bench.mail / self.user / "dovecot-uidlist"

    def _import(self):
        place = ("--maildir", self.bench.mail, self.user)
        return self.bench.command("uidl", "import", "--from", "%v.%u", *place)

    def act(self):
        """Import them."""
        self.code, self.output = self._import()
        return [self.output.encode()]

    def check(self, killed):
        """All messages have those of Dovecot, or no more than before; the next import succeeds."""
        own = [*self.wanted[: self.before], *map(str.encode, [*self.bodies][self.before :])]
        shown = look(self.bench, self.user)
        require([*shown.values()] == [*self.bodies.values()], "mail is gone")
        # Messages that cannot be found cannot get one, as the output says.
        is_certain = self.code == 0 and not self.may_miss
        allowed = [self.wanted] if is_certain else [self.wanted, own]
        if _LEFT_OUT.search(self.output):
            require(self.code == 1, f"a message is left out, and the exit code is {self.code}")
            allowed += [
                [*self.wanted[:at], own[at], *self.wanted[at + 1 :]] for at in range(len(own))
            ]
        require([*shown] in allowed, f"exit code {self.code}: unique-ids are {[*shown]}")
        require(self._list.read_text() == self.listed, "Dovecot's list was changed")
        left = self.bench.mail / self.user / "popserv-uidl.new"
        require(killed or self.may_leave or not left.exists(), f"{left} is left")
        code, output = self._import()
        require(code == 0, f"the next import failed: {output}")
        shown = look(self.bench, self.user)
        require([*shown] == self.wanted, f"unique-ids are {[*shown]}")


class ContinuedImport(Import):
    """The unique-ids of more messages are imported."""

    before = 2


class CommandDelivery(Delivery):
    """A message is delivered by a command, as in a pipe of a mail transfer agent."""

    is_command = True

    def act(self):
        """Deliver a message."""
        argv = ("deliver", "--store", self.bench.store.name, "--create", self.user)
        self.code, output = self.bench.command(*argv, text=self.added)
        # In the words of LMTP, with which the exit codes are compared.
        self.reply = {0: "250 ", 75: "450 "}.get(self.code, "") + output
        return [output.encode()]

    def recover(self):
        """Check that the command was killed."""
        require(self.code == KILLED, f"the command has ended by itself: {self.code}")
        self.bench.age_dotlocks()

    @property
    def confirmation(self):
        """What a successful command says by its exit code."""
        return self.reply.encode() if self.code == 0 else b""

    def check_told(self, replies, log):
        """What is printed may be sent to the sender, and has no reason; the system's log has it."""
        for reply in replies:
            self.check_discreet(reply)
