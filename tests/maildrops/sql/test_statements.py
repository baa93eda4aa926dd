"""popserv.maildrops.sql.statements: each condition, in a transaction in which no time passes."""

import math
from itertools import product
from uuid import UUID, uuid4

import psycopg
from psycopg import RawCursor
from twisted.internet.threads import deferToThread

from popserv.maildrops.sql import statements
from popserv.maildrops.sql.snapshots import Columns, numbers_of
from tests.maildrops.sql.harness import SQLCase, wait_for
from tests.maildrops.sql.test_snapshots import columns_of

MINE, OTHERS = UUID(int=1), UUID(int=2)
"""Tokens of sessions."""

SECONDS = 25
"""For how long a lease is taken."""


class StatementCase(SQLCase):
    """Tests of statements, with the maildrops of Ann and Bob."""

    async def setUp(self):
        """Create the maildrops."""
        await super().setUp()
        self.ann = self.create(b"ann", 7)
        self.bob = self.create(b"bob", 9)

    def create(self, name, last):
        """Create a maildrop without messages, and return its id."""
        [(created,)] = self.sql(
            "INSERT INTO maildrop (name, state, epoch, last)"
            " VALUES (%s, gen_random_uuid(), gen_random_uuid(), %s) RETURNING id",
            *(name, last),
        )
        return created

    def execute(self, statement, *parameters):
        """Execute a statement of the store, and return its rows."""
        cursor = RawCursor(self.connection).execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []

    def transaction(self):
        """Return a context of one time, in which nothing is changed for good."""
        return self.connection.transaction(force_rollback=True)

    def set_lease(self, maildrop, holder, expires=None, login=None):
        """Set the lease and the last login of a maildrop, in seconds from now on."""
        self.sql(
            "UPDATE maildrop SET holder = %s, expires = now() + %s * interval '1 s',"
            " login = now() + %s * interval '1 s' WHERE id = %s",
            *(holder, expires, login, maildrop),
        )

    def lease(self, maildrop):
        """Return holder, expiry and last login of a maildrop, in seconds from now on."""
        [found] = self.sql(
            "SELECT holder, extract(epoch FROM expires - now())::float8,"
            " extract(epoch FROM login - now())::float8 FROM maildrop WHERE id = %s",
            maildrop,
        )
        return found

    def leases(self):
        """Return those of Ann and of Bob."""
        return self.lease(self.ann), self.lease(self.bob)


LEASES = ((None, None), (MINE, -1), (MINE, 5), (OTHERS, -1e-6), (OTHERS, 0), (OTHERS, 5))
"""Holders, and in how many seconds their leases expire."""

LOGINS = (None, -61, -60, -60 + 1e-6, 0, 60, 60 + 1e-6)
"""In how many seconds the last login was."""


def waits(login, delay):
    """Return whether a login must still wait; a last login up to a minute in the future counts."""
    return bool(delay) and login is not None and -delay < login <= 60


