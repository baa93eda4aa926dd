"""What the documentation shows is run as shown, and what it lists is what the code has.

A block of embedding.rst is run as the module that its caption names; it reads its
endpoint and its root from the environment.  Of shell lines only the port and the
directories are replaced.
"""

import ast
import contextlib
import importlib
import io
import os
import poplib
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from contextlib import closing, redirect_stdout
from hashlib import md5
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from twisted.application.service import IServiceCollection
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.address import IPv6Address
from twisted.internet.defer import maybeDeferred, succeed
from twisted.internet.task import deferLater
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import eventAsText, globalLogPublisher
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from popserv.auth.passwords.schemes import SCHEMES
from popserv.auth.realm import MaildropRealm
from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.commandline import main as cli
from popserv.commandline.options import Options
from popserv.commands import capa, rfc1460, rfc1725, sasl, stls, utf8
from popserv.commands.dialects import DIALECTS
from popserv.core.command import CommandTable
from popserv.core.session import Session, State
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.memory import MemoryMaildrops
from popserv.server.protocol import POP3Factory
from popserv.testing import Conversation, MailboxContract
from tests.certificates import issue

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


EMBEDDING = dict(blocks(DOCS / "howto/embedding.rst", "python"))


def load(name):
    """Return a block of embedding.rst as a module, which other blocks can then import."""
    if name not in sys.modules:
        module = ModuleType(name)
        code = compile(EMBEDDING[name], f"embedding.rst: {name}", "exec")
        exec(code, module.__dict__)
        sys.modules[name] = module
    return sys.modules[name]


load("sqlmail")
load("memory_server")
SQLMaildropsTests = load("test_sqlmail").SQLMaildropsTests
ServerTests = load("test_memory_server").ServerTests


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
        return re.sub(r"(?<!\w)/(?=(?:var|srv|etc)/)", f"{self.directory}/", text)


