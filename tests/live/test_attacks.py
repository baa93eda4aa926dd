"""Each class of vulnerability that POP3 servers have had, tried on a running server.

``docs/reference/attacks.rst`` describes the classes, in the same order, and names further tests.
"""

import ast
import contextlib
import fcntl
import os
import re
import signal
import socket
import ssl
import stat
from base64 import b64encode
from hashlib import md5
from itertools import count, product
from pathlib import Path

from cryptography import x509

import popserv.auth
from popserv.auth.passwords.users_file import default_path
from popserv.auth.passwords.users_file_editing import set_secret
from popserv.auth.sasl.mechanisms import MECHANISMS
from popserv.commands.dialects import MODERN
from popserv.core.grammar import MAX_LINE, MAX_SASL_LINE
from tests.certificates import issue, make_authority
from tests.live.harness import (
    LOOPBACK,
    TIMEOUT,
    Connection,
    Server,
    ServerTestCase,
    deliver,
    split_lines,
    temporary_directory,
    until,
)
from tests.live.test_floods import RESET

MB = 1 << 20
FAILED = b"-ERR [AUTH] authentication failed"
REFUSED_USERS = {
    "unknown": None,
    "wrong": "{PLAIN}other",
    "disabled": "{PLAIN}secret::::::nologin",
    "expired": "{PLAIN}secret::::::popserv_nologin=expired",
    "elsewhere": "{PLAIN}secret::::::allow_nets=192.0.2.1",
    "later": "{PLAIN}secret::::::delay_until=4000000000",
    "digest-only": "{APOP}secret",
    "malformed": "{SSHA}!",
}
"""Users who cannot log in with the password "secret", and the rest of their lines."""

SECRET_NAME = re.compile(r"secret|passw|digest|proof|token|signature|\bmac\b|_key|nonce|credential")
"""The names of values that a client must not be able to find out by their comparison."""


MBOX_MESSAGE = b"From ann@example.org Mon Jan  5 10:00:00 2026\nSubject: x\n\nx\n\n"


def add_message(option, path):
    """Add a message to a Maildir or an mbox file, which may be missing."""
    if option == "--maildir":
        deliver(path, [b"x\n"])
    else:
        with path.open("ab") as file:
            file.write(MBOX_MESSAGE)


def plain(name, password=b"secret"):
    """Return the argument of AUTH PLAIN."""
    return b"PLAIN " + b64encode(b"\0" + name + b"\0" + password)


def is_about_length(node):
    """Return whether an operand is a length, a count or nothing."""
    called = node.func if isinstance(node, ast.Call) else None
    name = getattr(called, "id", getattr(called, "attr", ""))
    return name in ("len", "count") or (isinstance(node, ast.Constant) and not node.value)


def compared_secrets(path):
    """Return the comparisons by ``==`` and ``!=`` of a module whose operands seem to be secret."""
    return [
        f"{path.name}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Compare)
        and isinstance(node.ops[0], ast.Eq | ast.NotEq)
        and SECRET_NAME.search(ast.unparse(node))
        and not any(map(is_about_length, (node.left, *node.comparators)))
    ]