class LeaseTests(StatementCase):
    """A lease is taken, renewed and released by who has it, and taken by others if it is free."""

    def test_take(self):
        """A maildrop is given to its holder again, and to others if it is free and time for it."""
        for statement in (statements.TAKE_LEASE, statements.CREATE_WITH_LEASE):
            for (holder, expires), login, delay in product(LEASES, LOGINS, (0, 0.5, 60)):
                with self.transaction():
                    self.set_lease(self.ann, holder, expires, login)
                    before = self.leases()
                    [found] = self.sql(
                        "SELECT id, uuid_send(state), uuid_send(epoch), last FROM maildrop"
                        " WHERE id = %s",
                        self.ann,
                    )
                    is_free = holder is None or expires < 0
                    is_taken = holder == MINE or (is_free and not waits(login, delay))
                    rows = self.execute(statement, b"ann", MINE, SECONDS, delay)
                    self.assertEqual(rows, [found] * is_taken, (holder, expires, login, delay))
                    taken = MINE, SECONDS, 0 if delay else login
                    after = taken if is_taken else before[0], before[1]
                    self.assertEqual(self.leases(), after)

    def test_create(self):
        """A maildrop is created with a lease, without messages and with a state of its own."""
        for delay, login in ((0, None), (0.5, 0), (60, 0)):
            with self.transaction():
                self.assertEqual(self.execute(statements.TAKE_LEASE, b"new", MINE, SECONDS, 0), [])
                found = [
                    self.execute(statements.CREATE_WITH_LEASE, name, MINE, SECONDS, delay)[0]
                    for name in (b"new", b"newer")
                ]
                self.assertEqual(self.lease(found[0][0]), (MINE, SECONDS, login))
                self.assertEqual({row[3:] for row in found}, {(0,)})
                self.assertEqual(len({value for row in found for value in row[1:3]}), 4)

    def test_delay(self):
        """Who has to wait is told for how many seconds, rounded up."""
        for login, delay in product((*LOGINS, -58.5), (0.5, 60)):
            with self.transaction():
                self.set_lease(self.ann, None, login=login)
                self.set_lease(self.bob, None, login=-1)
                rows = self.execute(statements.LOGIN_DELAY, b"ann", delay)
                expected = [(math.ceil(login + delay),)] if waits(login, delay) else []
                self.assertEqual(rows, expected, (login, delay))

    def test_renew(self):
        """The leases of these tokens are renewed, also if they have expired, and no others."""
        third = self.create(b"third", 0)
        for holder, expires in ((MINE, -1), (MINE, 5)):
            with self.transaction():
                self.set_lease(self.ann, holder, expires, -3)
                self.set_lease(self.bob, OTHERS, 5)
                self.set_lease(third, MINE, 5)
                leases = [self.ann, self.bob], [MINE, MINE]
                self.assertEqual(self.execute(statements.HELD_LEASES, *leases), [(MINE,)])
                rows = self.execute(statements.RENEW_LEASES, *leases, SECONDS)
                self.assertEqual(rows, [(MINE,)])
                self.assertEqual(self.leases(), ((MINE, SECONDS, -3), (OTHERS, 5, None)))
                self.assertEqual(self.lease(third), (MINE, 5, None))

    def test_release(self):
        """A lease is released by who has it, and no other one is."""
        for statement, parameters in (
            (statements.RELEASE_LEASES, ([self.ann], [MINE])),
            (statements.RELEASE_BY_NAME, (b"ann", MINE)),
        ):
            for holder, other in ((MINE, MINE), (OTHERS, MINE), (MINE, OTHERS)):
                with self.transaction():
                    self.set_lease(self.ann, holder, 5, -3)
                    self.set_lease(self.bob, other, 5)
                    rows = self.execute(statement, *parameters)
                    is_released = holder == MINE
                    if statement == statements.RELEASE_LEASES:
                        self.assertEqual(rows, [(MINE,)] * is_released)
                    released = (None, None, -3) if is_released else (holder, 5, -3)
                    self.assertEqual(self.leases(), (released, (other, 5, None)))

    def test_durable(self):
        """Statements about leases commit without waiting for the disk; the next ones wait again."""
        commit = "SHOW synchronous_commit"
        usual = self.sql(commit)
        for statement, parameters in (
            (statements.TAKE_LEASE, (b"ann", MINE, SECONDS, 0)),
            (statements.CREATE_WITH_LEASE, (b"ann", MINE, SECONDS, 0)),
            # A login that finds another session locks the row as well.
            (statements.CREATE_WITH_LEASE, (b"ann", OTHERS, SECONDS, 0)),
            (statements.RENEW_LEASES, ([self.ann], [MINE], SECONDS)),
            (statements.RELEASE_LEASES, ([self.ann], [MINE])),
            (statements.RELEASE_BY_NAME, (b"ann", MINE)),
        ):
            self.set_lease(self.ann, MINE, 5)
            with self.connection.transaction():
                self.execute(statement, *parameters)
                self.assertEqual(self.sql(commit), [("off",)])
            self.assertEqual(self.sql(commit), usual)


