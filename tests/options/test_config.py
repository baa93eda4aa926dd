"""Tests of popserv.options.config."""

import io
import os

from twisted.python import usage

from popserv.commandline.session import Options as SessionCommandOptions
from popserv.options.config import COMMAND_LINE
from popserv.options.server import Options
from tests.options.harness import OptionsCase


class ConfigCase(OptionsCase):
    """Tests with a file."""

    def config(self, text):
        """Write a file; return the arguments that name it."""
        return ["--config", self.write("popserv.toml", text.encode())]

    def parse_file(self, text, *arguments, options=Options):
        """Parse a file and arguments."""
        parsed = options()
        parsed.parseOptions([*self.config(f"maildir = {self.root!r}\n{text}"), *arguments])
        return parsed


class ServerTests(ConfigCase):
    """``twistd pop3 --config``."""

    def test_values(self):
        """Options in a file have the effect that they have on the command line."""
        options = self.parse_file(
            'timeout = 700\nlisten = ["tcp:1110", "tcp:1111"]\nutf8 = true\nhide-version = false\n'
            'without = "CAPA"'
        )
        path = os.path.join(self.root, "popserv.toml")
        self.assertEqual(options["timeout"], 700)
        self.assertEqual(options["listen"], ["tcp:1110", "tcp:1111"])
        self.assertEqual((options["utf8"], options["hide-version"]), (1, 0))
        self.assertEqual(options["without"], [b"CAPA"])
        self.assertEqual(options["config"], path)
        self.assertEqual(options.config.path, os.path.abspath(path))

    def test_none(self):
        """Without --config, no file is read."""
        options = self.parse()
        self.assertEqual((options.config, options["config"]), (None, None))

    def test_command_line(self):
        """An option of the command line replaces that of the file, all its values included."""
        options = self.parse_file(
            'timeout = 700\nlisten = ["tcp:1110", "tcp:1111"]\n',
            *("-l", "tcp:1", "-t", "800", "--default-domain", ""),
        )
        self.assertEqual(options["timeout"], 800)
        self.assertEqual(options["listen"], ["tcp:1"])
        self.assertEqual(options.origins["timeout"], COMMAND_LINE)
        self.assertIn("line 1", options.origins["maildir"])

    def test_store(self):
        """A store of the command line replaces that of the file, whichever option names it."""
        users = os.path.join(self.root, ".users")
        options = self.parse_file(
            "", "--store", f"mbox:{self.root}", "--auth", f"passwd-file:{users}"
        )
        self.assertIsNone(options["maildir"])
        self.assertNotIn("maildir", options.origins)

    def test_arguments(self):
        """The workers get the options of the file as arguments, and not its name."""
        options = self.parse_file('workers = 2\nutf8 = true\ndefault-domain = ""', "--listen=tcp:1")
        again = Options()
        again.parseOptions(options.arguments)
        self.assertIsNone(again.config)
        self.assertEqual(again.given_values(), options.given_values())
        self.assertEqual(
            options.given_values(),
            {
                "maildir": [self.root],
                "workers": ["2"],
                "utf8": [""],
                "default-domain": [""],
                "listen": ["tcp:1"],
            },
        )

    def test_errors(self):
        """An error about an option of the file says where it is, and any other error does not."""
        path = os.path.abspath(os.path.join(self.root, "popserv.toml"))
        for text, arguments, message in (
            ("timeout = 0", [], f"{path}, line 2: --timeout must be"),
            ("\nutf8 = true\ndialect = 'rfc1225'", [], f"{path}, line 3: --utf8 requires"),
            ("utf7 = true", [], f"{path}, line 2: utf7 is not"),
            ("timeout = 9", ["--expire", "x"], "--expire must"),
            ("timeout = 9", ["--timeout", "x"], "--timeout must"),
            ("timeout = 9", ["x"], "'x' is not an option"),
            ("timeout = 9", ["--expire"], "option --expire requires argument"),
        ):
            error = self.assertRaises(usage.UsageError, self.parse_file, text, *arguments)
            self.assertTrue(str(error).startswith(message), error)

    def test_completion(self):
        """The completion of an unfinished command line reads no file."""
        options = Options()
        options._shellCompFile = io.BytesIO()
        arguments = ["--config", "--maildir", "", "--_shell-completion", "zsh:3"]
        self.assertRaises(SystemExit, options.parseOptions, arguments)
        self.assertIn(b"--timeout", options._shellCompFile.getvalue())


class SessionTests(ConfigCase):
    """``popserv session --config``."""

    SHARED = 'timeout = 700\nlisten = ["tcp:1110"]\nworkers = 3\nallow-plaintext = true\nauth = "x"'

    def test_user(self):
        """A session without a login uses no options of servers and logins from a file."""
        options = self.parse_file(self.SHARED, "--user", "joe", options=SessionCommandOptions)
        self.assertEqual(options["timeout"], 700)
        self.assertEqual(options["allow-plaintext"], 0)
        self.assertEqual(set(options.origins), {"config", "maildir", "timeout", "user"})

    def test_login(self):
        """A session with a login uses the options of logins."""
        text = self.SHARED.replace('"x"', f'"passwd-file:{self.root}/.users"')
        options = self.parse_file(text, "--login", options=SessionCommandOptions)
        self.assertEqual(options["allow-plaintext"], 1)

    def test_unknown(self):
        """A mistake in the options of the server is reported."""
        for text in ("listem = 1", "workers = true", 'user = "joe"'):
            error = self.assertRaises(
                usage.UsageError,
                *(self.parse_file, text, "--user", "joe"),
                options=SessionCommandOptions,
            )
            self.assertIn("popserv.toml, line 2: ", str(error))
