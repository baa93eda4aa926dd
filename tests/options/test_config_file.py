"""Tests of popserv.options.config_file."""

import codecs
import os
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.interfaces import IReloadable
from popserv.options import config_file
from popserv.options.config_file import ConfigError, ConfigFile
from popserv.options.kinds import FLAG, NUMBER, REPEATABLE, TEXT
from popserv.runtime.extras import how_to_install

KINDS = {"text": TEXT, "number": NUMBER, "flag": FLAG, "many": REPEATABLE}


class FileCase(SynchronousTestCase):
    """Tests with a file."""

    def setUp(self):
        """Name the file."""
        self.path = os.path.abspath(self.mktemp())

    def read(self, text):
        """Write the file and read it."""
        octets = text if isinstance(text, bytes) else text.encode()
        with open(self.path, "wb") as file:
            file.write(octets)
        return ConfigFile(self.path, KINDS)


class EntriesTests(FileCase):
    """The keys and their lines."""

    def test_lines(self):
        """Each key has the number of the line on which it begins."""
        found = self.read(
            '# text\r\n\r\ntext = "a"\r\nmany = [ # listen\n "b",\n\n "c",\n]\n'
            'number = 7\n"flag" = true'
        )
        self.assertEqual(
            [(entry.name, entry.place, entry.arguments) for entry in found.entries],
            [
                ("text", f"{self.path}, line 3", ["--text=a"]),
                ("many", f"{self.path}, line 4", ["--many=b", "--many=c"]),
                ("number", f"{self.path}, line 9", ["--number=7"]),
                ("flag", f"{self.path}, line 10", ["--flag"]),
            ],
        )

    def test_empty(self):
        """A file may have no keys."""
        for text in ("", "\n", "# text"):
            self.assertEqual(self.read(text).entries, [])

    def test_byte_order_mark(self):
        """A byte order mark, which some editors write, is ignored, as in files with secrets."""
        (entry,) = self.read(codecs.BOM_UTF8 + b"number = 1").entries
        self.assertEqual(entry.arguments, ["--number=1"])

    @given(
        st.lists(
            st.sampled_from(
                ["", "# many = [", 'text = """\n\n[x]\n"""', "number = 1", "many = [\n\n'a'\n]"]
            )
        )
    )
    def test_any_lines(self, statements):
        """A key's line does not depend on what stands before it."""
        lines, unique = {}, []
        for number, statement in enumerate(statements):
            name = f"key{number}"
            head, equals, value = statement.partition(" = ")
            is_key = equals and not head.startswith("#")
            if is_key:
                lines[name] = 1 + "\n".join([*unique, ""]).count("\n")
            unique.append(f"{name} = {value}" if is_key else statement)
        kinds = dict.fromkeys(lines, REPEATABLE._replace(types=(str, int)))
        with open(self.path, "w", encoding="utf-8") as file:
            file.write("\n".join(unique))
        found = {entry.name: entry.place for entry in ConfigFile(self.path, kinds).entries}
        self.assertEqual(found, {name: f"{self.path}, line {line}" for name, line in lines.items()})

    def test_mistakes(self):
        """A mistake is reported with the file, its line, and what is wrong."""
        for text, message in (
            ("\ntimeuot = 1", ", line 2: timeuot is not an option of twistd pop3"),
            ("config = 'x'", ", line 1: config is not an option of twistd pop3"),
            ("number = 1\nflag = 1", ", line 2: flag must be true or false"),
            ("many = [\n 1\n]", ", line 1: many must be a string, or an array of strings"),
            ("[pop3]\nflag = true", ", line 1: pop3 is a table; write the options without tables"),
            ("text.x = 1", ", line 1: text is a table; write the options without tables"),
            ("[[many]]", ", line 1: many must be a string, or an array of strings"),
            ("text = 2026-01-01", ", line 1: text must be a string"),
            ("flag = true\nflag = true", "line 2"),
            ("\ntext", "line 2"),
            (b"text = '\xff'", ": it is not UTF-8"),
            (f"number = {5000 * '9'}", ": Exceeds the limit"),
            ("many = " + 5000 * "[", ": "),
        ):
            error = self.assertRaises(ConfigError, self.read, text)
            self.assertTrue(str(error).startswith(self.path), error)
            self.assertRegex(str(error), message)

    def test_endless(self):
        """A file without end is not read for ever."""
        error = self.assertRaises(ConfigError, ConfigFile, "/dev/zero", KINDS)
        self.assertIn("--config: /dev/zero has more than 262144 octets", str(error))

    def test_missing(self):
        """A file that cannot be read is reported with its path."""
        error = self.assertRaises(ConfigError, ConfigFile, self.path, KINDS)
        self.assertEqual(str(error), f"--config: {self.path}: No such file or directory")

    def test_no_parser(self):
        """Without a parser of TOML, the error says how to install one, and which version has it."""
        for version, module in (((3, 10), "tomli"), ((3, 11), "tomllib")):
            with (
                patch.object(config_file.sys, "version_info", version),
                patch.dict("sys.modules", {module: None}),
            ):
                error = self.assertRaises(ConfigError, self.read, "")
            self.assertIn(f"--config: import of {module}", str(error))
            self.assertIn(how_to_install("config"), str(error))


class ReloadTests(FileCase):
    """SIGHUP."""

    def test_reload(self):
        """A file that has changed since the start is reported, and any other is not."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        config = self.read("number = 1")
        verifyObject(IReloadable, config)
        config.reload()
        os.rename(self.path, f"{self.path}.old")
        config.reload()
        self.assertEqual(list(log), [])
        with open(self.path, "w", encoding="utf-8") as file:
            file.write("number = 2")
        config.reload()
        self.assertEqual([event["path"] for event in log], [self.path])
