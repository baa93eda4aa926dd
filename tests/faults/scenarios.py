"""What is done while a system call fails, and what must be true afterwards.

A scenario prepares the maildrop of a new user, acts with the fault armed, and checks what was said
against what is there when the fault is over.
"""

import re
from copy import copy

from tests.faults.bench import MESSAGES, message

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
    """What all scenarios have.

    ``may_miss`` says that a file or a folder may not be shown, because the system says that it does
    not exist or that the server may not read it.
    """

    kinds = ("maildir", "mbox", "mh")
    is_recorded = True
    """Whether it changes the maildrop, so that power losses meet with it."""

    def __init__(self, bench, may_miss=False):
        self.bench = bench
        self.may_miss = may_miss
        self.user = bench.new_user()

    @classmethod
    def fits(cls, kind):
        """Tell whether there is this scenario for a kind of store."""
        return kind in cls.kinds

    @property
    def root(self):
        """Where system calls fail."""
        return self.bench.mail

    def as_told(self, told, user):
        """Return this scenario when a client had been told so much, for the mail of a user."""
        new = copy(self)
        new.user = user
        return new

    def prepare(self):
        """Do what is before the fault."""

    def act(self):
        """Do what may meet with the fault; return the replies."""
        raise NotImplementedError

    def check(self, killed):
        """Check what is there afterwards."""
        raise NotImplementedError


class Session(Scenario):
    """A first session of a user, which retrieves three messages and removes one."""

    commands = (b"STAT", b"UIDL", b"LIST", b"RETR 1", b"TOP 2 0", b"RETR 3", b"DELE 2")
    removed = 1
    damaged = 1
    """How many messages a rewriting of an mbox file may have damaged, of which it has copies."""

    def prepare(self):
        """Deliver mail."""
        self.bodies = self.bench.deliver(self.user, MESSAGES)
        self.expected = [self.bench.store.normalize(each) for each in MESSAGES]
        self.ids = None

    def act(self):
        """Run the session."""
        self.said = converse(self.bench, self.user, *self.commands)
        return self.said.replies.values()

    def as_told(self, told, user):
        """Without the reply to QUIT, it is not certain that the message is gone."""
        new = super().as_told(told, user)
        new.damaged = len(self.bodies)
        new.said = copy(self.said)
        new.said.replies = {
            command: reply for command, reply in self.said.replies.items() if reply in told
        }
        return new

    def check(self, killed):
        """No message is lost or changed, none is there twice, unique-ids are the same."""
        said = self.said
        for number in (1, 3):
            lines = said.bodies.get(b"RETR %d" % number)
            if lines is not None:
                text = self.bench.store.normalize(b"\n".join(lines) + b"\n")
                wanted = self.expected if self.may_miss else [self.expected[number - 1]]
                require(text in wanted, f"RETR {number} sent {text[:200]!r}")
        if said.ok(b"UIDL") and not self.may_miss:
            ids = unique_ids(said)
            require(len(ids) == len(self.expected), f"UIDL told {ids}")
            require(self.ids in (None, ids), f"UIDL told {ids} and not {self.ids}")
            self.ids = ids
        if killed:
            self.bench.store.repair(self.user, self.bodies, self.damaged)
        shown = look(self.bench, self.user)
        texts = [*shown.values()]
        require(
            self._sorted(texts, killed)
            in [self._sorted(each, killed) for each in self._outcomes()],
            f"there are {_subjects(texts)}; {said.replies}",
        )
        if self.ids:
            before = dict(zip(self.ids, self.expected, strict=True))
            require(shown.items() <= before.items(), f"unique-ids are {[*shown]}, not {self.ids}")
        stored = self.bench.read(self.user)
        require(
            [each.rstrip(b"\r\n") for each in stored] == [each.rstrip(b"\r\n") for each in texts],
            f"another program sees {_subjects(stored)}",
        )

    def _outcomes(self):
        """Return what may be there: each is a list of texts."""
        if not self.said.ok(b"DELE 2"):
            return [self.expected]
        positions = range(len(self.expected)) if self.may_miss else [self.removed]
        removed = [self.expected[:at] + self.expected[at + 1 :] for at in positions]
        is_certain = self.said.ok(b"QUIT") and not self.may_miss
        return removed if is_certain else [self.expected, *removed]

    def _sorted(self, texts, killed):
        """Return messages for a comparison; copies of those in an mbox file are at its end."""
        return sorted(texts) if killed and self.bench.kind == "mbox" else texts


