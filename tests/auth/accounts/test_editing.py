"""Tests of popserv.auth.accounts.editing."""

from popserv.auth.accounts.editing import change_account, read_accounts
from popserv.auth.accounts.statements import RECORD
from popserv.auth.passwords.user_changes import UserChanges
from popserv.auth.passwords.users_file import UsersFileError
from popserv.database.errors import OutcomeUnknown
from tests.auth.accounts.harness import AccountsCase


class EditingTests(AccountsCase):
    """change_account and read_accounts."""

    changes = UserChanges(b"ann", "store.toml")

    async def change(self, change):
        """Make a change; return what the table has then."""
        await change_account(self.database, b"ann", change)
        return dict(self.sql("SELECT name, record FROM account"))

    async def setUp(self):
        """Connect."""
        await super().setUp()
        self.database = self.open()

    async def test_changes(self):
        """A user is added, changed and removed; others stay."""
        self.add(b"bob", b"{PLAIN}b")
        bob = {b"bob": b"{PLAIN}b"}
        for change, record in (
            (self.changes.add(b"{X}a"), b"{X}a"),
            (self.changes.disable(), b"{X}a::::::nologin"),
            (self.changes.disable(), b"{X}a::::::nologin"),
            (self.changes.set_secret(b"{X}\xff\\"), b"{X}\xff\\::::::nologin"),
            (self.changes.enable(), b"{X}\xff\\"),
            (self.changes.set_fields([b"user=x"]), b"{X}\xff\\::::::user=x"),
        ):
            self.assertEqual(await self.change(change), {b"ann": record, **bob})
            self.assertEqual(await read_accounts(self.database), {b"ann": record, **bob})
        self.assertEqual(await self.change(self.changes.remove()), bob)

    async def test_spellings(self):
        """A user is found by each spelling of the name, and first by that of the table."""
        composed, decomposed = "é".encode(), "e\u0301".encode()
        for names, changed in (
            ((composed,), composed),
            ((decomposed,), decomposed),
            ((composed, decomposed), decomposed),
        ):
            self.sql("TRUNCATE account")
            for name in names:
                self.add(name, b"{X}a")
            expected = dict.fromkeys(names, b"{X}a") | {changed: b"{X}a::::::nologin"}
            changes = UserChanges(decomposed, "store.toml")
            await change_account(self.database, decomposed, changes.disable())
            self.assertEqual(await read_accounts(self.database), expected)
            await change_account(self.database, decomposed, changes.remove())
            self.assertNotIn(changed, await read_accounts(self.database))

    async def test_same(self):
        """A change to what is there already writes nothing."""
        self.add(b"ann", b"{X}a::::::nologin")
        written = self.sql("SELECT changed FROM account")
        await self.change(self.changes.disable())
        self.assertEqual(self.sql("SELECT changed FROM account"), written)

    async def test_refused(self):
        """A change that cannot be made is an error, which names the file."""
        for change in (self.changes.remove(), self.changes.disable(), self.changes.set_secret(b"")):
            with self.assertRaises(UsersFileError) as raised:
                await self.change(change)
            self.assertIn("user ann is not in store.toml", str(raised.exception))
        await self.change(self.changes.add(b"{X}a"))
        with self.assertRaises(UsersFileError) as raised:
            await self.change(self.changes.add(b"{X}a"))
        self.assertIn("user ann is already in store.toml", str(raised.exception))

    async def test_meanwhile(self):
        """What another host does at the same time is seen, and kept."""
        for before, meanwhile, kind, after in (
            (None, "INSERT INTO account VALUES ('ann', '{Y}b')", "set", UsersFileError),
            (b"{X}a", "UPDATE account SET record = '{X}a::::::user=y'", "set", b"{N}::::::user=y"),
            (b"{X}a", "UPDATE account SET record = '{X}b'", "remove", None),
            (b"{X}a", "DELETE FROM account", "set", UsersFileError),
        ):
            self.sql("TRUNCATE account")
            if before is not None:
                self.add(b"ann", before)
            statements = [meanwhile]

            def change(record, kind=kind, before=before, statements=statements):
                while statements:
                    self.sql(statements.pop())
                if before is None:
                    return self.changes.add(b"{N}")(record)
                return {"set": self.changes.set_secret(b"{N}"), "remove": self.changes.remove()}[
                    kind
                ](record)

            if after is UsersFileError:
                with self.assertRaises(UsersFileError):
                    await self.change(change)
            else:
                found = await self.change(change)
                self.assertEqual(found, {} if after is None else {b"ann": after})

    async def test_durable(self):
        """A change is executed once, and may wait for a standby."""
        execute, changes = self.database.execute, []

        async def record(statement, parameters=(), **options):
            if statement is not RECORD:
                changes.append(options)
            return await execute(statement, parameters, **options)

        self.patch(self.database, "execute", record)
        for change in (
            self.changes.add(b"{X}a"),
            self.changes.set_secret(b"{X}b"),
            self.changes.remove(),
        ):
            await self.change(change)
        self.assertEqual(changes, [{"repeat": False, "durable": True}] * 3)

    async def test_unknown(self):
        """If the connection breaks during a change, whether it was made is not guessed."""
        execute = self.database.execute

        async def lose(statement, parameters=(), *, repeat=True, durable=False):
            rows = await execute(statement, parameters)
            if statement is RECORD:
                return rows
            if not repeat:
                raise OutcomeUnknown
            return await execute(statement, parameters)

        self.patch(self.database, "execute", lose)
        for change in (
            self.changes.add(b"{X}a"),
            self.changes.set_secret(b"{X}b"),
            self.changes.remove(),
        ):
            with self.assertRaises(OutcomeUnknown):
                await self.change(change)
