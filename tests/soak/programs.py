"""What other programs do with the mail in a run."""

import re
import time

from tests.live.harness import run, wire_form
from tests.live.test_lmtp import LMTP
from tests.soak.model import AWAY, GONE, HERE, MAYBE, Fault
from tests.soak.stores import Vanished

PARTS = (
    *(b".", b"..", b"", b"text", b"From here\n", b"\n.\n", b"\r", b"\r\n", b"\xff", b"\0"),
    *(b"e" * 998, b".\r\n", b"\n\nFrom nobody", b"a\rb", b"+OK", b"\n-ERR"),
)
"""What messages consist of: all that a server could take for something else."""


class Programs:
    """Actions of other programs."""

    def _body(self, choose):
        """Return a message such as there are: most are small, some equal, some hostile."""
        self._bodies += 1
        subject = b"Subject: %d\n" % (0 if choose.random() < 0.2 else self._bodies)
        kind = choose.randrange(15)
        if kind == 0:
            return subject
        if kind == 14:
            subject = f"Subject: grün\nFrom: Jörg <j\xf6rg{self._bodies}@example.org>\n".encode()
        if kind == 1:
            return subject + b"\n" + b"x" * choose.randrange(200_000) + b"\nend"
        if kind == 2:
            return subject + b"\n" + b"0123456789.\n" * choose.randrange(20_000)
        text = b"\n".join(choose.choices(PARTS, k=choose.randrange(12)))
        return subject + (b"" if kind == 3 else b"To: a\n") + b"\n" + text

    def deliver(self, user, choose):
        """Another program delivers a message."""
        body = self._store.prepare(self._body(choose))
        if self._store.has_command and choose.random() < 0.1:
            self._run_command(user, body)
            return
        if not hasattr(self._store, "deliver"):
            self._send(user, body)
            return
        key = self._store.deliver(user.name, body, choose)
        self._log_program(f"delivers {key!r} to {user.name}")
        user.maildrop.add(body, key)
        self._settle(user, are_marks_changed=True)

    def lmtp(self, user, choose):
        """A mail transfer agent delivers a message by LMTP."""
        self._send(user, self._store.prepare(self._body(choose)))

    def _run_command(self, user, body):
        """``popserv deliver`` delivers a message, with the line ends of a pipe."""
        body = re.sub(rb"\r*\n", b"\n", body.rstrip(b"\r\n") + b"\n")
        self._log_program(f"delivers to {user.name} by popserv deliver: {body[:200]!r}")
        done = run(
            *("popserv", "deliver", "--store", self._store.name, "--create", user.name), input=body
        )
        if done.returncode:
            raise Fault(f"popserv deliver: {done.returncode}, {done.stderr!r}")
        user.maildrop.expected.append(wire_form(body))
        self._settle(user, are_marks_changed=True)

    def kill_at_delivery(self, user, choose):
        """A worker is killed during a delivery, and the agent delivers another message.

        The first one is stored in whole or not at all, and surely if it was accepted.
        """
        if not self._store.is_kept:
            return
        begun = self._begin_delivery(user, self._store.prepare(self._body(choose)))
        time.sleep(choose.choice([0, 0, 0.001, 0.003, 0.01]))
        self.process.kill_worker()
        self._store.settle()
        if not self._end_delivery(user, *begun):
            user.maildrop.possible.append(begun[1])
        # This also removes what the server has left of the first message.
        self._send(user, self._store.prepare(self._body(choose)))
        self._after_kill()

    def _send(self, user, body):
        if not self._end_delivery(user, *self._begin_delivery(user, body)):
            raise Fault("a delivery has no reply")
        self._settle(user, are_marks_changed=True)

    def _begin_delivery(self, user, body):
        """Send a message; return the connection, and the form in which it must be stored."""
        # In an mbox file, From_ lines are changed.
        lines = [line for line in body.split(b"\n") if not line.startswith((b"From ", b">From "))]
        form = b"".join(line + b"\r\n" for line in lines)
        client = LMTP(self.process.lmtp)
        # A sender of its own, so that no other message has its From_ line.
        sender = b"lmtp%d@example.org" % self.counts["deliveries"]
        self.counts["deliveries"] += 1
        client.ask(b"LHLO x", b"MAIL FROM:<%b>" % sender)
        client.ask(b"RCPT TO:<%b@example.org>" % user.name.encode(), b"DATA")
        stuffed = re.sub(rb"(?m)^\.", b"..", form)
        self._log_program(f"sends a message to {user.name}: {stuffed[:200]!r}")
        client.socket.sendall(stuffed + b".\r\n")
        return client, b"Return-Path: <%b>\r\n" % sender + form

    def _end_delivery(self, user, client, form):
        """Read the reply to a message; return whether there is one."""
        try:
            reply = client.reply()
        except ConnectionError:
            reply = ""
        client.close()
        if reply and not reply.startswith("250"):
            raise Fault(f"a delivery was refused: {reply}")
        if reply:
            user.maildrop.expected.append(form)
        return bool(reply)

    def flag(self, user, choose):
        """Another program sets the flags of a message."""
        message = self._pick(user, choose) if self._store.can_flag else None
        if message:
            try:
                self._store.flag(user.name, message.key, choose)
            except Vanished:
                self._check_vanished(user, message)
                return
            before = message.body
            self._settle(user, are_marks_changed=True)
            self._log_program(f"flags {message}: {message.seen}")
            entry = user.session and user.session.entry(message)
            if entry and before != message.body:
                entry.versions.append(message.body)
                entry.is_disturbed = True

    def move(self, user, choose):
        """Another program renames or renumbers messages."""
        if self._store.can_change:
            self._log_program(f"moves the messages of {user.name}")
            self._store.move(user.name, choose)
            self._settle(user, are_marks_changed=True)

    def remove(self, user, choose):
        """Another program removes a message."""
        self._take_away(user, choose, "remove", GONE)

    def take(self, user, choose):
        """Another program moves a message to another folder."""
        self._take_away(user, choose, "take", AWAY)

    def _take_away(self, user, choose, method, state):
        message = self._pick(user, choose) if self._store.can_change else None
        # Whether one that comes back is hidden again is not determined.
        is_hidden = message and (message.is_hidden or message in user.maildrop.maybe_hidden)
        if message and not (state == AWAY and is_hidden):
            entry = user.session and user.session.entry(message)
            if entry:
                entry.is_disturbed = True
                entry.seen.add(False)
            try:
                getattr(self._store, method)(user.name, message.key)
            except Vanished:
                self._check_vanished(user, message)
                return
            self._log_program(f"{method}s {message} of {user.name}")
            message.state = state
            self._settle(user, are_marks_changed=True)

    def put_back(self, user, choose):
        """Another program moves a message back from the other folder."""
        away = [message for message in user.maildrop.messages if message.state == AWAY]
        if away:
            message = choose.choice(away)
            message.key = self._store.put_back(user.name, message)
            self._log_program(f"puts back {message} of {user.name}")
            message.state = HERE
            self._settle(user, are_marks_changed=True)

    def _pick(self, user, choose):
        messages = [each for each in user.maildrop.messages if each.state in (HERE, MAYBE)]
        return choose.choice(messages) if messages else None

    def _check_vanished(self, user, message):
        if not user.is_quitting:
            raise Fault(f"{message} was lost")

    def _log_program(self, what):
        self.transcript.add("other program", what)

    def _settle(self, user, *, are_marks_changed=False):
        """Compare the model with what is on disk."""
        if user.is_quitting:
            # While the server renames files, a directory cannot be read reliably.
            if are_marks_changed:
                for message in user.maildrop.messages:
                    message.seen = {True, False}
            return
        if not self._store.is_readable:
            user.maildrop.settle_unread()
            return
        user.maildrop.settle(self._store.read(user.name), are_marks_changed=are_marks_changed)
        if user.maildrop.expected:
            raise Fault(f"a message was accepted, and is not stored: {user.maildrop.expected}")
        if are_marks_changed and user.session:
            for entry in user.session.entries:
                entry.seen |= entry.message.seen