class SecondSession(Session):
    """A later session, for which the server has sizes in memory and on disk."""

    def prepare(self):
        """Run a session."""
        super().prepare()
        self.ids = [*look(self.bench, self.user)]


class ChangedSession(SecondSession):
    """A session after other programs have delivered mail and moved some."""

    def prepare(self):
        """Change the maildrop after a session."""
        super().prepare()
        self.bench.store.move(self.user, self.bench.choose)
        self.bodies |= self.bench.deliver(self.user, [message(5)])
        self.expected.append(self.bench.store.normalize(message(5)))
        self.ids = None


class Delivery(Scenario):
    """A message comes by LMTP."""

    before = MESSAGES[:2]
    added = message(9, 100_000)

    def prepare(self):
        """Deliver mail, and run a session."""
        self.bench.deliver(self.user, self.before)
        self.ids = [*look(self.bench, self.user)] if self.before else []

    def act(self):
        """Deliver a message."""
        self.reply = self.bench.post(self.user, self.added)
        return [self.reply.encode()]

    def as_told(self, told, user):
        """Without the reply, it is not certain that the message was delivered."""
        new = super().as_told(told, user)
        new.reply = self.reply if self.reply.encode() in told else ""
        return new

    def check(self, killed):
        """A message that was accepted is there, and whole; nothing else has changed."""
        require(self.reply[:1] in ({"", "2"} if killed else {"2", "4"}), f"LMTP: {self.reply}")
        shown = look(self.bench, self.user)
        texts = [*shown.values()]
        subjects = _subjects(texts)
        before = [f"message {number}" for number in range(1, len(self.before) + 1)]
        number = subjects.count("message 9")
        require(
            subjects == [*before, *["message 9"] * number], f"{self.reply}: there are {subjects}"
        )
        require(number <= 1, f"{self.reply}: the message is there {number} times")
        require(number or not self.reply.startswith("2"), f"{self.reply}: it is not there")
        for text in texts[len(before) :]:
            body = self.added.partition(b"\n\n")[2]
            require(text.partition(b"\n\n")[2].rstrip() == body.rstrip(), "it is not whole")
        require([*shown][: len(before)] == self.ids, f"the unique-ids are {[*shown]}")
        again = self.bench.post(self.user, message(10))
        require(again.startswith("2"), f"the next delivery was told {again}")


class FirstDelivery(Delivery):
    """A message comes by LMTP for a user who has no maildrop."""

    before = ()


class Login(Scenario):
    """A login, for which the users file is read."""

    kinds = ("maildir",)
    is_recorded = False

    @property
    def root(self):
        """The directory of the users file."""
        return self.bench.users.parent

    def prepare(self):
        """Deliver mail, and have the file read again."""
        self.bench.deliver(self.user, MESSAGES[:1])
        text = self.bench.users.read_bytes()
        new = self.bench.users.with_name("new")
        new.touch(0o600)
        new.write_bytes(text)
        new.rename(self.bench.users)

    def act(self):
        """Log in."""
        self.said = converse(self.bench, self.user)
        return self.said.replies.values()

    def check(self, killed):
        """The right password is never called wrong."""
        reply = self.said.replies.get(b"PASS", b"")
        require(killed or reply.startswith((b"+OK", *TEMPORARY)), f"PASS was told {reply!r}")
        require(len(look(self.bench, self.user)) == 1, "mail is gone")


SCENARIOS = {
    "first": Session,
    "second": SecondSession,
    "changed": ChangedSession,
    "delivery": Delivery,
    "first-delivery": FirstDelivery,
    "login": Login,
}
"""All scenarios by name."""


def _subjects(texts):
    return [
        found[1].decode()
        if (found := re.search(rb"(?m)^Subject: (.*)$", each))
        else repr(each[:60])
        for each in texts
    ]
