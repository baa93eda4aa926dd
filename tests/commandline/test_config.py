"""Tests of popserv.commandline.config."""

import os

from hypothesis import given
from hypothesis import strategies as st

from popserv.auth.passwords.users_file_editing import set_secret
from popserv.commandline.config import shown
from popserv.options import server
from popserv.options.config_file import ConfigFile
from popserv.options.server import Options
from tests.commandline.harness import CommandCase

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


class ConfigCase(CommandCase):
    """Tests with a configuration file and a user."""

    def setUp(self):
        """Write both."""
        super().setUp()
        self.patch(server, "has_ipv6", lambda: True)
        set_secret(self.path, b"joe", b"{PLAIN}secret", new=True)
        self.file = os.path.join(self.directory, "popserv.toml")

    def run_config(self, action, text, *arguments):
        """Write the file and run the command."""
        with open(self.file, "w", encoding="utf-8") as file:
            file.write(text)
        return self.run_command(["config", action, "--config", self.file, *arguments])

    def shown(self, text, *arguments):
        """Return the lines that the command shows."""
        code, out, err = self.run_config(
            "show", f"maildir = '{self.directory}'\n{text}", *arguments
        )
        self.assertEqual((code, err), (0, ""))
        return out.splitlines()


class ShowTests(ConfigCase):
    """``popserv config show``."""

    def test_origins(self):
        """Each option is shown with its value, and where that comes from."""
        lines = self.shown(
            'timeout = 700\nwithout = ["CAPA", "LANG"]\nutf8 = true',
            *("--sasl", "LOGIN", "--sasl", "PLAIN", "--workers", "auto"),
        )
        for line in (
            f'maildir = "{self.directory}"  # {self.file}, line 1',
            f"timeout = 700  # {self.file}, line 2",
            f'without = ["CAPA", "LANG"]  # {self.file}, line 3',
            f"utf8 = true  # {self.file}, line 4",
            'sasl = "PLAIN"  # the command line',
            'workers = "auto"  # the command line',
            "mark-seen = false  # default",
            "cache-messages = 500000  # default",
            'listen = ["tcp:110", "tcp6:110"]  # default',
            f'auth = ["passwd-file:{self.path}"]  # default',
            "# mbox is not set",
            "# default-domain is not set",
            "# proxies is not set",
        ):
            self.assertIn(line, lines)
        self.assertEqual(len(lines), len(Options().config_kinds()))

    def test_preauth(self):
        """A server to which nobody logs in has no users file."""
        self.assertIn("# auth is not set", self.shown("", "--preauth", "unix:/run/x"))

    def test_numbers(self):
        """A number that TOML does not have is shown as a string."""
        for given_number, expected in (("0", "0"), ("90", "90"), ("007", '"007"'), ("00", '"00"')):
            lines = self.shown("", "--login-delay", given_number)
            self.assertIn(f"login-delay = {expected}  # the command line", lines)
            self.shown(f"login-delay = {expected}")

    @given(TEXT, st.lists(TEXT, min_size=1))
    def test_again(self, text, many):
        """What is shown is a file with the same options, whatever they contain."""
        given_options = Options()
        given_options.parseOptions(["--maildir", self.directory])
        # Only some options can have any value; the file is not checked here.
        given_options.arguments = [f"--hostname={text}", *(f"--auth={each}" for each in many)]
        given_options.origins = dict.fromkeys(("hostname", "auth"), "x")
        with open(self.file, "w", encoding="utf-8", newline="") as file:
            file.write("\n".join(shown(given_options)))
        entries = {
            entry.name: entry.arguments
            for entry in ConfigFile(self.file, given_options.config_kinds()).entries
        }
        self.assertEqual(entries["hostname"], [f"--hostname={text}"])
        self.assertEqual(entries["auth"], [f"--auth={each}" for each in many])


class CheckTests(ConfigCase):
    """``popserv config check``."""

    def test_valid(self):
        """Nothing is printed if nothing is wrong."""
        text = f"maildir = '{self.directory}'"
        self.assertEqual(self.run_config("check", text), (0, "", ""))

    def test_invalid(self):
        """An invalid option is an error of one line, with the file and the line; the code is 2."""
        code, out, err = self.run_config("check", "\n'a\\n' = 1".replace("'", '"'))
        self.assertEqual((code, out), (2, ""))
        self.assertTrue(err.startswith(f"popserv: {self.file}, line 2: a"), err)
        self.assertEqual(err.count("\n"), 1)

    def test_warnings(self):
        """What the server would warn of when it reads its files is a problem, too."""
        self.write(b"joe:{PLAIN}x\njoe:{PLAIN}y\n")
        code, out, err = self.run_config("check", f"maildir = '{self.directory}'")
        self.assertEqual((code, err), (1, ""))
        self.assertIn("line 2: line ignored, joe is already on an earlier line", out)

    def test_short_timeout(self):
        """So is what the server would warn of when it starts."""
        text = f"maildir = '{self.directory}'\ntimeout = 5"
        code, out, err = self.run_config("check", text)
        self.assertEqual((code, out.count("\n"), err), (1, 1, ""))
        self.assertIn("--timeout 5: RFC 1725 section 3 requires at least 600 seconds", out)
