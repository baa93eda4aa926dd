"""What clients do in a run after they have logged in, and polls.

Each reply is compared with the model.
"""

import random
import re
import time
from collections import Counter

from tests.live.harness import wire_form
from tests.soak.connection import Transcript
from tests.soak.model import Fault
from tests.soak.session import COMMANDS, ERROR, Session

GARBAGE = (
    *(b"", b" ", b"XYZZY", b"RETR", b"RETR x", b"RETR -1", b"LIST 1 2", b"TOP 1", b"DELE  1"),
    *(b"USER ann", b"PASS x", b"STLS", b"AUTH PLAIN", b"\0\xff", b"TOP 1 -1", b"LIST +1"),
)
"""Lines that are no commands after a login."""


class Clients:
    """Actions of clients that are logged in."""

    def _list(self, user, snapshots, *, as_stored):
        """Compare the listings with each snapshot that is permitted, and keep the right one."""
        dialect = self.process.configuration.dialect
        has_uidl = "UIDL" in COMMANDS[dialect]
        user.client.send(b"STAT\r\nLIST\r\n" + b"UIDL\r\n" * has_uidl)
        status, listing = user.client.line(), (user.client.line(), user.client.body())
        fitting = []
        for messages in snapshots:
            session = Session(messages, self.process.configuration)
            if as_stored:
                session.accept(b"UTF8", b"+OK")
            if re.fullmatch(session.permitted(b"STAT")[0][0], status):
                fitting.append(session)
        if not fitting:
            sizes = [[len(wire_form(message.body)) for message in each] for each in snapshots]
            raise Fault(f"STAT is {status!r}, and the maildrop of {user.name} has {sizes} octets")
        user.session = fitting[-1]
        if self._hides:
            user.maildrop.note_shown([entry.message for entry in user.session.entries])
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
            if choose.random() < 0.03:
                word = b"UTF8"
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

    def _read_replies(self, user, lines, *, is_rewritten=False):
        """Read the replies to lines; meanwhile a program may have written the user's file anew."""
        for at, line in enumerate(lines):
            # The replies before one that is cut off may be lost with the connection.
            if is_rewritten and any(map(user.session.is_read_in_pieces, lines[at:])):
                if not self._read_reply_or_end(user, line):
                    self._lose(user, is_killed=False)
                    self._settle(user)
                    return
            else:
                self._read_reply(user, line)
            if user.session.is_over:
                if user.client.rest():
                    raise Fault("the server goes on after too many bad commands")
                self._lose(user, is_killed=False)
                return

    def _read_reply(self, user, line):
        permitted = user.session.permitted(line)
        self._accept(user, line, permitted, *self._receive(user, permitted))

    def _read_reply_or_end(self, user, line):
        """Read a reply that may be cut off; return whether the session goes on."""
        permitted = user.session.permitted(line)
        if user.session.is_read_in_pieces(line):
            permitted = [*permitted, (ERROR, None)]
        status, body = self._receive(user, permitted)
        if not status or (body is not None and not re.search(rb"(?:\A|\n)\.\r\n\Z", body)):
            if user.client.rest():
                raise Fault(f"the server goes on after a part of the reply to {line!r}")
            self.counts["cut off"] += 1
            return False
        self._accept(user, line, permitted, status, body)
        return True

    def _receive(self, user, permitted):
        """Return the status line of a reply, and the octets after it if there are any."""
        status = user.client.line()
        is_long = any(body is not None and re.fullmatch(each, status) for each, body in permitted)
        return status, user.client.body() if is_long else None

    def _accept(self, user, line, permitted, status, body):
        self._compare(permitted, status, body, line)
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
        before = Counter(self._store.rewrites)
        self._disturb(self.users, choose)
        # Of a file that is written anew, the server may not send a large message to its end.
        rewritten = self._store.rewrites - before
        for user, lines in sent:
            self._read_replies(user, lines, is_rewritten=user.name in rewritten)

    def _disturb(self, users, choose):
        """Other programs do something."""
        for user in users:
            for action in choose.sample(["deliver", "flag", "move", "remove", "take"], 2):
                if choose.random() < 0.4:
                    getattr(self, action)(user, random.Random(choose.getrandbits(64)))

    def poll(self, _user, choose):
        """Clients poll the maildrops without a session, each in one packet, many times.

        Every fifth uses TLS, and does not count for the latency.
        """
        users = [user for user in self.users if not user.session and not user.has_apop]
        # So many lines would displace all others.
        unread = Transcript(0)
        dialect = self.process.configuration.dialect
        for user in users:
            if user.may_be_locked:
                self._login(user, choose)
                self._quit(user)
            (shown,) = user.maildrop.shown(hides=self._hides)
            session = Session(shown, self.process.configuration)
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
                tls = choose.random() < 0.2
                start = time.perf_counter()
                client = self._connect(user.name, tls=tls, transcript=unread)
                client.send(octets)
                replies = client.rest().split(b"\r\n", 2)
                if not tls:
                    # A handshake takes longer than all the rest.
                    self.latencies.append(time.perf_counter() - start)
                client.close()
                if not pattern.fullmatch(replies[-1]):
                    raise Fault(f"a poll gets {replies!r} and not {pattern.pattern!r}")
                self.counts["sessions"] += 1

    def _pattern(self, session, line):
        status, body = session.permitted(line)[0]
        return status + rb"\r\n" + re.escape(body or b"")
