"""What tests of the documentation share: code blocks, tables, and a place to run them in."""

import os
import poplib
import re
import shlex
import shutil
import socket
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from popserv.commands import capa, rfc1725, sasl, stls, utf8

ROOT = Path(__file__).parents[2]
README = ROOT / "README.rst"
DOCS = ROOT / "docs"

TWISTD = "from twisted.scripts.twistd import run; run()"

WAIT = 30
"""Seconds that a server may take to start."""


def blocks(path, language):
    """Return the (name, text) of each code block of that language; a name may be empty."""
    found = []
    lines = iter(path.read_text("utf-8").split("\n"))
    for line in lines:
        if line != f".. code-block:: {language}":
            continue
        name, text = "", []
        for line in lines:
            if line and not line.startswith("   "):
                break
            option = re.fullmatch(r"   :(\w+): (.*)", line)
            if option is None:
                text.append(line[3:])
            elif option[1] == "name":
                name = option[2]
        found.append((name, "\n".join(text).strip("\n") + "\n"))
    return found


def tables(path):
    """Return the simple tables of a file, each a list of rows, each a list of cells."""
    found, columns, rules = [], [], 0
    for line in path.read_text("utf-8").split("\n"):
        if re.fullmatch(r"=+( +=+)+", line):
            rules = rules % 3 + 1
            if rules == 1:
                starts = [rule.start() for rule in re.finditer("=+", line)]
                columns = list(pairwise([*starts, None]))
                found.append([])
        elif rules == 2:
            found[-1].append([line[start:end].strip() for start, end in columns])
    return found


def words(path):
    """Return a file's text with every run of white space made one space."""
    return " ".join(path.read_text("utf-8").split())


def commands(path, start):
    """Return the words of each shell line that is a command of that name."""
    lines = [line for _, text in blocks(path, "shell") for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(start + " ")]


class UnixPOP3(poplib.POP3):
    """The standard library's client, on a UNIX socket."""

    def _create_socket(self, timeout):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        try:
            sock.connect(self.host)
        except OSError:
            sock.close()
            raise
        return sock


class Base(SynchronousTestCase):
    """A directory of its own, its path short enough for a UNIX socket."""

    def setUp(self):
        """Make it, and something to sweep it away."""
        self.directory = tempfile.mkdtemp(prefix="popserv-")
        self.addCleanup(shutil.rmtree, self.directory)
        bin_directory = os.path.dirname(sys.executable)
        self.environment = {
            **os.environ,
            "PATH": bin_directory + os.pathsep + os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
        }

    def place(self, text):
        """Return an argument with the directories that it names below our own."""
        if text == "mail":
            return self.directory
        return re.sub(r"(?<!\w)/(?=(?:var|srv|etc|usr/local)/)", f"{self.directory}/", text)


VERBS = (rfc1725, capa, stls, sasl, utf8)
KEYWORDS = {entry.keyword.decode("ascii") for module in VERBS for entry in module.COMMANDS}