class AttackCase(ServerTestCase):
    """A server with a port for STLS, a port for TLS, and one that proxies connect to."""

    def setUp(self):
        """Start the server, which makes the files."""
        self.assertIsNone(self.server.process.poll())

    def new_server(self):
        """Start a server whose clients can have certificates."""
        authority = make_authority()
        files = temporary_directory()
        (files / "certificates").mkdir()
        for host in ("localhost", "pop.example.org"):
            file = files / "certificates" / f"{host}.pem"
            file.write_bytes(issue(host, issuer=authority).pem())
        (files / "ca.pem").write_bytes(authority.certificate_pem())
        AttackCase.authority, AttackCase.files = authority, files
        return Server(
            *("--listen", LOOPBACK, "--listen", f"haproxy:{LOOPBACK}", "--listen-tls", LOOPBACK),
            *("--certificate", files / "certificates", "--client-ca", files / "ca.pem"),
            *("--sasl", ",".join(each.name.decode() for each in MECHANISMS)),
            *("--folder-delimiter", "+", "--control", f"unix:{files}/control", *self.options),
        )

    def context(self, client=None):
        """Return the context of a TLS client, perhaps with a certificate."""
        context = ssl.create_default_context(cafile=self.files / "ca.pem")
        if client is not None:
            file = temporary_directory(self) / "client.pem"
            file.write_bytes(client.pem())
            context.load_cert_chain(file)
        return context

    def connect_tls(self, client=None, host="localhost"):
        """Return a connection to the port for TLS, which asks for the certificate of a host."""
        context = self.context(client)
        context.check_hostname = False
        connection = Connection(
            ("127.0.0.1", self.server.ports[2]),
            wrap=lambda sock: context.wrap_socket(sock, server_hostname=host),
        )
        self.addCleanup(connection.abandon)
        return connection

    def connect(self, port=0, header=b""):
        """Return a connection."""
        connection = Connection(("127.0.0.1", self.server.ports[port]), header=header)
        self.addCleanup(connection.abandon)
        return connection

    def exchange(self, *inputs):
        """Send each input on a connection of its own, and end it there; return all replies."""
        connections = []
        for octets in inputs:
            connections.append(self.connect())
            with contextlib.suppress(OSError):
                # Of a line that is too long, the server reads only the beginning.
                connections[-1].socket.sendall(octets)
                connections[-1].socket.shutdown(socket.SHUT_WR)
        return [connection.rest() for connection in connections]

    def add_users(self, lines):
        """Add lines to the users file, which are names and what follows them."""
        with Path(default_path(str(self.server.root))).open("a", encoding="latin-1") as file:
            file.writelines(f"{name}:{rest}\n" for name, rest in lines.items() if rest)

    def assert_alive(self):
        """Fail unless the server serves others, at once, and has logged no exception."""
        name, _ = self.server.add_user([b"x\n"])
        self.assertEqual(self.server.login(name).close()[:3], b"+OK")
        self.assertNotIn("Traceback", self.server.log)

    def assert_bounded(self, attack, times, octets=MB):
        """Call a function so many times twice; fail if the memory grows in the second round.

        It must not grow by these octets, neither afterwards nor meanwhile.
        """
        for _ in range(times):
            attack()
        before = self.server.reset_peak()
        for _ in range(times):
            attack()
        self.assertLess(self.server.peak - before, octets)