class MessageCase(StatementCase):
    """Tests of statements, with messages."""

    def add(self, maildrop, position, **columns):
        """Add a message, whose ``delivered`` is in seconds from now on; return its id."""
        columns = {"id": uuid4(), "octets": 1, "stored": 1, "header_ends": True} | columns
        columns = {"maildrop": maildrop, "position": position, "inline": True} | columns
        marks = ["now() + %s * interval '1 s'" if each == "delivered" else "%s" for each in columns]
        self.sql(
            f"INSERT INTO message ({', '.join(columns)}) VALUES ({', '.join(marks)})",
            *columns.values(),
        )
        return columns["id"]

    def reserve(self, *keys, taken=False):
        """Add keys to those of objects that have no message."""
        for key in keys:
            self.sql("INSERT INTO doomed (key, due, taken) VALUES (%s, now(), %s)", key, taken)

    def doomed(self):
        """Return the keys of objects that have no message, and in how many seconds each is due."""
        return dict(self.sql("SELECT key, extract(epoch FROM due - now())::float8 FROM doomed"))

    def columns(self, columns, table="message"):
        """Return some columns of all messages of Ann and of Bob, as ``ann`` and ``bob``."""
        rows = self.sql(
            f"SELECT convert_from(name, 'UTF8'), {columns} FROM {table}"
            " JOIN maildrop ON maildrop.id = maildrop ORDER BY name, position"
        )
        return [(each[0], *each[1:]) for each in rows]

    def maildrops(self):
        """Return state, epoch and last position of the maildrops of Ann and Bob."""
        return self.sql("SELECT state, epoch, last FROM maildrop WHERE last > 6 ORDER BY name")

    def assert_changed(self, before, *ann, bob=(False, False, 0)):
        """Check which of state and epoch of maildrops have changed, and by how much the last."""
        for old, new, expected in zip(before, self.maildrops(), (ann, bob), strict=True):
            changed = old[0] != new[0], old[1] != new[1], new[2] - old[2]
            self.assertEqual(changed, expected)


ARRAYS = "header_only", "has_downgraded", "downgraded"
"""The columns of LIST whose values may be in any order."""


