"""Front ends of one database, with all that can happen to their statements and to the database.

The stores are the real ones, and so is the database; only the way to it is simulated.  A statement
may be lost before or after it is executed, be executed twice, or late.  Front ends crash, leases
expire, and the database fails over to an older state of itself.  All of this also happens between
two statements of one front end.
"""

import io
from functools import partial

from psycopg import RawCursor
from psycopg.types.numeric import Int8BinaryDumper
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from popserv.core.user_settings import NO_SETTINGS
from popserv.database import DatabaseConfig, DatabaseUnavailable, OutcomeUnknown
from popserv.errors import MaildropBusy, NoSuchMessage, RemovalFailed, TryLater
from popserv.maildrops.sql import statements
from popserv.maildrops.sql.leases import BUSY_PAUSES, GATHERING_TIME
from popserv.maildrops.sql.store import SQLMaildrops
from popserv.testing import read_all
from tests.maildrops.maildir.harness import result

USER = b"ann"

TABLES = {
    "maildrop": "id, name, state, epoch, last, holder, expires",
    "message": (
        "maildrop, position, octets, downgraded, stored, id, delivered, header_ends, flags, form, "
        "digest, uidl, inline"
    ),
    "body": "maildrop, position, body",
}
"""The tables that a failover brings back, in the order in which they can be filled."""

FAULT = 0.15
"""The probability that something happens to a statement, and before it."""


class Violation(AssertionError):
    """A rule was broken."""


class SimulatedDatabase:
    """The way of one front end to the database."""

    def __init__(self, simulation):
        self.config = DatabaseConfig(path="", parameters={})
        self._simulation = simulation

    async def execute(self, statement, parameters=(), *, repeat=True, durable=False):
        """Execute a statement, unless something happens to it."""
        simulation = self._simulation
        simulation.interfere()
        fate = simulation.choose_fate()
        execute = partial(simulation.execute, statement, parameters)
        if fate == "twice" and repeat:
            execute()
        elif fate == "unavailable":
            raise DatabaseUnavailable
        elif fate == "lost before":
            raise OutcomeUnknown
        elif fate == "late":
            simulation.late.append(execute)
            raise OutcomeUnknown
        rows = execute()
        if fate == "lost after":
            raise OutcomeUnknown
        return rows

    async def close(self):
        """Close nothing."""


class FrontEnd:
    """A store, and the sessions in it."""

    def __init__(self, simulation):
        self.clock = Clock()
        self.store = SQLMaildrops(SimulatedDatabase(simulation), reactor=self.clock)
        self.sessions = []