class AttackTests(AttackCase):
    """One test for each class."""

    def test_stls_injection(self):
        """What follows STLS in cleartext is neither run nor answered (RFC 2595 section 4)."""
        for injected in (b"USER x\r\nCAPA\r\nNO", b"US", b"APOP x 0\r\n", b"AUTH PLAIN\r\n"):
            connection = self.connect()
            connection.socket.sendall(b"STLS\r\n" + injected)
            self.assertEqual(connection.line(), b"+OK begin TLS negotiation")
            connection.file.close()
            wrapped = self.context().wrap_socket(connection.socket, server_hostname="localhost")
            self.addCleanup(wrapped.close)
            wrapped.sendall(b"PASS secret\r\n")
            self.assertEqual(wrapped.recv(100), b"-ERR send USER first\r\n", injected)

    def test_stls_stripping(self):
        """A client from elsewhere is offered no password login without TLS, and is refused it."""
        remote = self.connect(1, b"PROXY TCP4 192.0.2.9 192.0.2.1 4711 110\r\n")
        self.assertEqual(remote.ask(b"CAPA")[:3], b"+OK")
        before = remote.lines()
        self.assertIn(b"STLS", before)
        self.assertNotIn(b"USER", before)
        self.assertNotIn(b"PLAIN", b" ".join(before).split())
        needs_tls = b"-ERR cleartext passwords are not allowed without TLS"
        self.assertEqual(remote.ask(b"USER ann"), needs_tls)
        # Not even the initial response is sent first by a client that asks for a challenge.
        self.assertEqual(remote.ask(b"AUTH PLAIN")[:4], b"-ERR")
        encrypted = self.connect_tls()
        self.assertEqual(encrypted.ask(b"CAPA")[:3], b"+OK")
        after = encrypted.lines()
        self.assertIn(b"USER", after)
        self.assertNotIn(b"STLS", after)
        self.assertEqual(encrypted.ask(b"STLS")[:4], b"-ERR")
        session, _ = self.login()
        self.assertEqual(session.ask(b"STLS")[:4], b"-ERR")

    def test_unquoted_dots(self):
        """No message can end its own response and go on as the server (RFC 1725 section 3)."""
        forged = b".\n-ERR forged\n+OK forged\n.\r\n..\n.x"
        messages = [forged, b".", b".\n", b"..\r\n", b"\n.\n", b"\r.\r\n", b"a\r.\r\n.\r", b"\n\n."]
        # Dots at the ends of the pieces in which files are read and sent.
        for size in (1 << 14, 1 << 16, 1 << 17):
            messages += [b"x" * (size - before) + b"\n.\n" + forged for before in range(4)]
        session, _ = self.login(messages)
        for n, message in enumerate(messages, 1):
            for command in (b"RETR %d" % n, b"TOP %d 1000000" % n):
                self.assertEqual(session.ask(command)[:3], b"+OK")
                self.assertEqual(session.lines(), split_lines(message), (command, message[-50:]))

    def test_apop_collisions(self):
        """The timestamp of APOP is ASCII, unpredictable, and never the same (RFC 1725 section 7).

        Colliding timestamps, by which an attacker in the middle finds out secrets, contain octets
        that are not in ASCII; only clients can refuse them.
        """
        name, _ = self.server.add_user(apop=True)
        timestamps = set()
        for _ in range(100):
            connection = self.connect()
            found = re.fullmatch(rb"\+OK [^<]* (<\d+\.\d+@[!-=?-~]+>)", connection.greeting)
            timestamps.add(found[1])
            connection.abandon()
        self.assertEqual(len(timestamps), 100)
        # A digest of another connection's timestamp is refused.
        digest = md5(timestamps.pop() + b"secret").hexdigest()
        line = b"APOP %b %b" % (name.encode(), digest.encode())
        self.assertEqual(self.connect().ask(line), FAILED)

    def test_disclosed_names(self):
        """No reply tells whether a user exists (RFC 1725 section 12), nor why one is refused."""
        self.add_users(REFUSED_USERS)
        names = [name.encode() for name in REFUSED_USERS]
        attempts = [b"USER %b\r\nPASS secret\r\n" % name for name in names]
        attempts += [b"AUTH %b\r\n" % plain(name) for name in names]
        attempts += [b"APOP %b %032d\r\n" % (name, 0) for name in names]
        replies = set(self.exchange(*attempts))
        self.assertEqual(replies, {b"+OK send PASS\r\n" + FAILED + b"\r\n", FAILED + b"\r\n"})

    def test_time_of_comparisons(self):
        """Secrets are compared by ``compare_digest`` wherever clients are authenticated."""
        modules = Path(popserv.auth.__file__).parent.rglob("*.py")
        self.assertEqual([found for path in modules for found in compared_secrets(path)], [])

    def test_certificates_without_names(self):
        """A certificate without a name logs nobody in, whatever name the client gives."""
        name, _ = self.server.add_user()
        argument = b64encode(name.encode())
        common_name = [(x509.NameOID.COMMON_NAME, name)]
        nameless = issue(issuer=self.authority, subject=())
        host = issue("host.example.org", issuer=self.authority, subject=common_name)
        for client in (nameless, host):
            for sent in (argument, b"="):
                reply = self.connect_tls(client).ask(b"AUTH EXTERNAL " + sent)
                self.assertEqual(reply[:4], b"-ERR", sent)
        named = issue(issuer=self.authority, subject=common_name)
        self.assertEqual(self.connect_tls(named).ask(b"AUTH EXTERNAL " + argument)[:3], b"+OK")

    def test_invalid_base64(self):
        """Malformed SASL messages fail at once, and hurt nobody else."""
        broken = (b"!", b"====", b"A", b"A===", b"\0\0\0\0", b"\xff\xff\xff\xff", b"AAAA" * 20_000)
        # Those of some mechanism, without some of their parts.
        parts = (b"a", b"a\0b", b"\0", b"\0\0", b"\0" * 4, b"n,,", b"n,,n=,r=", b"user=\1")
        messages = [b"*", b"", b"=", *broken, *map(b64encode, parts)]
        inputs = [
            b"AUTH %b%b\r\n" % (mechanism.name, sent)
            for mechanism, message in product(MECHANISMS, messages)
            for sent in (b" " + message, b"\r\n" + message)
        ]
        # One after the other, while others log in.
        others = [self.connect() for _ in range(5)]
        for replies in self.exchange(*inputs):
            for line in replies.splitlines():
                self.assertRegex(line, rb"\A(-ERR |\+ )")
        for other in others:
            self.assertEqual(other.ask(b"NOOP")[:4], b"-ERR")
        self.assert_alive()

    def test_aborted_exchanges(self):
        """Exchanges that clients abort leave nothing behind."""

        def abort():
            connection = self.connect()
            self.assertEqual(connection.ask(b"AUTH LOGIN")[:2], b"+ ")
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.abandon()

        self.assert_bounded(abort, 3000)
        self.assert_alive()

    def test_server_names(self):
        """The names of servers that clients ask for (SNI) are not remembered."""
        numbers, context = count(), self.context()
        context.check_hostname = False
        rest = ".".join("x" * 60 for _ in range(3))
        reply = bytearray(1 << 14)

        def send_name():
            # The server reads the name at the beginning of a handshake, and replies.
            output = ssl.MemoryBIO()
            name = f"{next(numbers)}.{rest}.example.org"
            client = context.wrap_bio(ssl.MemoryBIO(), output, server_hostname=name)
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
            with socket.create_connection(("127.0.0.1", self.server.ports[2]), TIMEOUT) as sock:
                sock.sendall(output.read())
                self.assertTrue(sock.recv_into(reply))
                # A record with a handshake message, and no alert.
                self.assertEqual(reply[0], 22)

        self.assert_bounded(send_name, 2000, MB // 2)
        connection = self.connect_tls(host=f"{next(numbers)}.{rest}.example.org")
        self.assertEqual(connection.greeting[:3], b"+OK")

    def test_invalid_utf8(self):
        """User names that are not UTF-8 fail like others."""
        names = (
            *(b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xcc", b"\x80" * 200),
            *("\u202e".encode(), "\ufeffann".encode(), "\u0131".encode(), b"\xe2\x84"),
        )
        inputs = [b"USER %b\r\nPASS \xff\xfe\r\n" % name for name in names]
        inputs += [b"AUTH %b\r\n" % plain(name, b"\xff") for name in names]
        for octets, replies in zip(inputs, self.exchange(*inputs), strict=True):
            self.assertEqual(replies.splitlines()[-1], FAILED, octets)
        self.assert_alive()

    def test_injected_names(self):
        """Names are neither templates nor parts of queries."""
        names = (
            b"%u",
            b"%{user}",
            b"' OR ''='",
            b'"; DROP TABLE users',
            b"*)(uid=*",
            b"\\2a",
            b"$1",
        )
        for octets, replies in zip(
            names, self.exchange(*(b"AUTH %b\r\n" % plain(name) for name in names)), strict=True
        ):
            self.assertEqual(replies, FAILED + b"\r\n", octets)
        self.assert_alive()

    def test_injected_passwords(self):
        """A password is a value, whatever octets it has."""
        name, _ = self.server.add_user()
        passwords = (
            *(
                b"secret\t",
                b"secret\tnologin",
                b"x\tskip_password_check=",
                b"\tsecret",
                b"secret\n",
            ),
            *(b"secret\r\nQUIT", b"{PLAIN}secret", b"secret:", b"' OR ''='", b"secret\xff"),
        )
        attempts = [b"AUTH %b\r\n" % plain(name.encode(), each) for each in passwords]
        for octets, replies in zip(passwords, self.exchange(*attempts), strict=True):
            self.assertEqual(replies, FAILED + b"\r\n", octets)
        log_in = b"USER %b\r\nPASS " % name.encode()
        lines = [each for each in passwords if b"\n" not in each]
        for octets, replies in zip(
            lines, self.exchange(*(log_in + each + b"\r\n" for each in lines)), strict=True
        ):
            self.assertEqual(replies, b"+OK send PASS\r\n" + FAILED + b"\r\n", octets)

    def test_shared_cache(self):
        """A cached password lets its own user in, and no other, also one with the same password."""
        ann, _ = self.server.add_user()
        ben, _ = self.server.add_user(password="another")
        carl, _ = self.server.add_user([b"x\n"])
        for _ in range(2):
            self.server.login(ben, "another").close()
            for name, listing in ((ann, b"+OK 0 0"), (carl, b"+OK 1 3")):
                session = self.server.login(name)
                self.assertEqual(session.ask(b"STAT"), listing)
                session.close()
        crossed = [plain(ann.encode(), b"another"), plain(ben.encode())]
        for replies in self.exchange(*(b"AUTH %b\r\n" % each for each in crossed)):
            self.assertEqual(replies, FAILED + b"\r\n")

    def test_equal_checkers(self):
        """Of several checkers of one kind, also with one file, each has its own rules."""
        files = temporary_directory(self)
        texts = {
            "first": "ann:{PLAIN}secret::::::nologin\nben:{PLAIN}secret::::::allow_nets=::2\n",
            "second": "ann:{PLAIN}secret\nben:{PLAIN}secret\ncarl:{PLAIN}secret\n",
        }
        for name, text in texts.items():
            (files / name).write_text(text)
            (files / name).chmod(0o600)
        arguments = [f"--auth=passwd-file:{files / name}" for name in ("first", "first", "second")]
        server = Server(*arguments)
        self.addCleanup(server.stop)
        connections = [server.connect() for _ in range(3)]
        for each, name in zip(connections, (b"ann", b"ben", b"carl"), strict=True):
            self.addCleanup(each.abandon)
            each.socket.sendall(b"AUTH %b\r\n" % plain(name))
        *refused, accepted = [each.line() for each in connections]
        self.assertEqual((refused, accepted[:3]), ([FAILED] * 2, b"+OK"))

    def test_damaged_files(self):
        """A file of sizes that is damaged, or says anything, is made again."""
        messages = [b"Subject: %d\n\nx\n" % n for n in range(60)]
        name, maildir = self.server.add_user(messages)
        self.server.login(name).close()
        file = maildir / "popserv-sizes"
        until(file.exists, "the file of sizes")
        whole = file.read_bytes()
        # A server that has the sizes in memory would not read the file.
        for octets in (whole[: len(whole) // 2], b"\xff" * len(whole)):
            file.write_bytes(octets)
            server = Server(root=self.server.root)
            session = server.login(name)
            self.assertEqual(session.ask(b"STAT"), b"+OK 60 %d" % sum(len(m) + 3 for m in messages))
            session.close()
            server.stop()
            self.assertNotIn("Traceback", server.log)

    def test_log_injection(self):
        """A name is a value in the log, and neither a format nor a line nor a control character."""
        names = {
            b"%n%s%p": "%n%s%p",
            b"{log_source}": "{log_source}",
            b"a\x1b[2J\x7f": r"a\x1b[2J\x7f",
            b'" by PASS': r"\" by PASS",
            b"a\r\nfake: login": r"a\r\nfake: login",
            "\u2028\u202e".encode(): r"\u2028\u202e",
        }
        # Other tests use names with other characters.
        before = len(self.server.log)
        self.exchange(*(b"AUTH %b\r\n" % plain(name) for name in names))
        log = self.server.log[before:]
        self.assertNotRegex(log, r"[^\n -~]")
        self.assertNotRegex(log, r"\n(?!\d{4}-|\Z)")
        for shown in names.values():
            self.assertIn(f'login of "{shown}" by PLAIN failed', log)

    def test_long_arguments(self):
        """A line of 4 MB is answered -ERR in each state, and is at no time held in memory."""
        keywords = [each.keyword for each in MODERN.commands] + [b"XTND", b"x"]
        name, _ = self.server.add_user([b"x\n"])
        log_in = b"USER %b\r\nPASS secret\r\n" % name.encode()

        def attack(extra):
            for keyword, before in product(keywords, (b"", b"USER x\r\n", log_in)):
                connection = self.connect()
                limit = MAX_SASL_LINE if keyword == b"AUTH" else MAX_LINE
                # The server closes; if it has not read all, its reply may be lost.
                with contextlib.suppress(OSError):
                    connection.socket.sendall(before + keyword + b" " + b"x" * (limit + extra))
                replies = connection.rest().splitlines()[before.count(b"\n") :]
                self.assertIn(replies, ([], [b"-ERR line too long"]), repr(keyword))
                connection.abandon()
                yield from replies

        self.assertGreater(len([*attack(1)]), 2 * len(keywords))
        # What is freed is not always given back, so that there is no round before.
        before = self.server.reset_peak()
        list(attack(4 * MB))
        self.assertLess(self.server.peak - before, MB)
        self.assert_alive()

    def test_odd_arguments(self):
        """Every command with no, some and odd arguments is answered in every state."""
        keywords = [each.keyword for each in MODERN.commands if each.keyword != b"QUIT"]
        values = (b"0", b"1", b"-1", b"65536", b"99999999999999999999", b":", b"%s", b"\xff", b"")
        arguments = [b"", *(b" " + v for v in values), b" 1 1", b" 1 1 1", b" : :", b"  1", b" 1 "]
        name, _ = self.server.add_user([b"x\n"] * 3)
        inputs = []
        for keyword, argument in product(keywords, arguments):
            line = keyword + argument + b"\r\n"
            log_in = b"USER %b\r\nPASS secret\r\n" % name.encode()
            # A line more, which ends an exchange.
            inputs += [before + line + b"*\r\n" for before in (b"", b"USER x\r\n")]
            if keyword not in (b"AUTH", b"STLS"):
                self.assertRegex(self.exchange(log_in + line)[0], rb"(?s)\A(\+OK.*){2}\r\n\Z")
        inputs += [b"\r\n", b"\n", b" \r\n", b":\r\n", b"\0\r\n", b"1 RETR\r\n"]
        for octets, replies in zip(inputs, self.exchange(*inputs), strict=True):
            self.assertRegex(replies, rb"\A(\+OK|-ERR|\+ )", octets)
        self.assert_alive()

    def test_locks(self):
        """A server that is killed leaves no lock on a Maildir or an mbox file."""
        for option in ("--maildir", "--mbox"):
            root = temporary_directory(self)
            users = Path(default_path(str(root)))
            set_secret(str(users), b"ann", b"{PLAIN}secret", new=True)
            arguments = {"root": root, "store": (option, f"{root}/%u")}
            for number in range(1, 3):
                add_message(option, root / "ann")
                server = Server("--auth", f"passwd-file:{users}", **arguments)
                self.addCleanup(server.stop)
                session = server.login("ann")
                self.addCleanup(session.abandon)
                self.assertEqual(session.ask(b"STAT")[:6], b"+OK %d " % number, option)
                server.stop(signal.SIGKILL)

    def test_deliveries(self):
        """An idle session holds none of the locks of those who deliver, and they need not wait."""
        root = temporary_directory(self)
        users = Path(default_path(str(root)))
        set_secret(str(users), b"ann", b"{PLAIN}secret", new=True)
        file = root / "ann"
        add_message("--mbox", file)
        server = Server("--auth", f"passwd-file:{users}", root=root, store=("--mbox", root))
        self.addCleanup(server.stop)
        session = server.login("ann")
        self.addCleanup(session.abandon)
        session.ask(b"RETR 1")
        session.lines()
        dotlock = f"{file}.lock"
        os.close(os.open(dotlock, os.O_CREAT | os.O_EXCL))
        with file.open("ab") as mbox:
            fcntl.lockf(mbox, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mbox.write(MBOX_MESSAGE.replace(b": x", b": y"))
        os.unlink(dotlock)
        self.assertEqual(session.ask(b"DELE 1")[:3], b"+OK")
        self.assertEqual(session.close()[:3], b"+OK")
        session = server.login("ann")
        self.addCleanup(session.abandon)
        self.assertEqual(session.ask(b"LIST"), b"+OK 1 message (17 octets)")

    def test_path_traversal(self):
        """No name leads out of the directory of the mail, or to another user's."""
        outside = temporary_directory(self)
        deliver(outside, [b"x\n"])
        name, maildir = self.server.add_user([b"x\n"])
        (maildir / ".link").symlink_to(outside)
        lines = {"link": "{PLAIN}secret", ".hidden": "{PLAIN}secret", "a/b": "{PLAIN}secret"}
        (self.server.root / "link").symlink_to(outside)
        # Only a link that is root's or the server's is followed.
        lines[".."] = lines["."] = lines["~"] = f"../{outside.name}:{{PLAIN}}secret"
        names = [
            *(b"..", b".", b"../x", b"a/b", b".hidden", b"~", b"/", b"/etc", b"x\0", b"\\..\\x"),
            *(b"@../x", b"x@../x", b"x@..", b"@"),
            *(name.encode() + end for end in (b"/", b"/.", b"/../x", b"+../x", b"+link", b"+a/b")),
        ]
        self.add_users(lines)
        attempts = [b"AUTH %b\r\n" % plain(each) for each in names]
        for octets, replies in zip(names, self.exchange(*attempts), strict=True):
            self.assertRegex(replies, rb"\A-ERR ", octets)
        self.assert_alive()

    def test_control_socket(self):
        """Only the owner can connect to the control socket; no TCP port is open for control."""
        mode = (self.files / "control").stat().st_mode
        self.assertEqual((stat.S_ISSOCK(mode), stat.S_IMODE(mode)), (True, 0o600))
        self.assertEqual(len(self.server.ports), 3)

    def test_replay(self):
        """What one connection has sent to log in is of no use in another one."""
        name, _ = self.server.add_user(apop=True)
        connection = self.connect()
        timestamp = connection.greeting[connection.greeting.index(b"<") :]
        digest = md5(timestamp + b"secret").hexdigest().encode()
        line = b"APOP %b %b" % (name.encode(), digest)
        self.assertEqual(connection.ask(line)[:3], b"+OK")
        connection.close()
        self.assertEqual(self.connect().ask(line), FAILED)


class LimitTests(AttackCase):
    """A server that permits few connections."""

    options = ("--max-connections", "20", "--metrics", LOOPBACK, "--lmtp", LOOPBACK)

    def test_unlimited_connections(self):
        """Connections are limited at each port, also those without a handshake or a header."""
        session, _ = self.login([b"x\n"])
        plain_port, proxies, lmtp, tls, metrics = self.server.ports
        for port in (plain_port, proxies, tls, metrics, str(self.files / "control")):
            flood = self.connect_silently(port, 60)
            # The first are closed to make room.
            self.assertEqual([self.is_closed(client) for client in flood[:40]], [True] * 40, port)
            self.assertEqual(session.ask(b"NOOP")[:3], b"+OK", port)
        # Here the last are turned away, because the others may be deliveries.
        flood = self.connect_silently(lmtp, 105)
        self.assertEqual([self.is_closed(client) for client in flood[100:]], [True] * 5)
        self.assertEqual(session.ask(b"NOOP")[:3], b"+OK")

    def test_incomplete_handshakes(self):
        """Handshakes that clients do not complete have the limit of all connections."""
        session, _ = self.login([b"x\n"])
        plain_port, _, _, tls, _ = self.server.ports
        hello, client = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            self.context().wrap_bio(client, hello, server_hostname="localhost").do_handshake()
        first = hello.read()
        for port, length in ((tls, 99), (tls, len(first)), (plain_port, 99)):
            flood = []
            for _ in range(60):
                flood += self.connect_silently(port, 1)
                if port == plain_port:
                    flood[-1].sendall(b"STLS\r\n")
                    received = b""
                    while b"negotiation\r\n" not in received:
                        received += flood[-1].recv(100)
                flood[-1].sendall(first[:length])
            self.assertEqual([self.is_closed(client) for client in flood[:40]], [True] * 40, port)
            self.assertEqual(session.ask(b"NOOP")[:3], b"+OK")

    def connect_silently(self, port, number):
        """Return so many connections that have sent nothing."""
        flood = []
        for _ in range(number):
            client = socket.socket(socket.AF_UNIX if isinstance(port, str) else socket.AF_INET)
            self.addCleanup(client.close)
            client.settimeout(TIMEOUT)
            until(lambda client=client: self.connects(client, port), "a place in the queue")
            flood.append(client)
        return flood

    @staticmethod
    def connects(client, port):
        """Connect; return whether there was a place in the queue of a UNIX socket."""
        try:
            client.connect(port if isinstance(port, str) else ("127.0.0.1", port))
        except BlockingIOError:
            return False
        return True

    @staticmethod
    def is_closed(client):
        """Return whether the server closes a connection before the time-out of this client."""
        try:
            with contextlib.suppress(ConnectionResetError):
                while client.recv(1000):
                    pass
        except TimeoutError:
            return False
        return True