class ReadingTests(MessageCase):
    """Statements read one maildrop only, and only the positions that a session has seen."""

    def test_list(self):
        """Columns fit together in whichever order the messages are in the table."""
        messages = [
            (1, 10, uuid4(), None, False, b"first"),
            (2, 20, uuid4(), 25, True, None),
            (3, 30, uuid4(), None, False, b"z"),
            (4, 40, uuid4(), 0, False, b"a"),
            (5, 50, uuid4(), 55, True, None),
            (6, 60, uuid4(), 65, False, b"last"),
        ]
        self.sql("SET enable_indexscan = off; SET enable_bitmapscan = off")
        self.addCleanup(self.sql, "RESET ALL")
        for maildrop, factor in ((self.bob, 7), (self.ann, 1)):
            for at in (4, 1, 0, 5, 3, 2):
                position, octets, id_, downgraded, header_ends, uidl = messages[at]
                self.add(
                    *(maildrop, position),
                    octets=octets * factor,
                    id=id_,
                    downgraded=downgraded,
                    header_ends=header_ends,
                    uidl=uidl,
                )
        for first, last in ((2, 5), (0, 6), (4, 4)):
            [row] = self.execute(statements.LIST, self.ann, first, last)
            found, arrays = Columns(*row), dict.fromkeys(ARRAYS)
            expected = columns_of([each for each in messages if first <= each[0] <= last])
            self.assertEqual(found._replace(**arrays), expected._replace(**arrays))
            self.assertEqual({*found.header_only}, {*expected.header_only})
            self.assertEqual(
                dict(zip(found.has_downgraded, found.downgraded, strict=True)),
                dict(zip(expected.has_downgraded, expected.downgraded, strict=True)),
            )
        self.assertEqual(self.execute(statements.LIST, self.ann, 7, 9), [(None,) * 6])

    def test_list_old(self):
        """Messages are old whose time of delivery is known, and longer ago than the seconds."""
        with self.transaction():
            [(epoch,)] = self.sql("SELECT extract(epoch FROM to_timestamp(0) - now())::float8")
            for position, delivered in enumerate((epoch, epoch + 1, -100 - 1e-6, -100, 0)):
                self.add(self.ann, position, delivered=delivered)
            self.add(self.bob, 9, delivered=-1000)
            [(packed,)] = self.execute(statements.LIST_OLD, self.ann, 100)
            self.assertEqual(sorted(numbers_of(packed)), [1, 2])
            self.assertEqual(
                self.execute(statements.LIST_OLD, self.ann, 999_999 * 604_800), [(None,)]
            )

    def test_details(self):
        """Times of delivery have fractions of a second."""
        for maildrop, position, flags in ((self.ann, 2, 5), (self.ann, 1, 0), (self.bob, 1, 0)):
            self.add(maildrop, position, flags=flags)
        self.sql("UPDATE message SET delivered = to_timestamp(position + 0.25)")
        rows = self.execute(statements.DETAILS, self.ann)
        self.assertEqual(sorted(rows), [(1, 1.25, 0), (2, 2.25, 5)])

    def test_retrieve(self):
        """A message is known by its maildrop, its position and its id together."""
        id_ = uuid4()
        places = [(self.ann, 1), (self.ann, 2), (self.bob, 1)]
        for number, (maildrop, position) in enumerate(places):
            self.add(maildrop, position, id=id_, stored=number, digest=b"%d" % number)
            self.sql("INSERT INTO body VALUES (%s, %s, %s)", maildrop, position, b"%d." % number)
        another = self.add(self.bob, 2, inline=False, form=7)
        for number, (maildrop, position) in enumerate(places):
            rows = self.execute(statements.RETRIEVE, maildrop, position, id_)
            self.assertEqual(rows, [(True, 0, number, b"%d" % number, b"%d." % number)])
        rows = self.execute(statements.RETRIEVE, self.bob, 2, another)
        self.assertEqual(rows, [(False, 7, 1, None, None)])
        for wrong in ((self.ann, 2, another), (self.bob, 1, another), (self.bob, 2, id_)):
            self.assertEqual(self.execute(statements.RETRIEVE, *wrong), [])

    def test_last_seen(self):
        """The last message that was read is looked for among those of the snapshot."""
        for position, flags in enumerate((1, 7, 6, 1, 62), 1):
            self.add(self.ann, position, flags=flags)
        self.add(self.bob, 3, flags=1)
        for last, expected in ((0, None), (1, 1), (3, 2), (4, 4), (9, 4)):
            rows = self.execute(statements.LAST_SEEN, self.ann, last)
            self.assertEqual(rows, [(expected,)])

    def test_is_delivered(self):
        """A delivery is known by the name of its user and the id of its message."""
        first, second = UUID(int=2), UUID(int=1)
        self.add(self.ann, 1, id=first)
        self.add(self.bob, 2, id=second)
        for name, id_, expected in (
            *((b"ann", first, [(1,)]), (b"bob", second, [(2,)])),
            *((b"bob", first, []), (b"ann", second, []), (b"ann", uuid4(), [])),
        ):
            self.assertEqual(self.execute(statements.IS_DELIVERED, name, id_), expected)

    def test_forgotten(self):
        """Keys are forgotten that are neither reserved nor of a message with an object."""
        keys = [UUID(int=number) for number in range(6)]
        unknown, reserved, taken, there, inline, other = keys
        self.reserve(reserved)
        self.reserve(taken, taken=True)
        self.add(self.ann, 1, id=there, inline=False)
        self.add(self.ann, 2, id=inline)
        rows = self.execute(statements.UNRESERVED_KEYS, keys)
        self.assertEqual({key for (key,) in rows}, {unknown, taken, inline, other})

    def test_users(self):
        """Users are listed in the order of their names."""
        self.create(b"Zoe", 0)
        self.create(b"a", 0)
        names = [(b"Zoe",), (b"a",), (b"ann",), (b"bob",)]
        self.assertEqual(self.execute(statements.USERS), names)
        self.assertEqual(self.execute(statements.IS_MAILDROP, b"ann"), [(self.ann,)])
        self.assertEqual(self.execute(statements.IS_MAILDROP, b"an"), [])