class EmbeddingTests(Base):
    """The blocks of embedding.rst do what the page says."""

    def test_all_blocks_are_run(self):
        """Every block has a name, and the name is one that a test here runs."""
        here = Path(__file__).read_text("utf-8")
        for name in EMBEDDING:
            self.assertTrue(name)
            self.assertIn(f'("{name}"', here)

    def serve(self, arguments, path=None, **environment):
        """Start a server on a UNIX socket, which must come up; return a client of it."""
        path = path or os.path.join(self.directory, "socket")
        with open(os.path.join(self.directory, "log"), "w+") as log:
            server = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.directory,
                env={**self.environment, "POP3_ENDPOINT": f"unix:{path}", **environment},
                stdout=log,
                stderr=log,
            )
            self.addCleanup(server.wait)
            self.addCleanup(server.terminate)
            end = time.monotonic() + WAIT
            while True:
                try:
                    return UnixPOP3(path, timeout=WAIT)
                except OSError:
                    if time.monotonic() > end or server.poll() is not None:
                        log.seek(0)
                        self.fail(log.read())
                    time.sleep(0.05)

    def write(self, name, path):
        """Put a block into our directory."""
        with open(os.path.join(self.directory, path), "w", encoding="utf-8") as file:
            file.write(EMBEDDING[name])

    def fetch(self, client):
        """Log in as ann and return the lines of the first message."""
        with closing(client):
            client.user("ann")
            client.pass_("secret")
            _, lines, _ = client.retr(1)
            client.quit()
            return lines

    def test_composed_server(self):
        """The first script is a server as it stands."""
        self.write("memory_server", "memory_server.py")
        client = self.serve(["memory_server.py"])
        self.assertEqual(self.fetch(client), [b"Subject: hello", b"", b"Hello, Ann."])

    def test_tac(self):
        """The .tac file is run by twistd, and serves a Maildir to a user of its users file."""
        self.write("pop3_tac", "pop3.tac")
        new = Path(self.directory, "mail", "ann", "new")
        new.mkdir(parents=True)
        (new / "1.1.host").write_bytes(b"Subject: hello\n\nIt works.\n")
        users = Path(self.directory, "mail", ".users")
        users.write_bytes(b"ann:{PLAIN}secret\n")
        users.chmod(0o600)
        client = self.serve(
            ["-c", TWISTD, "--pidfile=", "-ny", "pop3.tac"], MAIL_ROOT=str(users.parent)
        )
        self.assertEqual(self.fetch(client), [b"Subject: hello", b"", b"It works."])

    def test_store_is_complete(self):
        """The store of one's own is tested by the contract and nothing less."""
        load("test_sqlmail")
        self.assertTrue(issubclass(SQLMaildropsTests, MailboxContract))

    def converse(self, checkers):
        """Return a conversation with a server that has an empty maildrop, and its greeting."""
        portal = Portal(MaildropRealm(MemoryMaildrops()), checkers)
        client = Conversation(POP3Factory(CommandTable(rfc1725.COMMANDS), portal, host=b"h"))
        self.addCleanup(client.lose)
        return client, client.received()

    def test_asking_checker(self):
        """The checker lets in whom its coroutine function lets in, and offers no APOP."""

        async def is_right(name, password):
            return await succeed((name, password) == (b"ann", b"secret"))

        client, greeting = self.converse([load("asking").AskingChecker(is_right)])
        self.assertEqual(greeting, b"+OK POP3 server ready\r\n")
        client.send(b"USER ann\r\nPASS guess\r\n")
        client.clock.advance(2)
        self.assertIn(b"-ERR [AUTH]", client.received())
        self.assertIn(b"+OK ann's maildrop", client.send(b"USER ann\r\nPASS secret\r\n"))

    def test_secrets_checker(self):
        """The APOP checker makes greetings carry a timestamp, and wants the right digest."""
        client, greeting = self.converse([load("asking").SecretsChecker({b"ann": b"tanstaaf"})])
        timestamp = re.search(rb"<.*>", greeting)[0]
        digest = self.digest(timestamp + b"tanstaaf")
        client.send(b"APOP ann " + self.digest(timestamp) + b"\r\n")
        client.clock.advance(2)
        self.assertIn(b"-ERR [AUTH]", client.received())
        self.assertIn(b"+OK ann's maildrop", client.send(b"APOP ann %b\r\n" % digest))
        self.assertEqual(self.converse([load("asking").SecretsChecker({})])[1][-3:], b"y\r\n")

    def digest(self, text):
        """Return the MD5 digest that APOP sends."""
        return md5(text, usedforsecurity=False).hexdigest().encode("ascii")

    def test_own_mechanism(self):
        """The mechanism of one's own is announced, and lets in who has a ticket."""
        checker = InMemoryUsernamePasswordDatabaseDontUse(ann=b"7")
        portal = Portal(MaildropRealm(MemoryMaildrops()), [checker])
        client = Conversation(POP3Factory(load("xticket").table, portal))
        self.assertIn(b"SASL PLAIN LOGIN X-TICKET\r\n", client.send(b"CAPA\r\n"))
        self.assertEqual(client.send(b"AUTH X-TICKET\r\n"), b"+ eW91ciB0aWNrZXQ/\r\n")
        self.assertIn(b"+OK ann's maildrop", client.send(b64encode(b"ann 7") + b"\r\n"))
        client.lose()

    def test_old_times(self):
        """The server of sessions without a login serves the user whose process asks, with LAST."""
        name = pwd.getpwuid(os.geteuid()).pw_name
        new = Path(self.directory, "var", "mail", name, "new")
        new.mkdir(parents=True)
        (new / "1.1.host").write_bytes(b"x\n")
        path = os.path.join(self.directory, "sock")
        script = self.place(EMBEDDING.get("old_times")).replace("/run/pop3.sock", path)
        Path(self.directory, "old_times.tac").write_text(script)
        client = self.serve(["-c", TWISTD, "--pidfile=", "-ny", "old_times.tac"], path=path)
        with closing(client):
            self.assertIn(b"POP3 server ready, %b's maildrop has 1" % name.encode(), client.welcome)
            self.assertEqual(client._shortcmd("LAST"), b"+OK 0")
            client.quit()

    def test_tls_server(self):
        """The server with TLS listens on both ports, and has every command."""
        for name in ("var/mail", "etc/popserv"):
            Path(self.directory, name).mkdir(parents=True)
        issued = issue("localhost")
        Path(self.directory, "etc/popserv/cert.pem").write_bytes(issued.certificate_pem())
        Path(self.directory, "etc/popserv/key.pem").write_bytes(issued.key_pem())
        names = {}
        exec(re.sub(r"/(?=var|etc)", f"{self.directory}/", EMBEDDING.get("tls_server")), names)
        self.assertEqual({entry.keyword.decode("ascii") for entry in names["table"]}, KEYWORDS)
        self.assertIs(names["factory"].tls, names["certificates"])
        ports = [each.endpoint._port for each in IServiceCollection(names["application"])]
        self.assertEqual(ports, [110, 995])

    def test_own_command(self):
        """The command of one's own is answered before a login."""
        client = Conversation(POP3Factory(load("xday").table, Portal(None)))
        client.received()
        self.assertRegex(client.send(b"xday\r\n"), rb"^\+OK \d{4}-\d\d-\d\d\r\n$")
        client.lose()


