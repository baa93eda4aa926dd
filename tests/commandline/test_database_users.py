"""``popserv user --store sql:FILE``."""

import io
import sys
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread

from popserv.commandline import database_users
from popserv.database import DatabaseConfig, opening
from popserv.runtime.extras import how_to_install
from tests.auth.accounts.harness import AccountsCase
from tests.commandline.harness import CommandCase


def run_in_running_reactor(coroutine):
    """Do what run_in_reactor does, in a thread of a process whose reactor runs."""
    return blockingCallFromThread(reactor, Deferred.fromCoroutine, coroutine)


class DatabaseUsersTests(AccountsCase):
    """The commands, with a database."""

    async def setUp(self):
        """Write the file of the store."""
        await super().setUp()
        self.patch(database_users, "run_in_reactor", run_in_running_reactor)
        self.path = self.configure()

    def run_user(self, *arguments, stdin="password\n"):
        """Run the command; return a Deferred of the exit code, and what it prints."""
        stream = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
        arguments = ["user", *arguments, "--store", f"sql:{self.path}"]
        return deferToThread(CommandCase.run_command, None, arguments, stream)

    async def test_commands(self):
        """They do, and print, what they do for a users file."""
        fine = (0, "", "")
        for arguments, expected in (
            (["list"], fine),
            (["check"], fine),
            (["add", "ann"], fine),
            (["add", "bob", "--apop"], fine),
            (["set", "ann", "popserv_since=30d"], fine),
            (["disable", "bob"], fine),
            (["passwd", "ann"], fine),
            (["list"], (0, "ann\tSCRAM-SHA-256\tpopserv_since=30d\nbob\tAPOP\tnologin\n", "")),
            (
                ["check"],
                (
                    1,
                    "ann\tpassword, SCRAM-SHA-256\tmessages of the last 720 hours "
                    "(popserv_since)\nbob\trefused\tnologin is set\n",
                    "",
                ),
            ),
            (["enable", "bob"], fine),
            (["remove", "ann"], fine),
            (["list"], (0, "bob\tAPOP\n", "")),
        ):
            self.assertEqual(await self.run_user(*arguments), expected)

    async def test_errors(self):
        """Errors name the file."""
        for arguments, message in (
            (["passwd", "ann"], f"user ann is not in {self.path}; to add the user, use: "),
            (["remove", "ann"], f"user ann is not in {self.path}\n"),
            (["enable", "ann"], f"user ann is not in {self.path}\n"),
        ):
            code, out, err = await self.run_user(*arguments)
            self.assertEqual((code, out, err[: len(message) + 9]), (1, "", f"popserv: {message}"))

    async def test_no_database(self):
        """A database that does not answer, or has no tables, is an error of one line."""
        self.path = self.configure(dbname="postgres")
        _, _, err = await self.run_user("list")
        self.assertIn(f"run: popserv schema create --store sql:{self.path}", err)
        self.path = self.configure(host="/nowhere")
        config = DatabaseConfig(self.path, {"host": "/nowhere"}, patience=1)
        self.patch(opening, "read_config", lambda path: config)
        code, _, err = await self.run_user("list")
        self.assertEqual((code, err.count("\n")), (1, 1))
        self.assertIn(f"popserv: {self.path}: the database cannot be used: ", err)

    async def test_no_file(self):
        """So is a file that is not there."""
        self.path = "/nowhere/store.toml"
        code, _, err = await self.run_user("list")
        self.assertEqual(code, 1)
        self.assertIn("cannot read /nowhere/store.toml", err)


class OtherStoresTests(CommandCase):
    """What has no users of its own."""

    def test_other_store(self):
        """Another store has none."""
        code, _, err = self.run_user("list", file=["--store", "maildir:/var/mail"])
        self.assertEqual(code, 2)
        self.assertIn("--store maildir:/var/mail: only the store sql:FILE has users", err)

    def test_missing_extra(self):
        """Without psycopg, the message says how to install it."""
        with mock.patch.dict(sys.modules, {"popserv.commandline.database_users": None}):
            code, _, err = self.run_user("list", file=["--store", "sql:x"])
        self.assertEqual(code, 1)
        self.assertIn(how_to_install("sql"), err)
