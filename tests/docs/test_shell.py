"""The sessions and the command lines that the documentation shows.

Only the port and the directories are replaced.
"""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from examples.cluster.processes import free_port
from popserv.auth.realm import MaildropRealm
from popserv.auth.services import pam
from popserv.commandline import main as cli
from popserv.commandline.session import Options as SessionOptions
from popserv.core.command import CommandTable
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.options.server import Options
from popserv.server.factory import POP3Factory
from popserv.testing import MemoryClient
from tests.certificates import issue, make_authority
from tests.docs.harness import (
    DOCS,
    README,
    ROOT,
    VERBS,
    Base,
    blocks,
    commands,
)

PAGES = sorted(page for page in DOCS.rglob("*.rst") if "_build" not in page.parts)


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
    """The command lines that the README and the documentation show are valid."""

    def test_readme_tour(self):
        """The README's ten lines work as they stand, but for the port."""
        if shutil.which("curl") is None:
            raise SkipTest("there is no curl")
        port = free_port()
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
        """Each command line of twistd pop3 in the README and the documentation is accepted."""
        shown = [line for page in (README, *PAGES) for line in commands(page, "twistd")]
        lines = [line for line in shown if "pop3" in line]
        self.assertGreater(len(lines), 12)
        for name in ("var/mail", "srv/mail", "etc/popserv"):
            Path(self.directory, name).mkdir(parents=True)
        self.make_files(Path(self.directory, "etc/popserv"))
        services = Path(self.directory, "etc/pam.d")
        services.mkdir()
        (services / "pop3").touch()
        self.patch(pam, "DIRECTORIES", (str(services),))
        for line in lines:
            arguments = line[line.index("pop3") + 1 :]
            with self.subTest(arguments=arguments):
                Options().parseOptions([self.place(each) for each in arguments])

    def make_files(self, directory):
        """Write the files that the command lines name: for TLS and for checkers."""
        authority = make_authority()
        issued = issue("localhost", issuer=authority)
        (directory / "cert.pem").write_bytes(issued.certificate_pem())
        (directory / "key.pem").write_bytes(issued.key_pem())
        certbot = directory.with_name("letsencrypt") / "live/pop.example.org"
        certbot.mkdir(parents=True)
        (certbot / "fullchain.pem").write_bytes(issued.certificate_pem())
        (certbot / "privkey.pem").write_bytes(issued.key_pem())
        (directory / "ca.pem").write_bytes(authority.certificate_pem())
        (directory / "rhosts").write_text("192.0.2.1 ann =\n")
        store = directory / "store.toml"
        store.touch(mode=0o600)
        store.write_text('conninfo = "host=db1.example.org dbname=mail"\n')
        (directory / "oauth.ini").write_text(
            "[oauth]\njwks = https://provider.example/certs\n"
            "issuer = https://provider.example\naudience = popserv\n"
        )
        programs = Path(self.directory, "usr/local/bin")
        programs.mkdir(parents=True)
        for name in ("one-user", "checkpassword"):
            program = programs / name
            program.write_text(dict(blocks(DOCS / "howto/checkpassword.rst", "sh"))["one-user"])
            program.chmod(0o755)
        for kind in ("sql", "ldap"):
            file = directory / f"{kind}.toml"
            file.write_text(dict(blocks(DOCS / f"howto/{kind}.rst", "toml"))[kind])
            file.chmod(0o600)

    def test_popserv_lines(self):
        """Every popserv command line of a page works, in the order shown."""
        lines = {page: commands(page, "popserv") for page in PAGES}
        self.assertGreater(sum(map(len, lines.values())), 6)
        printed = {page: self.run_popserv(shown) for page, shown in lines.items()}
        users = DOCS / "howto/users.rst"
        self.assertEqual(printed[users], dict(blocks(users, "text"))["users"])

    def run_popserv(self, lines):
        """Run the lines of one page, which starts without users; return what they print."""
        for name in ("var/mail", "srv/mail", "etc/popserv"):
            shutil.rmtree(Path(self.directory, name), ignore_errors=True)
            Path(self.directory, name).mkdir(parents=True)
        printed = io.StringIO()
        for line in lines:
            arguments = [self.place(each) for each in line[1:]]
            if arguments[0] == "session":
                SessionOptions().parseOptions(arguments[1:])
                continue
            with (
                patch("sys.stdin", io.TextIOWrapper(io.BytesIO(b"secret\n"))),
                redirect_stdout(printed),
                # There is no Maildir yet, which "add" says.
                redirect_stderr(io.StringIO()),
            ):
                code = cli.main(arguments)
            self.assertEqual(code, 0, line)
        return printed.getvalue()
