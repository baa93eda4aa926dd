"""What all scenarios have: sessions, and what must be true of them."""

import os
import re
from copy import copy

from tests.faults.power import restore
from tests.faults.shim import KILLED, SOCKETS

TEMPORARY = (b"-ERR [SYS/TEMP] ", b"-ERR [SYS/PERM] ")


class Broken(AssertionError):
    """A promise is broken; the text says which."""


def require(condition, text):
    """Raise unless a condition is true."""
    if not condition:
        raise Broken(text)


class Said:
    """What a session was told.

    :ivar replies: the status lines, by command; empty where the connection was closed.
    :ivar bodies: the lines after them.
    """

    def __init__(self):
        self.replies = {}
        self.bodies = {}

    def ok(self, command):
        """Tell whether a command succeeded."""
        return self.replies.get(command, b"").startswith(b"+OK")


def converse(bench, user, *commands):
    """Run a session; a broken connection is an empty reply."""
    said = Said()
    connection = bench.connect()
    try:
        said.replies[b"PASS"] = bench.login(connection, user)
        if said.ok(b"PASS"):
            for command in commands:
                said.replies[command] = connection.ask(command)
                if said.ok(command) and command[:4] in (b"UIDL", b"LIST", b"RETR", b"TOP "):
                    said.bodies[command] = connection.lines()
        said.replies[b"QUIT"] = connection.ask(b"QUIT")
    except (OSError, AssertionError):
        pass
    finally:
        connection.abandon()
    return said


def unique_ids(said):
    """Return the unique-ids in the order of the messages."""
    return [line.split()[1] for line in said.bodies.get(b"UIDL", ())]


def look(bench, user):
    """Return the unique-ids and texts that a session without faults is shown."""
    said = converse(bench, user, b"UIDL")
    require(said.ok(b"PASS"), f"the next login was told {said.replies[b'PASS']!r}")
    ids = unique_ids(said)
    commands = [b"RETR %d" % number for number in range(1, len(ids) + 1)]
    said = converse(bench, user, *commands)
    texts = [said.bodies.get(each) for each in commands]
    require(None not in texts, f"the next session was told {said.replies}")
    require(len({*ids}) == len(ids), f"two messages have the same unique-id: {ids}")
    return {
        each: bench.store.normalize(b"\n".join(text) + b"\n")
        for each, text in zip(ids, texts, strict=True)
    }


class Scenario:
    """What all scenarios have; ``fault`` is what they meet with, if anything.

    :ivar user: a user who has no maildrop yet.
    """

    benches = ("maildir", "mbox", "mh")
    """The benches for which there is this scenario."""
    is_command = False
    is_recorded = True
    """Whether it changes something, so that power losses meet with it."""

    def __init__(self, bench, fault=None):
        self.bench = bench
        self.fault = fault
        self.user = bench.new_user()

    @property
    def may_miss(self):
        """Whether a file may not be found, as the system says that there is none, or not for us."""
        return self.fault is not None and self.fault.error in ("ENOENT", "EACCES")

    @property
    def lasts(self):
        """Whether the fault lasts, until it has been over for some time."""
        return self.fault is not None and self.fault.lasts

    @property
    def root(self):
        """Where system calls fail."""
        return self.bench.mail

    @property
    def disk(self):
        """What is on the disk that loses power; the names in it begin with those of users."""
        return self.bench.mail

    confirmation = b""
    """What is told at its end, besides what the server has sent."""

    def as_told(self, told, user):
        """Return this scenario when a client had been told so much, for the mail of a user."""
        new = copy(self)
        new.user = user
        return new

    def is_known(self, told):
        """Return whether it is known what must be there when a client had been told so much."""
        return True

    def lose_power(self, told, contents):
        """Write what a power loss has left when a client had been told so much, and check it.

        It is that of another user, so that the server remembers nothing.
        """
        after = self.as_told(told, self.bench.new_user())
        restore(contents, lambda path: self._renamed(path, after.user))
        self.bench.age_dotlocks(of_mboxes=True)
        after.check(True)

    def _renamed(self, path, new):
        """Return this user's path as that of another user; None for all other paths."""
        relative = os.path.relpath(path, self.disk)
        first, slash, rest = relative.partition("/")
        name = rf"(?<!\w){self.user}(?!\w)"
        if not re.search(name, first):
            return None
        return os.path.join(self.disk, re.sub(name, new, first) + slash + rest)

    def prepare(self):
        """Do what is before the fault."""

    def act(self):
        """Do what may meet with the fault; return the replies."""
        raise NotImplementedError

    def recover(self):
        """Do what is done after the process was killed."""
        require(self.bench.stop(0) == KILLED, "the server has ended by itself")
        self.bench.age_dotlocks()
        self.bench.start()

    def check(self, killed):
        """Check what is there afterwards."""
        raise NotImplementedError

    def check_told(self, replies, log):
        """Check that clients are not told the reason of a failure, and that the log is."""
        for reply in replies:
            self.check_discreet(reply)
            is_busy = b"[IN-USE]" in reply
            require(not is_busy or self.fault.calls == "lock", f"a client is told {reply!r}")
        # That a message is not where it was is known to happen, and not logged.
        failures = [reply for reply in replies if b"message has changed" not in reply]
        if any(reply.startswith((*TEMPORARY, b"4")) for reply in failures):
            # A text of its own tells what is missing, or who may not do it.
            # libpq has words of its own for errors of sockets.
            is_told = not self.may_miss and self.fault.calls not in SOCKETS
            text = self.fault.text if is_told else ""
            require(text in log, f"the log does not tell {text!r}")
            require(re.search("#(warn|error|critical)]", log), "the log does not tell the reason")
        require("Unhandled" not in log, "the log tells an unhandled error")

    def check_discreet(self, reply):
        """Check that a reply does not tell the reason of a failure."""
        leaks = [self.fault.text.encode()] if self.fault.text else []
        for text in (*leaks, str(self.bench.root).encode(), b"Errno", b"errno"):
            require(text not in reply, f"a client is told {reply!r}")


def subjects(texts):
    """Return the subjects of messages, or their first octets."""
    return [
        found[1].decode()
        if (found := re.search(rb"(?m)^Subject: (.*)$", each))
        else repr(each[:60])
        for each in texts
    ]