class ChangingTests(MessageCase):
    """Statements change one maildrop only, and with it whatever depends on the change."""

    def test_mark_seen(self):
        """A message of this position and id gets the flag, beside others; no other is written."""
        lower, same, higher = (UUID(int=number) for number in range(3))
        cyd = self.create(b"cyd", 0)
        for maildrop in (self.ann, cyd):
            self.add(maildrop, 1, id=same)
        for position, flags in enumerate((0, 0, 1, 34, 0, 0)):
            self.add(self.bob, position, id=same, flags=flags)
        written = "SELECT xmin::text FROM message WHERE position = 2"
        before = self.sql(written)
        retrieved = [1, 2, 3, 4, 5], [same, same, same, lower, higher]
        self.execute(statements.MARK_SEEN, self.bob, *retrieved)
        marked = [("bob", *each) for each in enumerate((0, 1, 1, 35, 0, 0))]
        expected = [("ann", 1, 0), *marked, ("cyd", 1, 0)]
        self.assertEqual(self.columns("position, flags"), expected)
        self.assertEqual(self.sql(written), before)

    def test_remove(self):
        """Messages are removed that have position and id, with their bodies; objects are doomed."""
        same = uuid4()
        for maildrop, position in ((self.ann, 1), (self.ann, 2), (self.ann, 8), (self.bob, 2)):
            self.add(maildrop, position, id=same)
        self.add(self.ann, 3)
        kept = self.add(self.ann, 4)
        objects = [self.add(self.ann, position, inline=False) for position in (5, 6, 7)]
        for maildrop, position, *_ in self.sql("SELECT * FROM message WHERE inline"):
            self.sql("INSERT INTO body VALUES (%s, %s, '')", maildrop, position)
        before = self.maildrops()
        parameters = [self.ann, MINE, [2, 3, 5, 6], [same, kept, *objects[:2]], 100]
        for holder, expires, is_held in ((OTHERS, 5, False), (None, None, False), (MINE, -1, True)):
            with self.transaction():
                self.set_lease(self.ann, holder, expires)
                self.set_lease(self.bob, MINE, 5)
                self.reserve(objects[1])
                held = self.execute(statements.REMOVE, *parameters)
                if not is_held:
                    self.assertEqual((held, self.maildrops()), ([], before))
                    self.assertEqual(len(self.columns("position")), 9)
                    self.assertEqual(len(self.doomed()), 1)
                    continue
                left = [("ann", 1), ("ann", 3), ("ann", 4), ("ann", 8), ("bob", 2)]
                self.assertEqual(self.columns("position", "body"), left)
                left.insert(3, ("ann", 7))
                self.assertEqual(self.columns("position"), left)
                self.assertEqual(self.doomed(), {objects[0]: 100, objects[1]: 0})
                for rows in (held, self.execute(statements.REMOVE, *parameters)):
                    self.assertEqual(rows, [(self.ann,)])
                self.assert_changed(before, True, True, 0)

    def test_create(self):
        """Maildrops are created in the order of names, so that two creations cannot deadlock."""
        before = self.maildrops()
        self.execute(statements.CREATE, [b"c", b"ann", b"d", b"b"])
        self.assertEqual(self.maildrops(), before)
        rows = self.sql("SELECT name, state, epoch, last, holder FROM maildrop ORDER BY id")
        created = [row for row in rows if row[0] not in (b"ann", b"bob")]
        self.assertEqual(
            [(row[0], *row[3:]) for row in created],
            [(name, 0, None) for name in (b"b", b"c", b"d")],
        )
        self.assertEqual(len({value for row in rows for value in row[1:3]}), 10)


VALUES = "octets, downgraded, stored, header_ends, digest, inline"