class Simulation:
    """Some front ends, and what is known of what they should show.

    :param connection: a connection to the database, which is empty, in autocommit mode.
    :param random: decides everything.
    """

    def __init__(self, connection, random, front_ends=3):
        connection.adapters.register_dumper(int, Int8BinaryDumper)
        connection.prepare_threshold = 1
        self.random = random
        self.late = []
        self.counts = {}
        self._cursor = RawCursor(connection)
        self._is_calm = False
        self._depth = 0
        self._delivered = 0
        self._bodies = {}
        # The tokens of the sessions that had the maildrop, in their order.
        self._holders = []
        # Front ends, the number of states before, and the outcomes.
        self._logins = []
        # What the maildrop has had, in order: ids and octets.
        self._states = [()]
        self._saved = None
        self._front_ends = [FrontEnd(self) for _ in range(front_ends)]
        self._save()

    def run(self, steps):
        """Do so many things, and check what is left."""
        for _ in range(steps):
            self.step()
        self.finish()

    def step(self):
        """Do one thing."""
        actions = (
            *(self._deliver,) * 4,
            *(self._log_in,) * 6,
            *(self._read,) * 3,
            *(self._quit,) * 5,
            *(self._disconnect,) * 2,
            *(self._renew,) * 2,
            *(self._release,) * 3,
            *(self._expire,) * 2,
            *(self._execute_late,) * 3,
            *(self._save,) * 2,
            self._fail_over,
            self._crash,
        )
        self.random.choice(actions)()
        self._end_logins()

    def interfere(self):
        """Let something happen between two statements, perhaps."""
        if self._depth == 0 and not self._is_calm and self.random.random() < FAULT:
            self._depth += 1
            try:
                self.step()
            finally:
                self._depth -= 1

    def choose_fate(self):
        """Return what happens to a statement."""
        if self._is_calm or self.random.random() >= FAULT:
            return "executed"
        return self.random.choice(("twice", "unavailable", "lost before", "lost after", "late"))

    def execute(self, statement, parameters=()):
        """Execute a statement in the database, and check what it has changed."""
        before = self._states[-1]
        rows = self._query(statement, parameters)
        after = tuple(self._query("SELECT id, octets FROM message ORDER BY position"))
        if after != before:
            self._states.append(after)
        is_login = statement in (statements.TAKE_LEASE, statements.CREATE_WITH_LEASE)
        if is_login and rows and parameters[1] not in self._holders[-1:]:
            self._holders.append(parameters[1])
        if statement == statements.DELIVER:
            self._bodies[parameters[2].hex.encode()] = parameters[1]
            gone = before != after[: len(before)] or len(after) > len(before) + 1
        elif self._is_removal(statement):
            gone = set(before) - set(after)
            if gone and self._holders[-1] != parameters[1]:
                raise Violation("removed by one who is not the holder")
            gone = not {id_ for id_, _ in gone} <= set(parameters[3]) or set(after) - set(before)
        else:
            gone = after != before
        if gone:
            raise Violation(f"{before} has become {after} by {statement}")
        return rows

    def finish(self):
        """Check that everything is right when nothing happens any more."""
        self._is_calm = True
        while self.late:
            self._execute_late()
        self._expire()
        self._front_ends = [FrontEnd(self)]
        self._log_in()
        [front_end] = self._front_ends
        [mailbox] = front_end.sessions
        for message in mailbox.messages:
            if result(read_all(result(mailbox.open(message)))) != self._bodies[message.uid]:
                raise Violation("a message has the octets of another")
        result(mailbox.release())
        result(front_end.store.stop())
        [(bodies,)] = self._query("SELECT count(*) FROM body")
        if bodies != len(mailbox.messages):
            raise Violation(f"{bodies} bodies of {len(mailbox.messages)} messages")

    @staticmethod
    def _is_removal(statement):
        return "DELETE FROM message" in statement

    def _query(self, statement, parameters=()):
        cursor = self._cursor.execute(statement, parameters, binary=True)
        return cursor.fetchall() if cursor.description else []

    def _count(self, event):
        self.counts[event] = self.counts.get(event, 0) + 1

    def _session(self):
        """Return a front end and one of its sessions, or None."""
        all_sessions = [
            (front_end, mailbox) for front_end in self._front_ends for mailbox in front_end.sessions
        ]
        return self.random.choice(all_sessions) if all_sessions else None

    def _deliver(self):
        self._delivered += 1
        body = b"%d\n" % self._delivered * self.random.randint(1, 3)
        store = self.random.choice(self._front_ends).store
        first = len(self._states) - 1
        try:
            uid = result(store.deliver_new(USER, NO_SETTINGS, io.BytesIO(body)))
        except TryLater:
            self._count("not delivered")
        else:
            self._count("delivered")
            if not any(uid in _unique_ids(state) for state in self._states[first:]):
                raise Violation("a message was acknowledged, and is not there")

    def _log_in(self):
        """Log in; in the pause before another attempt anything may happen."""
        front_end = self.random.choice(self._front_ends)
        first = len(self._states) - 1
        login = Deferred.fromCoroutine(front_end.store.open_maildrop(USER))
        login.addBoth(lambda outcome: self._logins.append((front_end, first, outcome)))
        for pause in BUSY_PAUSES:
            if login.called:
                break
            self._count("paused")
            self.interfere()
            others = [each for each in self._front_ends if each is not front_end]
            for each in (*others, front_end):
                each.clock.advance(pause)
        self._end_logins()

    def _end_logins(self):
        """Check the logins that have ended; one may wait for a statement that is under way."""
        while self._logins:
            self._end_login(*self._logins.pop())

    def _end_login(self, front_end, first, outcome):
        if not isinstance(outcome, Failure):
            self._count("login")
            shown = [*zip(outcome.messages.uids, outcome.messages.octets, strict=True)]
            possible = [
                [(id_.hex.encode(), octets) for id_, octets in state]
                for state in self._states[first:]
            ]
            if shown not in possible:
                raise Violation(f"shows {shown}, and there was {possible}")
            front_end.sessions.append(outcome)
        elif outcome.check(MaildropBusy):
            self._count("in use")
        else:
            outcome.trap(TryLater)
            self._count("login failed")

    def _read(self):
        found = self._session()
        if found is None or not found[1].messages:
            return
        mailbox = found[1]
        message = self.random.choice(mailbox.messages)
        try:
            body = result(read_all(result(mailbox.open(message))))
        except (NoSuchMessage, TryLater):
            return
        self._count("read")
        if body != self._bodies[message.uid]:
            raise Violation("a message has the octets of another")

    def _quit(self):
        found = self._session()
        if found is None:
            return
        front_end, mailbox = found
        front_end.sessions.remove(mailbox)
        first = len(self._states) - 1
        marked = [each for each in mailbox.messages if self.random.random() < 0.5]
        try:
            result(mailbox.remove(marked))
        except RemovalFailed:
            self._count("removal failed")
        else:
            self._count("removed")
            removed = {message.uid for message in marked}
            if not any(removed.isdisjoint(_unique_ids(state)) for state in self._states[first:]):
                raise Violation("a removal was acknowledged, and the messages are there")
        result(mailbox.release())

    def _disconnect(self):
        found = self._session()
        if found is not None:
            front_end, mailbox = found
            front_end.sessions.remove(mailbox)
            result(mailbox.release())

    def _release(self):
        self.random.choice(self._front_ends).clock.advance(GATHERING_TIME)

    def _renew(self):
        self.random.choice(self._front_ends).clock.advance(10)

    def _expire(self):
        self._query("UPDATE maildrop SET expires = now() - interval '1 second'")

    def _execute_late(self):
        if self.late:
            self.late.pop(self.random.randrange(len(self.late)))()
            self._count("executed late")

    def _save(self):
        """Save the state that a standby has."""
        rows = {
            table: self._query(f"SELECT {columns} FROM {table}")
            for table, columns in TABLES.items()
        }
        self._saved = rows, list(self._holders)

    def _fail_over(self):
        """Go back to that state."""
        rows, holders = self._saved
        self._query("DELETE FROM body")
        self._query("DELETE FROM message")
        self._query("DELETE FROM maildrop")
        for table, columns in TABLES.items():
            places = ", ".join(f"${at}" for at in range(1, columns.count(",") + 2))
            for row in rows[table]:
                self._query(f"INSERT INTO {table} ({columns}) VALUES ({places})", row)
        self._holders = list(holders)
        after = tuple(self._query("SELECT id, octets FROM message ORDER BY position"))
        if after != self._states[-1]:
            self._states.append(after)
        self._count("failed over")

    def _crash(self):
        at = self.random.randrange(len(self._front_ends))
        self._front_ends[at] = FrontEnd(self)


def _unique_ids(state):
    """Return the unique-ids of the messages of a maildrop."""
    return {id_.hex.encode() for id_, _ in state}
