"""The sessions and the command lines that the documentation shows.

Only the port and the directories are replaced.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from popserv.auth.realm import MaildropRealm
from popserv.commandline import main as cli
from popserv.commandline.options import Options
from popserv.core.command import CommandTable
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.server.factory import POP3Factory
from popserv.testing import MemoryClient
from tests.certificates import issue
from tests.docs.harness import (
    DOCS,
    README,
    ROOT,
    VERBS,
    Base,
    blocks,
    commands,
)


class TourTests(SynchronousTestCase):
    """The session of tour.rst is what a client of the sample maildrop sees."""

    def test_session(self):
        """Every line that the server sends is as shown, in one session."""
        root = os.path.abspath(self.mktemp())
        subprocess.run(
            [sys.executable, str(ROOT / "examples" / "sample_maildrop.py"), root],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        checker = InMemoryUsernamePasswordDatabaseDontUse(joe=b"secret")
        client = MemoryClient(
            POP3Factory(
                CommandTable(*(module.COMMANDS for module in VERBS)),
                Portal(MaildropRealm(MaildirMaildrops(root, run=maybeDeferred)), [checker]),
                host=b"pop.example.net",
            )
        )
        shown = "".join(text for name, text in blocks(DOCS / "tour.rst", "text") if name)
        heard = ""
        for line in shown.splitlines():
            if line.startswith("C: "):
                heard += "".join(f"S: {said}".rstrip() + "\n" for said in self.said(client))
                heard += line + "\n"
                client.server.dataReceived(line[3:].encode("ascii") + b"\r\n")
        heard += "".join(f"S: {said}".rstrip() + "\n" for said in self.said(client))
        self.assertEqual(heard, shown)
        self.assertTrue(client.closed)
        client.lose()

    def said(self, client):
        """Return the lines that the server has sent."""
        return client.received().decode("ascii").splitlines()


class ShellTests(Base):
    """The shell lines of the README and of operating.rst are good ones."""

    def test_readme_tour(self):
        """The README's ten lines work as they stand, but for the port."""
        if shutil.which("curl") is None:
            raise SkipTest("there is no curl")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.addCleanup(self.kill_daemon)
        script = dict(blocks(README, "shell"))["tour"].replace("1110", str(port))
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", script.replace("curl ", "curl --silent --show-error ")],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            timeout=120,
            check=False,
        )
        said = done.stdout.decode("utf-8").replace("\r\n", "\n")
        self.assertEqual((done.returncode, done.stderr), (0, b""), said)
        self.assertEqual(said, "ann\tSCRAM-SHA-256\n1 29\nSubject: hello\n\nIt works.\n")

    def kill_daemon(self):
        """End the tour's server if the tour broke off."""
        # Trial takes a module's name "suppress" for a setting of its own.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(Path(self.directory, "twistd.pid").read_text()), signal.SIGTERM)

    def test_twistd_lines(self):
        """Every command line of twistd pop3 that is shown is one that it takes."""
        unit = dict(blocks(DOCS / "reference/operating.rst", "ini"))["unit"]
        start = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1]
        lines = [
            shlex.split(start),
            *commands(README, "twistd"),
            *commands(DOCS / "index.rst", "twistd"),
            *commands(DOCS / "reference/operating.rst", "twistd"),
        ]
        self.assertGreater(len(lines), 6)
        for name in ("var/mail", "srv/mail", "etc/popserv"):
            Path(self.directory, name).mkdir(parents=True)
        self.make_certificate(Path(self.directory, "etc/popserv"))
        for line in lines:
            arguments = line[line.index("pop3") + 1 :]
            with self.subTest(arguments=arguments):
                Options().parseOptions([self.place(each) for each in arguments])

    def make_certificate(self, directory):
        """Make a key and a certificate that TLS can show."""
        issued = issue("localhost")
        (directory / "cert.pem").write_bytes(issued.certificate_pem())
        (directory / "key.pem").write_bytes(issued.key_pem())

    def test_popserv_lines(self):
        """Every popserv line of operating.rst works, in the order shown."""
        for name in ("var/mail", "etc/popserv"):
            Path(self.directory, name).mkdir(parents=True)
        lines = commands(DOCS / "reference/operating.rst", "popserv")
        self.assertGreater(len(lines), 5)
        listed = io.StringIO()
        for line in lines:
            with (
                patch("sys.stdin", io.TextIOWrapper(io.BytesIO(b"secret\n"))),
                redirect_stdout(listed),
            ):
                code = cli.main([self.place(each) for each in line[1:]])
            self.assertEqual(code, 0, line)
        self.assertEqual(listed.getvalue(), "ann\tSCRAM-SHA-256\nbob\tAPOP\n")