class DeliveryTests(MessageCase):
    """A message is added at the end, or not at all."""

    def setUp(self):
        """Make ids of messages."""
        self.ids = [uuid4() for _ in range(3)]
        return super().setUp()

    def added(self, name, position, id_, values, is_inline):
        """Return what the row of a message should have."""
        return (name, position, id_, *values, is_inline)

    def assert_messages(self, *expected, body=None):
        """Check the messages, and that those in the database have this body."""
        self.assertEqual(self.columns(f"position, message.id, {VALUES}"), [*expected])
        bodies = [(name, position, body) for name, position, *_ in expected if body is not None]
        self.assertEqual(self.columns("position, body", "body"), bodies)

    def test_deliver(self):
        """A message in the database is the last one of its maildrop."""
        before = self.maildrops()
        for number, values in enumerate(((10, 11, 12, True, b"x"), (20, None, 19, False, None)), 1):
            with self.transaction():
                rows = self.execute(statements.DELIVER, b"ann", b"body", self.ids[0], *values)
                self.assertEqual(rows, [(8,)], number)
                self.assert_changed(before, True, False, 1)
                self.assert_messages(("ann", 8, self.ids[0], *values, True), body=b"body")
        self.assertEqual(self.execute(statements.DELIVER, b"an", b"", self.ids[0], *values), [])
        self.assert_changed(before, False, False, 0)

    def test_deliver_object(self):
        """An object becomes a message if its key is reserved, and not taken for a removal."""
        before = self.maildrops()
        key, taken, unknown = self.ids
        self.reserve(key)
        self.reserve(taken, taken=True)
        values = 10, 11, 12, False, b"x"
        for name, id_ in ((b"ann", taken), (b"ann", unknown), (b"an", key)):
            with self.transaction():
                rows = self.execute(statements.DELIVER_OBJECT, name, id_, *values)
                self.assertEqual(rows, [])
                self.assert_messages()
                self.assertEqual(len(self.doomed()), 2)
        rows = self.execute(statements.DELIVER_OBJECT, b"ann", key, *values)
        self.assertEqual(rows, [(8,)])
        self.assert_changed(before, True, False, 1)
        self.assert_messages(("ann", 8, key, *values, False))
        self.assertEqual({*self.doomed()}, {taken})

    def deliver_to_all(self, names, body, ids=None):
        """Execute the statement that delivers to several users, and return its rows."""
        values = 10, 11, 12, False, b"x"
        return self.execute(
            statements.DELIVER_TO_ALL, names, ids or self.ids[: len(names)], body, *values
        )

    def test_deliver_to_all(self):
        """All of the users get a message, with the body or the object of each, or none does."""
        before = self.maildrops()
        values = 10, 11, 12, False, b"x"
        other = uuid4()
        self.create(b"c", 1)
        for body, reserved, taken, is_complete in (
            *((b"body", self.ids[:0], self.ids[:0], True), (b"", [other], self.ids[:2], True)),
            *((None, self.ids[:2], [other], True), (None, [*self.ids[:2], other], [], True)),
            *((None, self.ids[:1], self.ids[1:2], False), (None, [self.ids[0], other], [], False)),
        ):
            with self.transaction():
                self.reserve(*reserved)
                self.reserve(*taken, taken=True)
                rows = self.deliver_to_all([b"bob", b"ann"], body)
                left = {*reserved, *taken}
                if is_complete:
                    self.assertEqual(sorted(rows), [(8,), (10,)])
                    self.assert_changed(before, True, False, 1, bob=(True, False, 1))
                    self.assert_messages(
                        ("ann", 8, self.ids[1], *values, body is not None),
                        ("bob", 10, self.ids[0], *values, body is not None),
                        body=body,
                    )
                    left -= {*self.ids} if body is None else set()
                else:
                    self.assertEqual((rows, self.maildrops()), ([], before))
                    self.assert_messages()
                self.assertEqual({*self.doomed()}, left)
        for body in (None, b"body"):
            with self.transaction():
                self.reserve(*self.ids)
                self.assertEqual(self.deliver_to_all([b"ann", b"unknown"], body), [])
                self.assertEqual(self.maildrops(), before)
                self.assertEqual(len(self.doomed()), 3)

    def copy(self, *messages):
        """Execute the statement that copies to Ann, with the columns of messages."""
        columns = map(list, zip(*messages, strict=True))
        return self.execute(statements.COPY, self.ann, MINE, *columns)

    def message(self, id_, uidl, body, flags=0):
        """Return the columns of a message to copy, each with another value."""
        number = self.ids.index(id_)
        values = number + 10, (None, 21, 0)[number], number + 30, not number % 2, b"%d" % number
        return id_, uidl, 1_500_000 + number, flags, *values, body

    def test_copy(self):
        """Messages are added in their order, with unique-ids and times, while it is leased."""
        self.ids.sort(reverse=True)
        before = self.maildrops()
        messages = [
            self.message(id_, b"%d" % number, body, flags)
            for number, (id_, body, flags) in enumerate(
                zip(self.ids, (b"0", None, b"2"), (1, 0, 62), strict=True)
            )
        ]
        other = uuid4()
        for holder in (OTHERS, None):
            with self.transaction():
                self.set_lease(self.ann, holder, 5)
                self.set_lease(self.bob, MINE, 5)
                self.reserve(self.ids[1])
                self.assertEqual(self.copy(*messages), [])
                self.assertEqual(self.maildrops(), before)
                self.assert_messages()
                self.assertEqual(len(self.doomed()), 1)
        for repeated in (False, True):
            with self.transaction():
                self.set_lease(self.ann, MINE, -1)
                self.set_lease(self.bob, MINE, 5)
                # What has a body is not looked for among the objects.
                self.reserve(*self.ids, other)
                self.sql("UPDATE doomed SET taken = key <> %s", self.ids[1])
                for _ in range(1 + repeated):
                    self.assertEqual(self.copy(*messages), [(False,)])
                self.assert_changed(before, True, False, 3 * (1 + repeated))
                columns = f"position, message.id, uidl, flags, {VALUES}"
                self.assertEqual(
                    self.columns(columns),
                    [
                        ("ann", 8 + at, id_, uidl, flags, *values, body is not None)
                        for at, (id_, uidl, _, flags, *values, body) in enumerate(messages)
                    ],
                )
                times = self.columns("(extract(epoch FROM delivered) * 1000000)::bigint")
                self.assertEqual(times, [("ann", each[2]) for each in messages])
                bodies = self.columns("position, body", "body")
                self.assertEqual(bodies, [("ann", 8, b"0"), ("ann", 10, b"2")])
                self.assertEqual({*self.doomed()} - {self.ids[0], self.ids[2]}, {other})

    def test_copy_again(self):
        """A unique-id that is there already is not added again; the others are."""
        self.set_lease(self.ann, MINE, 5)
        self.add(self.ann, 5, uidl=b"1")
        self.add(self.bob, 5, uidl=b"0")
        rows = self.copy(*(self.message(id_, b"%d" % n, b"x") for n, id_ in enumerate(self.ids)))
        self.assertEqual(rows, [(False,)])
        expected = [("ann", 5, b"1"), ("ann", 8, b"0"), ("ann", 10, b"2"), ("bob", 5, b"0")]
        self.assertEqual(self.columns("position, uidl"), expected)
        self.assertEqual(self.columns("position", "body"), [("ann", 8), ("ann", 10)])

    def test_copy_refused(self):
        """Nothing is added if the key of an object is not reserved, unless it has a message."""
        for place, is_taken, is_refused in (
            *((None, False, True), (None, True, True)),
            *(("object", False, False), ("body", False, True), ("another", False, True)),
        ):
            with self.transaction():
                self.set_lease(self.ann, MINE, 5)
                self.reserve(self.ids[0])
                if is_taken:
                    self.reserve(self.ids[1], taken=True)
                if place:
                    id_ = uuid4() if place == "another" else self.ids[1]
                    self.add(self.ann, 5, id=id_, uidl=b"1", inline=place == "body")
                before = self.columns("position")
                bodies = (None, None, b"2")
                messages = [
                    self.message(id_, b"%d" % n, body)
                    for n, (id_, body) in enumerate(zip(self.ids, bodies, strict=True))
                ]
                self.assertEqual(self.copy(*messages), [(is_refused,)])
                added = [] if is_refused else [("ann", 8), ("ann", 10)]
                self.assertEqual(self.columns("position"), before + added)
                left = {*self.ids[:1]} if is_refused else set()
                self.assertEqual({*self.doomed()} - {self.ids[1]}, left)


