"""What clients do in a run; each reply is compared with the model."""

import base64
import hashlib
import random
import re
import time

from tests.live.harness import wire_form
from tests.soak.connection import Client, Transcript
from tests.soak.model import COMMANDS, GONE, HERE, MAYBE, Fault, Session

GARBAGE = (
    *(b"", b" ", b"XYZZY", b"RETR", b"RETR x", b"RETR -1", b"LIST 1 2", b"TOP 1", b"DELE  1"),
    *(b"USER ann", b"PASS x", b"STLS", b"AUTH PLAIN", b"\0\xff", b"TOP 1 -1", b"LIST +1"),
)
"""Lines that are no commands after a login."""


class Clients:
    """Actions of clients."""

    def login(self, user, choose):
        """Log in, and list everything."""
        if not user.session:
            self._login(user, choose)

    def _connect(self, name, *, tls=False, transcript=None):
        port = self.process.tls_port if tls else self.process.port
        wrap = self.process.wrap if tls else None
        client = Client(port, transcript or self.transcript, name, wrap)
        if not client.greeting.startswith(b"+OK"):
            raise Fault(f"the greeting is {client.greeting!r}")
        return client

    def _login(self, user, choose):
        """Log in by some method, and return whether the dialect permits it."""
        dialect = self.process.configuration.dialect
        if user.has_apop and dialect in ("pop-revised", "rfc1225"):
            return False
        tls = choose.random() < 0.3
        starts_tls = choose.random() < 0.3 and dialect == "modern" and not tls
        uses_sasl = choose.random() < 0.3 and dialect == "modern" and not user.has_apop
        delivers = choose.random() < 0.15 and hasattr(self._store, "deliver")
        number = choose.getrandbits(64)
        self._settle(user)
        deadline = time.monotonic() + self.LOCK_SECONDS
        while True:
            client = self._connect(user.name, tls=tls)
            if starts_tls:
                if not client.ask(b"STLS").startswith(b"+OK"):
                    raise Fault("STLS was refused")
                client.start_tls(self.process.wrap)
            client.send(self._credentials(user, client, uses_sasl))
            snapshots = [user.maildrop.here()]
            if delivers:
                self.deliver(user, random.Random(number))
                delivers = False
                snapshots.append(user.maildrop.here())
            reply = client.line()
            if reply.startswith(b"+OK"):
                break
            client.close()
            if not (user.may_be_locked and reply.startswith(b"-ERR [IN-USE]")):
                raise Fault(f"{user.name} cannot log in: {reply!r}")
            if time.monotonic() > deadline:
                raise Fault(f"the maildrop of {user.name} stays locked")
            self.counts["waits"] += 1
            time.sleep(0.1)
        user.may_be_locked = False
        user.client = client
        self.counts["sessions"] += 1
        self._list(user, snapshots)
        return True

    def _credentials(self, user, client, uses_sasl):
        """Return the lines that log in, but for the last reply nothing remains to be read."""
        name, password = user.name.encode(), user.password.encode()
        if user.has_apop:
            timestamp = re.search(rb"<.*>", client.greeting)
            if timestamp is None:
                raise Fault("the greeting has no timestamp")
            digest = hashlib.md5(timestamp[0] + password).hexdigest().encode()
            return b"APOP %b %b\r\n" % (name, digest)
        if uses_sasl:
            return b"AUTH PLAIN " + base64.b64encode(b"\0%b\0%b" % (name, password)) + b"\r\n"
        if not client.ask(b"USER " + name).startswith(b"+OK"):
            raise Fault("USER was refused")
        return b"PASS " + password + b"\r\n"

    def _list(self, user, snapshots):
        """Compare the listings with each snapshot that is permitted, and keep the right one."""
        dialect = self.process.configuration.dialect
        has_uidl = "UIDL" in COMMANDS[dialect]
        user.client.send(b"STAT\r\nLIST\r\n" + b"UIDL\r\n" * has_uidl)
        status, listing = user.client.line(), (user.client.line(), user.client.body())
        fitting = []
        for messages in snapshots:
            session = Session(messages, dialect, self.process.configuration.records)
            if re.fullmatch(session.permitted(b"STAT")[0][0], status):
                fitting.append(session)
        if not fitting:
            sizes = [[len(wire_form(message.body)) for message in each] for each in snapshots]
            raise Fault(f"STAT is {status!r}, and the maildrop of {user.name} has {sizes} octets")
        user.session = fitting[-1]
        self._compare(user.session.permitted(b"LIST"), *listing, b"LIST")
        if has_uidl:
            reply, listed = user.client.line(), user.client.body()
            uids = re.findall(rb"(?m)^([0-9]+) (.+)\r\n", listed)
            if len(uids) != len(user.session.entries):
                raise Fault(f"UIDL has {len(uids)} lines for {len(user.session.entries)} messages")
            for entry, (_, uid) in zip(user.session.entries, uids, strict=True):
                user.maildrop.name(entry.message, uid)
            self._compare(user.session.permitted(b"UIDL"), reply, listed, b"UIDL")

    def _compare(self, permitted, status, body, line):
        """Check that a reply, and the octets after it, are permitted."""
        for pattern, expected in permitted:
            if not re.fullmatch(pattern, status):
                continue
            if expected is None or body == expected:
                return
            if isinstance(expected, re.Pattern) and expected.fullmatch(body):
                return
        shown = body and body[:2000]
        allowed = str(permitted)[:4000]
        raise Fault(f"the reply to {line!r} is {status!r}, {shown!r}; permitted is {allowed}")

    def _lines(self, user, choose):
        """Return some lines that a client may send."""
        words = [word.encode() for word in COMMANDS[user.session.dialect].split()]
        count = len(user.session.entries)
        lines = []
        for _ in range(choose.randrange(1, 7)):
            word = choose.choice([*words, b"RETR", b"DELE", b"DELE"])
            number = b"%d" % choose.randrange(0, count + 2)
            if choose.random() < 0.1:
                lines.append(choose.choice(GARBAGE))
                continue
            if word == b"TOP":
                number += b" %d" % choose.choice([0, 1, 5, 1000])
            elif word in (b"LIST", b"UIDL"):
                number = choose.choice([b"", number])
            elif word not in (b"RETR", b"DELE"):
                number = b""
            if word in (b"RSET", b"NOOP") and choose.random() < 0.7:
                word, number = b"RETR", b"%d" % choose.randrange(1, count + 2)
            line = word + b" " * bool(number) + number
            lines.append(line.lower() if choose.random() < 0.2 else line)
        return lines

    def commands(self, user, choose):
        """Send commands, together or one by one, in some packets."""
        if not user.session:
            return
        lines = self._lines(user, choose)
        if choose.random() < 0.5:
            self._talk(user, lines, choose.choice([1, 1, 2, 7]))
        else:
            for line in lines:
                if user.session:
                    self._talk(user, [line])

    def _talk(self, user, lines, pieces=1):
        user.client.send(b"".join(line + b"\r\n" for line in lines), pieces)
        self._read_replies(user, lines)

    def _read_replies(self, user, lines):
        for line in lines:
            self._read_reply(user, line)
            if user.session.is_over:
                if user.client.rest():
                    raise Fault("the server goes on after too many bad commands")
                self._lose(user, is_killed=False)
                return

    def _read_reply(self, user, line):
        permitted = user.session.permitted(line)
        status = user.client.line()
        is_long = any(body is not None and re.fullmatch(each, status) for each, body in permitted)
        self._compare(permitted, status, user.client.body() if is_long else None, line)
        user.session.accept(line, status)
        self.counts["commands"] += 1

    def all_at_once(self, _user, choose):
        """All clients send commands, and other programs do something, before a reply is read."""
        sent = []
        for user in self.users:
            if user.session and not user.session.is_over:
                lines = self._lines(user, choose)
                user.client.send(b"".join(line + b"\r\n" for line in lines))
                sent.append((user, lines))
        self._disturb(self.users, choose)
        for user, lines in sent:
            self._read_replies(user, lines)

    def _disturb(self, users, choose):
        """Other programs do something."""
        for user in users:
            for action in choose.sample(["deliver", "flag", "move", "remove", "take"], 2):
                if choose.random() < 0.4:
                    getattr(self, action)(user, random.Random(choose.getrandbits(64)))

    def second_login(self, user, choose):
        """A second login while a session is open is refused, and does not end the session."""
        if not (user.session and user.session.entries):
            # Where there is no Maildir, nothing is locked.
            return
        client = self._connect(user.name, tls=choose.random() < 0.3)
        client.send(self._credentials(user, client, uses_sasl=False))
        reply = client.line()
        client.close()
        if not reply.startswith(b"-ERR [IN-USE]"):
            raise Fault(f"the reply to a second login is {reply!r}")
        self._talk(user, [b"STAT"])

    def quit(self, user, _choose):
        """End the session by QUIT."""
        if user.session:
            self._quit(user)

    def quit_meanwhile(self, user, choose):
        """QUIT, while other programs do something in the same maildrop."""
        if user.session:
            self._quit(user, lambda: self._disturb([user], choose))

    def kill_at_quit(self, user, choose):
        """A worker is killed during QUIT: each message may be removed or not, and no other one."""
        if not user.session:
            return
        delay = choose.choice([0, 0, 0.0005, 0.001, 0.003])
        self._begin_quit(user)
        time.sleep(delay)
        self.process.kill_worker()
        self._store.settle()
        if not self._end_quit(user):
            if self._store.is_kept:
                self._check_all_or_none(user)
            self._lose(user, is_killed=True)
        self._after_kill()

    def _check_all_or_none(self, user):
        marked = user.session.marked_messages()
        if self._store.removes_at_once and marked:
            found = {key for key, *_ in self._store.read(user.name)}
            if len({message.key in found for message in marked}) > 1:
                raise Fault("a removal was carried out in part")

    def _begin_quit(self, user):
        """Send QUIT; from now on each marked message may be removed."""
        user.client.send(b"QUIT\r\n")
        user.is_quitting = True
        for message in user.session.marked_messages():
            if message.state == HERE:
                message.state = MAYBE
        if user.session.records:
            for message in user.session.retrieved_messages():
                message.seen = message.seen | {True}

    def _end_quit(self, user, meanwhile=False):
        """Read the reply to QUIT, and compare the store with it; return whether there was one."""
        session = user.session
        reply = user.client.line()
        user.is_quitting = False
        if not reply:
            return False
        if user.client.rest():
            raise Fault("the server sends something after its reply to QUIT")
        user.client.close()
        user.client = user.session = None
        user.may_be_locked = False
        failed = re.fullmatch(rb"-ERR \[SYS/TEMP\] (\d+) deleted messages? not removed", reply)
        marked = session.marked_messages()
        if reply.startswith(b"+OK"):
            for message in marked:
                if message.state == MAYBE:
                    message.state = GONE
            if session.records and not meanwhile:
                for message in session.retrieved_messages():
                    if not session.entry(message).is_disturbed:
                        message.seen = {True}
        elif not (failed and meanwhile and marked):
            raise Fault(f"the reply to QUIT is {reply!r}, with {len(marked)} messages marked")
        self._settle(user)
        if failed:
            left = sum(message.state == HERE for message in marked)
            if int(failed[1]) > left:
                raise Fault(f"{reply!r}, but of the marked messages {left} are left")
            self.counts["refused"] += 1
        return True

    def _quit(self, user, meanwhile=None):
        self._begin_quit(user)
        if meanwhile:
            meanwhile()
        if not self._end_quit(user, meanwhile is not None):
            raise Fault("there is no reply to QUIT")

    def _end(self, user):
        if user.session:
            self._quit(user)

    def half_close(self, user, choose):
        """Send commands, and QUIT or not, and close the sending half; each gets its reply."""
        if not user.session or user.client.is_private:
            return
        lines = self._lines(user, choose)
        user.client.send(b"".join(line + b"\r\n" for line in lines))
        if choose.random() < 0.5:
            self._read_replies(user, lines)
            if user.session:
                self._begin_quit(user)
                user.client.half_close()
                if not self._end_quit(user):
                    raise Fault("there is no reply to QUIT after a half-close")
            return
        if choose.random() < 0.5:
            user.client.send(b"QUIT")  # and no line end
        user.client.half_close()
        self._read_replies(user, lines)
        if user.session:
            if rest := user.client.rest():
                raise Fault(f"after a half-close the server sends {rest!r}")
            self._lose(user, is_killed=False)

    def disconnect(self, user, choose):
        """End the connection without QUIT: nothing is removed, and the lock is released."""
        if user.session:
            (user.client.reset if choose.random() < 0.5 else user.client.close)()
            self._lose(user, is_killed=False)
            self._settle(user)

    def break_off(self, user, choose):
        """End the connection in the middle of a message."""
        if user.session and user.session.entries:
            number = choose.randrange(len(user.session.entries)) + 1
            user.client.send(b"RETR %d\r\n" % number * 3 + b"DELE %d\r\n" % number)
            user.client.some(choose.randrange(100))
            self.disconnect(user, choose)

    def poll(self, _user, choose):
        """Clients poll the maildrops without a session, each in one packet, many times."""
        users = [user for user in self.users if not user.session and not user.has_apop]
        # So many lines would displace all others.
        unread = Transcript(0)
        dialect = self.process.configuration.dialect
        for user in users:
            if user.may_be_locked:
                self._login(user, choose)
                self._quit(user)
            session = Session(user.maildrop.here(), dialect, records=False)
            has_uidl = "UIDL" in COMMANDS[dialect]
            has_uidl = has_uidl and all(each.message.uid for each in session.entries)
            lines = [b"STAT", b"LIST"] + [b"UIDL"] * has_uidl
            octets = b"".join(
                line + b"\r\n"
                for line in (
                    *(b"USER " + user.name.encode(), b"PASS " + user.password.encode()),
                    *(*lines, b"QUIT"),
                )
            )
            pattern = b"".join(self._pattern(session, line) for line in lines)
            pattern = re.compile(pattern + rb"\+OK.*\r\n")
            for _ in range(self._polls):
                start = time.perf_counter()
                client = self._connect(user.name, transcript=unread)
                client.send(octets)
                replies = client.rest().split(b"\r\n", 2)
                self.latencies.append(time.perf_counter() - start)
                client.close()
                if not pattern.fullmatch(replies[-1]):
                    raise Fault(f"a poll gets {replies!r} and not {pattern.pattern!r}")
                self.counts["sessions"] += 1

    def _pattern(self, session, line):
        status, body = session.permitted(line)[0]
        return status + rb"\r\n" + re.escape(body or b"")
