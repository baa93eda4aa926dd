"""Tests of popserv.commandline.schema."""

import sys
from pathlib import Path
from unittest import mock

from twisted.internet import reactor

from popserv.commandline import schema
from popserv.database.config import read_config
from popserv.database.errors import DatabaseUnavailable, OutcomeUnknown
from popserv.database.schema import STEPS, SchemaError, schema_version
from tests.commandline.harness import CommandCase
from tests.database.harness import DatabaseCase


def run_at_once(coroutine, reactor):
    """Run a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value


class SchemaCommandTests(CommandCase):
    """``popserv schema``, without a database."""

    def run_schema(self, action="check", result=None, conninfo="host=db"):
        """Run the command, which finds this result; return the exit code and what it prints."""
        self.file = Path(self.directory) / "sql.toml"
        self.file.write_text(f"conninfo = '{conninfo}'")
        self.file.chmod(0o600)

        async def act(*arguments):
            if isinstance(result, BaseException):
                raise result
            return result or []

        self.patch(schema, "_run", act)
        self.patch(schema, "run_in_reactor", run_at_once)
        return self.run_command(["schema", action, "--store", f"sql:{self.file}"])

    def test_success(self):
        """A command that succeeds prints nothing."""
        for action in ("create", "upgrade", "check"):
            self.assertEqual(self.run_schema(action), (0, "", ""))

    def test_problems(self):
        """What ``check`` finds is printed."""
        code, out, err = self.run_schema(result=["the disk is full"])
        self.assertEqual((code, out, err), (1, f"{self.file}: the disk is full\n", ""))

    def test_errors(self):
        """An error is told in a line."""
        self.assertEqual(
            self.run_schema(result=SchemaError("no schema")), (1, "", "popserv: no schema\n")
        )
        unavailable = DatabaseUnavailable()
        unavailable.__cause__ = OSError("refused\n")
        for error, reason in (
            (unavailable, "refused"),
            (DatabaseUnavailable(), "it does not answer"),
        ):
            _, _, err = self.run_schema(result=error)
            expected = f"popserv: {self.file}: the database cannot be used: {reason}\n"
            self.assertEqual(err, expected)
        _, _, err = self.run_schema("upgrade", OutcomeUnknown())
        self.assertIn("; whether the tables were changed is unknown: ", err)
        self.assertTrue(err.endswith(f"run: popserv schema check --store sql:{self.file}\n"))
        code, _, err = self.run_schema(conninfo="nothing")
        self.assertEqual(code, 1)
        self.assertIn("conninfo: is not a conninfo", err)

    def test_interrupted(self):
        """An interrupted command says that the database may still do what it has begun."""
        unknown = "; whether the tables were changed is unknown, run: popserv schema check --store "
        for action in ("check", "create", "upgrade"):
            code, out, err = self.run_schema(action, KeyboardInterrupt())
            told = "" if action == "check" else f"{unknown}sql:{self.file}"
            self.assertEqual((code, out, err), (1, "", f"popserv: interrupted{told}\n"))

    def test_other_stores(self):
        """Another store has no schema."""
        code, _, err = self.run_command(["schema", "check", "--store", "maildir:/var/mail"])
        self.assertEqual(code, 2)
        self.assertIn("--store maildir:/var/mail: only the store sql:FILE has a schema", err)

    def test_missing_extra(self):
        """Without psycopg, the message says how to install it."""
        with mock.patch.dict(sys.modules, {"popserv.database": None}):
            code, _, err = self.run_schema()
        self.assertEqual(code, 1)
        self.assertIn("psycopg", err)


class SchemaOfDatabaseTests(DatabaseCase):
    """``popserv schema`` on a database."""

    async def test_actions(self):
        """The schema is made, upgraded and checked."""
        file = Path(self.mktemp())
        conninfo = " ".join(f"{name}={value}" for name, value in self.parameters.items())
        file.write_text(f"conninfo = '{conninfo}'")
        file.chmod(0o600)
        config = read_config(str(file))
        for action in ("create", "upgrade"):
            self.assertEqual(await schema._run(action, config, reactor), [])
            self.assertEqual(await schema_version(self.database), len(STEPS))
        [problem] = await schema._run("check", config, reactor)
        self.assertIn("synchronous_standby_names is empty", problem)