class ConcurrentTests(MessageCase):
    """What two transactions do at the same time."""

    async def setUp(self):
        """Open another connection."""
        await super().setUp()
        self.other = psycopg.connect(**self._parameters, autocommit=True)
        self.addCleanup(self.other.close)
        self.ids = [uuid4(), uuid4()]

    def object_columns(self):
        """Return the columns of a message to copy, whose octets are an object."""
        return [self.ids[0]], [b"1"], [0], [0], [1], [None], [1], [True], [b""], [None]

    def start(self, statement, *parameters):
        """Execute a statement in a thread, on the other connection; return a Deferred."""

        def execute():
            with RawCursor(self.other) as cursor:
                return cursor.execute(statement, parameters).fetchall()

        return deferToThread(execute)

    async def until_waiting(self):
        """Wait until the statement in the thread waits for a lock."""
        waiting = "SELECT cardinality(pg_blocking_pids(%s))"
        pid = self.other.info.backend_pid
        await wait_for(lambda: self.sql(waiting, pid) != [(0,)], "the lock")

    def deliver_to(self, maildrop):
        """Lock the row of a maildrop as a delivery does."""
        self.sql("UPDATE maildrop SET last = last + 1 WHERE id = %s", maildrop)

    async def test_order(self):
        """Maildrops are locked in the order of their ids, and not of their names or their rows."""
        for other in (b"another", b"cyd"):
            self.create(other, 0)
        self.sql("UPDATE maildrop SET id = 0 WHERE id = %s", self.bob)
        ids = [*self.ids, uuid4()]
        for names, (statement, *parameters) in product(
            ([b"ann", b"bob", b"cyd"], [b"cyd", b"bob", b"ann"]),
            (
                (statements.DELIVER_TO_ALL, ids, b"body", 4, None, 4, True, None),
                (statements.LOCK_MAILDROPS,),
            ),
        ):
            with self.connection.transaction():
                self.deliver_to(0)
                running = self.start(statement, names, *parameters)
                await self.until_waiting()
                self.sql("SELECT FROM maildrop WHERE id > 0 FOR UPDATE NOWAIT")
            self.assertEqual(len(await running), 3)

    async def test_delivered_before(self):
        """Another delivery at the same time does not hide one that is asked for."""
        id_ = self.add(self.ann, 5)
        with self.connection.transaction():
            self.deliver_to(self.ann)
            running = self.start(statements.IS_DELIVERED, b"ann", id_)
            await self.until_waiting()
        self.assertEqual(await running, [(5,)])

    async def test_taken(self):
        """An object that is taken for its removal at the same time does not become a message."""
        self.set_lease(self.ann, MINE, 5)
        for statement, parameters, refused in (
            (statements.DELIVER_OBJECT, (b"ann", self.ids[0], 1, None, 1, True, b""), []),
            (
                statements.DELIVER_TO_ALL,
                ([b"ann", b"bob"], self.ids, None, 1, None, 1, True, b""),
                [],
            ),
            (statements.COPY, (self.ann, MINE, *self.object_columns()), [(True,)]),
        ):
            self.sql("TRUNCATE doomed")
            self.reserve(*self.ids)
            with self.connection.transaction():
                self.sql("UPDATE doomed SET taken = true WHERE key = %s", self.ids[0])
                running = self.start(statement, *parameters)
                await self.until_waiting()
            self.assertEqual(await running, refused)
            self.assertEqual(self.columns("position"), [])
            self.assertEqual({*self.doomed()}, {*self.ids})

    async def test_removed(self):
        """If one maildrop is removed at the same time, the users of the others get nothing."""
        with self.connection.transaction():
            self.sql("DELETE FROM maildrop WHERE id = %s", self.bob)
            running = self.start(
                *(statements.DELIVER_TO_ALL, [b"ann", b"bob"], self.ids),
                *(b"body", 4, None, 4, True, None),
            )
            await self.until_waiting()
        self.assertEqual(await running, [])
        self.assertEqual(self.columns("position"), [])

    async def test_other_key(self):
        """A copy does not wait for the keys of other objects."""
        self.set_lease(self.ann, MINE, 5)
        self.reserve(*reversed(self.ids))
        self.other.execute("SET lock_timeout = '10s'")
        with self.connection.transaction():
            self.sql("UPDATE doomed SET taken = true WHERE key = %s", self.ids[1])
            running = self.start(statements.COPY, self.ann, MINE, *self.object_columns())
            self.assertEqual(await running, [(False,)])
