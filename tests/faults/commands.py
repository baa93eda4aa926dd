"""The popserv command while a system call fails: what all have, imports, deliveries."""

import re

from tests.faults.base import Scenario, look, require
from tests.faults.bench import MESSAGES
from tests.faults.sessions import Delivery
from tests.faults.shim import KILLED, SHORT

LEFT_OUT = re.compile("is not copied|message skipped")
"""Matches what the output says of a message that the copy or the store leaves out."""


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
            # fcntl(2) may report a lock of another program as EACCES.
            return
        # With ENOENT the user counts as unknown.  If a directory cannot be examined, the message
        # names the one above it.
        above = f"the directory {self.told.parent} cannot be searched"
        is_told = str(self.told) in self.output or above in self.output
        if self.fault.calls == "stat" and self.fault.lasts:
            # The system does not tell the paths of open directories any more.
            is_told = is_told or self.user in self.output
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
        """All or as many as before have Dovecot's unique-ids; the next import succeeds."""
        own = [*self.wanted[: self.before], *map(str.encode, [*self.bodies][self.before :])]
        shown = look(self.bench, self.user)
        require([*shown.values()] == [*self.bodies.values()], "mail is gone")
        # Messages that cannot be found cannot get one, as the output says.
        is_certain = self.code == 0 and not self.may_miss
        allowed = [self.wanted] if is_certain else [self.wanted, own]
        if LEFT_OUT.search(self.output):
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
