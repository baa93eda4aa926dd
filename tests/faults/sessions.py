"""Sessions, deliveries and logins, and what must be true afterwards."""

from copy import copy

from tests.faults.base import TEMPORARY, Scenario, converse, look, require, subjects, unique_ids
from tests.faults.bench import LISTED, MESSAGES, VALIDITY, message
from tests.live.harness import until


class Session(Scenario):
    """A first session of a user, which retrieves three messages and removes one."""

    benches = ("maildir", "mbox", "mh", "trash", "keep", "dovecot")
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
            # Messages that can get no unique-id are not shown before they can.
            least = LISTED if self.bench.is_listed and self.lasts else len(self.expected)
            require(least <= len(ids) <= len(self.expected), f"UIDL told {ids}")
            require(self.ids in (None, ids), f"UIDL told {ids} and not {self.ids}")
            self.ids = ids
        # What cannot be undone, because the fault lasts, is there as after the end of the server.
        interrupted = killed or self.lasts
        if interrupted:
            self.bench.store.repair(self.user, self.bodies, self.damaged)
        shown = look(self.bench, self.user)
        texts = [*shown.values()]
        require(
            self._sorted(texts, interrupted)
            in [self._sorted(each, interrupted) for each in self._outcomes()],
            f"there are {subjects(texts)}; {said.replies}",
        )
        if self.ids:
            before = dict(zip(self.ids, self.expected, strict=False))
            fixed = {*before.values()} - self._unlisted(before)
            kept = {(each, text) for each, text in shown.items() if each in before or text in fixed}
            require(kept <= {*before.items()}, f"unique-ids are {[*shown]}, not {self.ids}")
        self.check_stored(texts)

    def _unlisted(self, before):
        """Return the messages that may get other unique-ids.

        Where nothing can be written, those that are in no list are shown without a pin.
        """
        is_read_only = self.fault is not None and self.fault.error == "EROFS"
        if not (self.bench.is_listed and is_read_only):
            return set()
        return {text for each, text in before.items() if not each.startswith(VALIDITY)}

    def check_stored(self, texts):
        """Another program sees the same messages, and those that were removed if they are kept."""
        stored = [each.rstrip(b"\r\n") for each in self.bench.read(self.user)]
        if self.bench.is_kept:
            texts = map(self.bench.store.normalize, self.bodies.values())
        shown = [each.rstrip(b"\r\n") for each in texts]
        require(
            self._sorted(stored, False) == self._sorted(shown, False),
            f"another program sees {subjects(stored)}",
        )

    def _outcomes(self):
        """Return what may be there: each is a list of texts."""
        if not self.said.ok(b"DELE 2"):
            return [self.expected]
        positions = range(len(self.expected)) if self.may_miss else [self.removed]
        removed = [self.expected[:at] + self.expected[at + 1 :] for at in positions]
        is_certain = self.said.ok(b"QUIT") and not self.may_miss
        return removed if is_certain else [self.expected, *removed]

    def _sorted(self, texts, interrupted):
        """Return messages for a comparison, in any order if theirs may be another one.

        Copies of those in an mbox file are at its end.  A message that could not be read is added
        to Dovecot's list after the others.
        """
        is_late = self.bench.is_listed and self.may_miss
        has_copies = interrupted and self.bench.kind == "mbox"
        return sorted(texts) if is_late or has_copies else texts


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


class AnotherRemoval(SecondSession):
    """A session after another one, which has removed a message."""

    benches = ("keep",)

    def prepare(self):
        """Remove the last message after a session."""
        super().prepare()
        removal = converse(self.bench, self.user, b"DELE %d" % len(self.expected))
        require(removal.ok(b"QUIT"), f"the first session was told {removal.replies}")
        del self.expected[-1], self.ids[-1]


class Logging(SecondSession):
    """A session whose lines cannot be written to the log."""

    benches = ("maildir",)
    is_recorded = False

    @property
    def root(self):
        """The file to which the server logs."""
        return self.bench.log_file

    def prepare(self):
        """Run the sessions of :func:`look`, until their last lines are in the log."""
        start, line = self.bench.logged(), f'session of "{self.user}" ended'
        super().prepare()
        until(lambda: self.bench.log(start).count(line) == 2, line)

    def check(self, killed):
        """The session does not notice it."""
        refused = [each for each in self.said.replies.values() if not each.startswith(b"+OK")]
        require(killed or not refused, f"a client was told {refused}")
        super().check(killed)

    def check_told(self, replies, log):
        """Clients are not told; the log cannot tell it."""
        for reply in replies:
            self.check_discreet(reply)


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
        self.check_shown()
        again = self.bench.post(self.user, message(10))
        require(again.startswith("2"), f"the next delivery was told {again}")

    def check_shown(self):
        """A session is shown the messages, and what was accepted."""
        shown = look(self.bench, self.user)
        texts = [*shown.values()]
        found = subjects(texts)
        before = [f"message {number}" for number in range(1, len(self.before) + 1)]
        number = found.count("message 9")
        require(found == [*before, *["message 9"] * number], f"{self.reply}: there are {found}")
        require(number <= 1, f"{self.reply}: the message is there {number} times")
        require(number or not self.reply.startswith("2"), f"{self.reply}: it is not there")
        for text in texts[len(before) :]:
            body = self.added.partition(b"\n\n")[2]
            require(text.partition(b"\n\n")[2].rstrip() == body.rstrip(), "it is not whole")
        require([*shown][: len(before)] == self.ids, f"the unique-ids are {[*shown]}")


class FirstDelivery(Delivery):
    """A message comes by LMTP for a user who has no maildrop."""

    before = ()


class LargeDelivery(Delivery):
    """A message comes that the server has in a temporary file, of which a system call fails."""

    benches = ("maildir",)
    is_recorded = False
    added = message(9, 2_500_000)

    @property
    def root(self):
        """The directory for temporary files."""
        return self.bench.temporary


class Login(Scenario):
    """A login, for which the users file is read."""

    benches = ("maildir",)
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
