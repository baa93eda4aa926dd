"""The manual pages describe the programs as they are."""

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline import parsing as command
from popserv.commandline import session
from popserv.commandline.deliver import EXIT_CODES
from popserv.options.server import Options
from tests.certificates import issue
from tests.docs.harness import DOCS, ROOT, Base, commands

PAGES = ("popserv.1", "twistd-pop3.8")
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")


def page(name):
    """Return the text of a manual page without the escapes of roff."""
    text = (ROOT / "man" / name).read_text("utf-8")
    return re.sub(r"\\f[BIRP]|\\&", "", text).replace(r"\-", "-").replace(r"\(aq", "'")


def described(text):
    """Return the options that head an entry of a list."""
    return {
        option for line in re.findall(r"^\.B (.*)$", text, re.M) for option in OPTION.findall(line)
    }


def options_of(options):
    """Return the options of a command line of Twisted, long and short, as they are typed."""
    long = {f"--{name.rstrip('=')}" for name in options.longOpt}
    return long | {f"-{letter}" for letter in options.shortOpt if letter != ":"}


def parsers(parser, prefix):
    """Yield (words, parser) for a parser of argparse and each of its commands."""
    yield prefix, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from parsers(child, f"{prefix} {name}")


class ContentsTests(SynchronousTestCase):
    """What the pages describe is what the programs have."""

    def test_server_options(self):
        """twistd-pop3(8) describes each option of twistd pop3, and no other."""
        self.assertEqual(described(page("twistd-pop3.8")), options_of(Options()))

    def test_session_options(self):
        """popserv(1) describes the options of popserv session alone, and names all others."""
        text = page("popserv.1")
        options = options_of(session.Options())
        self.assertLessEqual(options - options_of(Options()), described(text))
        long = {option for option in options if option.startswith("--")}
        self.assertLessEqual(long, set(OPTION.findall(text)))

    def test_commands(self):
        """popserv(1) describes each command of popserv, and the options of each."""
        text = page("popserv.1")
        for words, parser in parsers(command.parser(), "popserv"):
            self.assertIn(words, text)
            named = {each for action in parser._actions for each in action.option_strings}
            self.assertLessEqual(named - {"-h"}, set(OPTION.findall(text)), words)

    def test_exit_codes(self):
        """popserv(1), the reference and --help have the exit codes of popserv deliver."""
        codes = {os.EX_OK, os.EX_USAGE, os.EX_TEMPFAIL, *EXIT_CODES.values()}
        text = (DOCS / "reference/popserv-command.rst").read_text("utf-8")
        table = re.search(r"``sysexits.h``.*?^====  =+$(.*?)^====", text, re.M | re.S)[1]
        for text in (table, command.COMMANDS["deliver"][1]):
            self.assertEqual(set(map(int, re.findall(r"\b\d+\b", text))), codes)
        (listed,) = re.findall(r"^\.B ((?:\d+, )+\d+)\nOf popserv deliver", page("popserv.1"), re.M)
        self.assertEqual(set(map(int, listed.split(", "))) | {os.EX_OK}, codes)

    def test_sections(self):
        """The sections have the names and the order of other manual pages."""
        for name, what in zip(PAGES, ("COMMANDS", "OPTIONS"), strict=True):
            found = re.findall(r'^\.SH "?([^"\n]*)', page(name), re.MULTILINE)
            self.assertEqual(found[:4], ["NAME", "SYNOPSIS", "DESCRIPTION", what])
            rest = ["EXAMPLES", "FILES", "EXIT STATUS", "SEE ALSO", "LICENSE"]
            self.assertEqual([title for title in found if title in rest], rest)

    def test_pages(self):
        """The directory man has one page for each source in docs/man, and nothing else."""
        sources = {path.name.removesuffix(".rst") for path in (DOCS / "man").glob("*.rst")}
        self.assertEqual({path.name for path in (ROOT / "man").iterdir()}, set(PAGES))
        self.assertEqual(sources, set(PAGES))

    def test_lint(self):
        """The pages have no errors by mandoc."""
        if shutil.which("mandoc") is None:
            (self.fail if "CI" in os.environ else self.skipTest)("mandoc is not installed")
        for name in PAGES:
            checked = subprocess.run(
                ["mandoc", "-T", "lint", "-W", "error", str(ROOT / "man" / name)],
                capture_output=True,
                check=False,
            )
            self.assertEqual((checked.stdout, checked.returncode), (b"", 0))


class ExamplesTests(Base):
    """The command lines under EXAMPLES are valid."""

    def test_server(self):
        """Each line of twistd pop3 is one that it accepts."""
        for name in ("var/mail", "srv/mail", "etc/popserv"):
            Path(self.directory, name).mkdir(parents=True)
        issued = issue("localhost")
        Path(self.directory, "etc/popserv/cert.pem").write_bytes(issued.certificate_pem())
        Path(self.directory, "etc/popserv/key.pem").write_bytes(issued.key_pem())
        lines = commands(DOCS / "man" / "twistd-pop3.8.rst", "twistd")
        self.assertGreater(len(lines), 3)
        for line in lines:
            arguments = line[line.index("pop3") + 1 :]
            with self.subTest(arguments=arguments):
                Options().parseOptions([self.place(each) for each in arguments])

    def test_command(self):
        """Each line of popserv user is one that it accepts."""
        lines = commands(DOCS / "man" / "popserv.1.rst", "popserv")
        self.assertGreater(len(lines), 1)
        for line in lines:
            command.parser().parse_args(line[1:])
