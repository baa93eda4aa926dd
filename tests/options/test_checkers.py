"""Tests of popserv.options.checkers."""

import os
import sys
from pathlib import Path
from unittest.mock import patch

from twisted.python import usage

from popserv.auth.accounts.checker import AccountsChecker
from popserv.commandline.config import shown
from popserv.options import checkers
from popserv.options.server import Options
from popserv.runtime.extras import how_to_install
from tests.options.harness import OptionsCase


class CheckerTests(OptionsCase):
    """``--auth``, ``--rhosts`` and the users file of ``--maildir``."""

    def test_messages(self):
        """Invalid checkers are rejected with a message that names the remedy."""
        self.assert_messages(
            [
                (["--maildir", ""], "--maildir is required"),
                (["--auth", "nonsense"], "--help-auth"),
                (["--auth", "anonymous"], "not supported"),
                (["--auth", "passwd-file"], "passwd-file:PATH"),
                (["--auth", "checkpassword"], "checkpassword:/path/to/program"),
                (["--auth", "pam"], "use pam:pop3"),
                (["--auth", "dovecot"], "dovecot:/run/dovecot/auth-client"),
            ]
        )

    def test_no_maildir(self):
        """--maildir is required."""
        error = self.assertRaises(usage.UsageError, Options().parseOptions, [])
        self.assertIn("--maildir is required", str(error))

    def test_public_users_file(self):
        """A users file that all users can read is rejected; the message names the command."""
        users = Path(self.root, ".users")
        users.chmod(0o644)
        error = self.assertRaises(usage.UsageError, self.parse)
        self.assertIn(f"chmod o= {users.absolute()}", str(error))

    def test_no_users_file(self):
        """If there is no users file, the log names the command that creates it."""
        os.unlink(os.path.join(self.root, ".users"))
        self.parse()
        event = next(event for event in self.log if "quoted" in event)
        self.assertIn("popserv user add --users", event["log_format"])

    def test_invalid_rhosts(self):
        """An invalid line of the file of --rhosts is rejected."""
        path = self.write("rhosts", b"# ours\n192.0.2.0/24 +\n")
        os.chmod(path, 0o644)
        error = self.assertRaises(
            usage.UsageError, self.parse, "--dialect=rfc1225", "--rhosts", path
        )
        self.assertRegex(str(error), "rhosts.*line 2")

    def test_unix(self):
        """Twisted's checker "unix" is offered only where it can work."""
        for works in (True, False):
            self.patch(checkers, "_UNIX_WORKS", works)
            options = Options()
            names = [each.authType for each in options._checkerFactoriesForOptHelpAuth()]
            self.assertEqual("unix" in names, works)
            self.assertIn("pam", names)
            if works:
                self.assertEqual(len(self.parse("--auth=unix")["credCheckers"]), 1)
            else:
                self.assert_messages([(["--auth=unix"], "--auth unix: this Python has no modules")])

    def test_no_pam(self):
        """Without the extra pam, the message names the command that installs it."""
        with patch.dict(sys.modules, {"pamela": None, "popserv.auth.services.pam": None}):
            self.assert_messages([(["--auth=pam:pop3"], how_to_install("pam"))])

    def test_order(self):
        """Several checkers are asked in order; one that cannot tell names must be the last."""
        for arguments in (
            ["--auth=memory:a:b", "--auth=memory:c:d", "--auth=dovecot:/s"],
            [f"--auth=passwd-file:{self.root}/.users", "--auth=checkpassword:/bin/true"],
            [f"--auth=passwd-file:{self.root}/.users"] * 2,
        ):
            checkers = self.parse(*arguments)["credCheckers"]
            self.assertEqual(len(checkers), len(arguments))
        self.assert_messages(
            [
                (
                    ["--auth=dovecot:/s", "--auth=memory:a:b"],
                    "--auth dovecot: this checker cannot tell which names it knows",
                ),
                (
                    ["--auth=memory:a:b", "--auth=checkpassword:/bin/true", "--auth=dovecot:/s"],
                    "--auth checkpassword: this checker cannot tell",
                ),
                (["--auth=dovecot:/s", "--auth=dovecot:/t"], "only one of its kind"),
            ]
        )

    def test_users_of_store(self):
        """The default with an SQL store are the users in its database."""
        store = self.write("store.toml", b'conninfo = "host=/nowhere"\n')
        os.chmod(store, 0o600)
        options = Options()
        options.parseOptions(["--store", f"sql:{store}"])
        [checker] = options["credCheckers"]
        self.assertIsInstance(checker, AccountsChecker)
        self.assertIn(f'auth = ["sql-store:{store}"]  # default', list(shown(options)))

    def test_order_of_databases(self):
        """A database can be anywhere, and so can a directory that is searched for users."""
        urls = b"urls = ['ldaps://ldap.example.org']\n"
        for name, text in (
            ("sql", b"url = 'sqlite://'\nquery = 'SELECT :user'\nschemes = ['PLAIN']\n"),
            ("search", urls + b"base = 'dc=org'\nfilter = '(uid=%u)'\n"),
            ("template", urls + b"user-dn = 'uid=%u,dc=org'\n"),
        ):
            os.chmod(self.write(name, text), 0o600)
        sql = f"--auth=sql:{self.root}/sql"
        search, template = (f"--auth=ldap:{self.root}/{each}" for each in ("search", "template"))
        memory = "--auth=memory:a:b"
        for arguments in ([sql, search, memory], [search, sql, search, template]):
            checkers = self.parse(*arguments)["credCheckers"]
            self.assertEqual(len(checkers), len(arguments))
        self.assert_messages([([template, memory], "--auth ldap: this checker cannot tell")])
        cached = self.parse(sql, search, "--auth-cache=5")["credCheckers"][-1]
        self.assertEqual(cached.cache_seconds, 5)
        self.assert_messages([([sql, "--auth-cache=5"], "--auth-cache requires --auth with")])

    def test_auth_cache(self):
        """--auth-cache is for the checkers that ask another program."""
        for given, seconds in (([], 30), (["--auth-cache=0"], 0), (["--auth-cache=5"], 5)):
            options = self.parse("--auth=memory:a:b", "--auth=dovecot:/s", *given)
            self.assertEqual(options["auth-cache"], seconds)
            self.assertEqual(options["credCheckers"][-1].cache_seconds, seconds)
        self.assert_messages(
            [
                (["--auth-cache=5"], "--auth-cache requires --auth with dovecot"),
                (["--auth-cache=5", "--auth=memory:a:b"], "--auth-cache requires --auth with"),
                (["--auth-cache=x", "--auth=dovecot:/s"], "--auth-cache must be a whole number"),
            ]
        )

    def test_tokens(self):
        """Of the checkers for tokens, whose names come from the tokens, there can be one only."""
        for path in ("one", "two"):
            self.write(path, b"[oauth]\njwks = https://p.example/k\nissuer = i\naudience = a\n")
        arguments = [f"--auth=oauth:{self.root}/{path}" for path in ("one", "two")]
        self.assertEqual(len(self.parse(arguments[0])["credCheckers"]), 1)
        message = "--auth: 2 checkers support ITokenCredentials; give only one"
        self.assert_messages([(arguments, message)])