class MailRealmTests(TestCase):
    """The realm of twisted.mail in embedding.rst is served; its mail is counted in steps."""

    async def test_mail_realm(self):
        """Octets are popserv's, and a message is lost at QUIT alone."""
        module = load("notices")
        client = Conversation(module.factory)
        said = client.send(b"USER ann\r\nPASS secret\r\n")
        while b"maildrop" not in said:
            await deferLater(reactor, 0.01)
            said += client.received()
        self.assertIn(b"2 messages (38 octets)", said)
        self.assertEqual(client.send(b"DELE 1\r\nUIDL 2\r\n")[-16:], b"+OK 2 notice-1\r\n")
        self.assertTrue(module.notices[0])
        client.send(b"QUIT\r\n")
        self.assertTrue(client.closed)
        self.assertEqual(module.notices, [b"", b"Subject: two\n\n2\n"])
        client.lose()


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
        client = Conversation(
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


VERBS = (rfc1725, capa, stls, sasl, utf8)
KEYWORDS = {entry.keyword.decode("ascii") for module in VERBS for entry in module.COMMANDS}


class Everybody:
    """A place to log in that offers everything."""

    def offers(self, credentials):
        """Offer it."""
        return True


class ListingTests(SynchronousTestCase):
    """What the documentation lists is what there is."""

    def test_commands(self):
        """The table of commands.rst has every command in order, its states and its module."""
        shown = [(row[0], row[1], row[4]) for row in tables(DOCS / "reference/commands.rst")[0]]
        there = [
            (
                entry.keyword.decode("ascii"),
                ", ".join(state.name for state in State if state in entry.states),
                module.__name__.rpartition(".")[2],
            )
            for module in VERBS
            for entry in module.COMMANDS
        ]
        self.assertEqual(shown, there)

    def test_dialects(self):
        """The table of history.rst has every command of every dialect, and where it is from."""
        rows = tables(DOCS / "history.rst")[0]
        names = ["pop-revised", "rfc1225", "rfc1460", "rfc1725", "modern"]
        self.assertEqual(set(names), set(DIALECTS))
        shown = {
            name: {row[0].encode("ascii"): row[at] for row in rows if row[at]}
            for at, name in enumerate(names, 1)
        }
        for name, sections in shown.items():
            dialect = DIALECTS[name]
            self.assertEqual(set(sections), {entry.keyword for entry in dialect.commands}, name)
            form = {"pop-revised": "[ATUO](, U)?", "rfc1225": "[ATUO](, U)?", "modern": ".+: .+"}
            for section in sections.values():
                self.assertRegex(section, f"^{form.get(name, '[4-7](, 6)?')}$")

    def test_readme_modules(self):
        """Every module that the README's table of RFCs names can be imported."""
        rows = tables(README)[0]
        self.assertGreater(len(rows), 10)
        for _, _, module in rows:
            self.assertEqual(importlib.import_module(module).__name__, module)

    def test_readme_commands(self):
        """The README's table names every command."""
        shown = {word for _, what, _ in tables(README)[0] for word in what.split(", ")}
        self.assertLessEqual(KEYWORDS, shown)

    def test_help_commands(self):
        """--help names every command, its module, and which can be left out."""
        shown = str(Options())
        for module in (*VERBS, rfc1460):
            name = module.__name__.rpartition(".")[2]
            first = module.COMMANDS[0].keyword.decode("ascii")
            self.assertRegex(shown, rf"RFC \d{{4}} +{name} +{first}\b")
        for keyword in {*KEYWORDS, "LAST", "RPOP"}:
            self.assertRegex(shown, rf"\b{keyword}\b")
        self.assertIn("AUTH, UTF8 and LANG can be left out by --without", shown)

    def test_mechanisms(self):
        """The table of commands.rst has every mechanism, in order."""
        shown = [row[0] for row in tables(DOCS / "reference/commands.rst")[3]]
        self.assertEqual(shown, [each.name.decode("ascii") for each in MECHANISMS])

    def test_capabilities(self):
        """The table of commands.rst has every capability that there is."""
        shown = {
            name
            for row in tables(DOCS / "reference/commands.rst")[2]
            for name in row[0].split(", ")
        }
        commands = capa.commands(implementation=b"x", login_delay=1)
        table = CommandTable(rfc1725.COMMANDS, commands, *(each.COMMANDS for each in VERBS[2:]))
        session = Session(Everybody(), can_start_tls=True)
        there = {line.split()[0].decode("ascii") for line in table.capabilities(session)}
        self.assertEqual(shown, there)

    def test_options(self):
        """operating.rst explains every option, under its long name and its short one."""
        explained = re.findall(
            r"^``--[a-z-]+``(?:, ``-[a-z]``)?$",
            (DOCS / "reference/operating.rst").read_text("utf-8"),
            re.MULTILINE,
        )
        shown = {option for line in explained for option in re.findall("``(.+?)``", line)}
        options = Options()
        there = {f"--{name.rstrip('=')}" for name in options.longOpt}
        there |= {f"-{letter}" for letter in options.shortOpt if letter != ":"}
        self.assertEqual(shown, there)

    def test_schemes(self):
        """operating.rst's table has every password scheme, and no other."""
        found = [table for table in tables(DOCS / "reference/operating.rst") if "APOP" in table[-1]]
        shown = [scheme for row in found[0] for scheme in row[0].split(", ")]
        self.assertEqual(len(shown), len(set(shown)))
        self.assertEqual(set(shown), {scheme.decode("ascii") for scheme in SCHEMES})

    def test_clients(self):
        """Each test that clients.rst names is there."""
        rows = [row for table in tables(DOCS / "reference/clients.rst") for row in table if row[2]]
        self.assertGreater(len(rows), 25)
        for *_, named in rows:
            places, _, test = named.partition(": ")
            for place in places.split(", "):
                path = ROOT / "tests" / place
                is_transcript = place.startswith("transcripts/")
                text = path.with_suffix(".txt" if is_transcript else ".py").read_text("latin-1")
                self.assertIn(f"def {test}(" if test else "", text, named)

    def test_log(self):
        """operating.rst or oauth.rst explains every line that popserv writes to the log."""
        pages = ("reference/operating", "howto/oauth", "howto/rhosts", "howto/pre-authenticated")
        explained = " ".join(words(DOCS / f"{page}.rst") for page in pages)
        found = [text for path in (ROOT / "popserv").rglob("*.py") for text in logged(path)]
        self.assertGreater(len(found), 8)
        for text in found:
            for piece in re.split(r"\{[^}]*\}", text):
                self.assertIn(piece.strip(), explained, text)

    def test_fail2ban(self):
        """The filter for fail2ban finds the address in the line of a failed login, and no other."""
        block = dict(blocks(DOCS / "reference/operating.rst", "ini"))["fail2ban"]
        pattern = re.search(r"^failregex = (.*)$", block, re.MULTILINE)[1]
        host = r"(?P<host>[0-9A-Fa-f.:]+)"
        find = re.compile(pattern.replace("<HOST>", host)).search
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        name = b"] 198.51.100.1:1: b'x' was told 'name or password is wrong': x"
        checkers = [InMemoryUsernamePasswordDatabaseDontUse()]
        portal = Portal(MaildropRealm(MemoryMaildrops()), checkers)
        factory = POP3Factory(CommandTable(rfc1725.COMMANDS), portal, allow_plaintext=True)
        for peer in ("192.0.2.1", "2001:db8::1"):
            conversation = Conversation(factory, IPv6Address("TCP", peer, 4321))
            conversation.send(b"USER " + name.replace(b" ", b"_") + b"\r\nPASS x\r\n")
            line = eventAsText(log[-1], includeTimestamp=False)
            for stamp in ("", "2026-11-21T09:52:34+0000 "):
                self.assertEqual(find(stamp + line)["host"], peer, line)
            conversation.lose()

    def test_response_codes(self):
        """commands.rst's table has every response code that an error carries."""
        shown = {row[0].strip("[]") for row in tables(DOCS / "reference/commands.rst")[1]}
        source = (ROOT / "popserv" / "errors.py").read_text("utf-8")
        self.assertEqual(shown, set(re.findall(r'    code = b"(.+)"', source)))


def logged(path):
    """Yield the format of each line that a module may log."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("debug", "info", "warn", "error", "critical", "failure")
            and "log" in ast.unparse(node.func.value)
        ):
            yield ast.literal_eval(node.args[0])
