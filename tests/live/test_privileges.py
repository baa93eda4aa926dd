"""A server that has given up its privileges can read no library, and needs none."""

import grp
import json
import os
import pwd
import signal
import socket
import ssl
import sys
import time
from base64 import b64decode, b64encode
from stat import S_IFCHR

from cryptography.x509.oid import NameOID
from scramp import ScramClient
from twisted.trial.unittest import TestCase

from popserv.auth.oauth.jwks import ALGORITHMS
from tests.auth.oauth.tokens import CLAIMS, ISSUER, jwk_of, key_for, token_of
from tests.auth.passwords.test_schemes import VECTORS
from tests.certificates import issue, make_authority
from tests.docs.harness import DOCS, blocks
from tests.live.harness import (
    AUDIT,
    CHECKOUT,
    LOOPBACK,
    SAMPLES,
    Connection,
    Server,
    deliver,
    run,
    temporary_directory,
    until,
    wire_form,
)

UMLAUTS = (
    "From: J\xfcrgen <j@m\xe4chine.example>\nSubject: \u65e5\u672c\n"
    "Content-Type: text/plain; charset=utf-8\n\ntext\n"
).encode()

NOBODY = "nobody"


class JailTests(TestCase):
    """A server with twistd's --chroot and --uid, in a directory that contains nothing but mail."""

    def setUp(self):
        """Make the jail; in it, paths are the same as outside."""
        if os.getuid():
            self.skipTest("only root can use --chroot")
        self.jail = temporary_directory(self).resolve()
        (self.jail / self.jail.relative_to("/").parent).mkdir(parents=True)
        (self.jail / self.jail.relative_to("/")).symlink_to("/")
        # twistd looks up its user's groups there, and Twisted opens /dev/null with each port.
        (self.jail / "etc").mkdir()
        user = pwd.getpwnam(NOBODY)
        (self.jail / "etc" / "passwd").write_text(
            f"{NOBODY}:x:{user.pw_uid}:{user.pw_gid}::/:/bin/false\n"
        )
        (self.jail / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
        (self.jail / "dev").mkdir()
        os.mknod(self.jail / "dev" / "null", S_IFCHR | 0o666, os.makedev(1, 3))
        self.root = self.jail / "mail"
        self.root.mkdir()
        self.lines = []

    def start(self, *options, store=(), environment=None):
        """Start the server after the files are given to its user."""
        users = self.root / ".users"
        users.write_text("".join(f"{line}\n" for line in self.lines))
        users.chmod(0o600)
        user = pwd.getpwnam(NOBODY)
        for folder, _, files in os.walk(self.root):
            for path in (folder, *(os.path.join(folder, file) for file in files)):
                os.chown(path, user.pw_uid, user.pw_gid)
        group = grp.getgrgid(user.pw_gid).gr_name
        server = Server(
            *options,
            root=self.root,
            store=store,
            twistd=("--chroot", self.jail, "--uid", NOBODY, "--gid", group),
            environment=environment,
        )
        self.addCleanup(server.stop)
        # It was checked before the server entered the jail.
        self.addCleanup(lambda: self.assertEqual(server.loads, ""))
        return server

    def add(self, name, field, messages=()):
        """Add a user with these messages."""
        self.lines.append(f"{name}:{field}")
        deliver(self.root / name, messages)

    def test_config(self):
        """The options can be in a file that is outside of the jail and that only root can read."""
        self.add("ann", "{PLAIN}secret", [b"x\n"])
        file = temporary_directory(self) / "popserv.toml"
        file.write_text("workarounds = 'outlook-no-nuls'\ntimeout = 700\n")
        file.chmod(0o600)
        server = self.start("--config", file)
        server.login("ann").close()
        os.kill(server.process.pid, signal.SIGHUP)
        until(lambda: "files that have changed are read again" in server.log, "the signal")
        server.login("ann").close()
        self.assertNotIn("popserv.toml", server.log)

    def test_schemes(self):
        """Passwords of every scheme are verified, and a wrong one is a wrong one."""
        for number, field in enumerate(VECTORS):
            self.add(f"user{number}", field.decode())
        server = self.start("--trusted-networks", "127.0.0.1")
        for number, field in enumerate(VECTORS):
            connection = server.connect()
            connection.ask(b"USER user%d" % number)
            self.assertRegex(connection.ask(b"PASS password"), b"^\\+OK", field)
            connection.close()
        connection = server.connect()
        connection.ask(b"USER user1")
        self.assertRegex(connection.ask(b"PASS wrong"), b"^-ERR \\[AUTH\\]")
        connection.close()

    def test_session(self):
        """Every command works; names, passwords, header fields and replies are not ASCII."""
        self.add("j\xfcrgen", "{PLAIN.b64}" + b64encode("gr\xfcn".encode()).decode(), [UMLAUTS] * 3)
        server = self.start("--mark-seen", "--utf8")
        connection = server.connect()
        self.assertRegex(connection.ask(b"LANG de"), b"^\\+OK")
        self.assertRegex(connection.ask(b"NOSUCH"), b"^-ERR .*unbekannt")
        connection.ask(b"CAPA")
        self.assertIn(b"SASL", [line.split()[0] for line in connection.lines()])
        # Decomposed characters.
        connection.ask("USER ju\u0308rgen".encode())
        self.assertRegex(connection.ask("PASS gru\u0308n".encode()), b"^\\+OK")
        self.assertRegex(connection.ask(b"RETR 1"), b"^\\+OK")
        downgraded = connection.lines()
        self.assertIn(b"xn--mchine-bua.example", downgraded[0])
        for command in (b"LIST", b"UIDL", b"TOP 1 0"):
            self.assertRegex(connection.ask(command), b"^\\+OK", command)
            connection.lines()
        connection.ask(b"DELE 2")
        self.assertRegex(connection.close(), b"^\\+OK")
        self.assertEqual(len(os.listdir(self.root / "j\xfcrgen" / "cur")), 1)

    def test_stores(self):
        """Each kind of store works, and so does one of a third party: that of the documentation."""
        modules = temporary_directory(self)
        (modules / "twisted" / "plugins").mkdir(parents=True)
        page = dict(blocks(DOCS / "howto" / "write-store.rst", "python"))
        for name, path in (("sqlmail", ""), ("sqlmail_plugin", "twisted/plugins/")):
            (modules / f"{path}{name}.py").write_text(page[name])
        environment = {"PYTHONPATH": os.pathsep.join(map(str, (AUDIT, CHECKOUT, modules)))}
        database = self.root / "mail.db"
        program = (
            "import sqlmail, sys; sqlmail.deliver(sys.argv[1], b'ann', sys.stdin.buffer.read())"
        )
        (self.root / "mh" / "ann").mkdir(parents=True)
        for number, message in enumerate(SAMPLES[:2], 1):
            (self.root / "mh" / "ann" / str(number)).write_bytes(message)
            command = (sys.executable, "-c", program, database)
            done = run(*command, input=message, env={**os.environ, **environment})
            self.assertEqual(done.returncode, 0, done.stderr)
        (self.root / "mbox").mkdir()
        mbox = b"".join(
            b"From a@example.org Thu Jan  1 00:00:00 2026\n%b\n" % message
            for message in SAMPLES[:2]
        )
        (self.root / "mbox" / "ann").write_bytes(mbox)
        self.lines.append("ann:{PLAIN}secret")
        users = f"passwd-file:{self.root}/.users"
        octets = [len(wire_form(message)) for message in SAMPLES[:2]]
        for store in (f"sqlite:{database}", f"mh:{self.root}/mh", f"mbox:{self.root}/mbox"):
            server = self.start("--auth", users, store=("--store", store), environment=environment)
            for expected in (octets, octets[1:]):
                connection = server.login("ann")
                connection.ask(b"LIST")
                listed = [int(line.split()[1]) for line in connection.lines()]
                self.assertEqual(listed, expected, store)
                self.assertRegex(connection.ask(b"RETR 1"), b"^\\+OK")
                self.assertEqual(sum(len(line) + 2 for line in connection.lines()), listed[0])
                self.assertRegex(connection.ask(b"DELE 1"), b"^\\+OK")
                self.assertRegex(connection.close(), b"^\\+OK", store)
            server.stop()
            self.assertNotIn("Traceback", server.log)

    def test_sasl(self):
        """SASL works over TLS with a certificate that is renewed in the jail."""
        authority = make_authority("our CA")
        certificate = self.root / "server.pem"
        certificate.write_bytes(issue("localhost", issuer=authority, kind="rsa").pem())
        (self.root / "ca.pem").write_bytes(authority.certificate_pem())
        self.add("ann", "{PLAIN}secret")
        server = self.start(
            *("--certificate", certificate, "--client-ca", self.root / "ca.pem"),
            *("--listen-tls", LOOPBACK, "--listen", LOOPBACK),
            *("--sasl", "EXTERNAL,SCRAM-SHA-256,SCRAM-SHA-1,CRAM-MD5,PLAIN,LOGIN"),
        )
        identity = temporary_directory(self) / "ann.pem"
        identity.write_bytes(issue(issuer=authority, subject=[(NameOID.USER_ID, "ann")]).pem())
        context = ssl.create_default_context(cadata=authority.certificate_pem().decode())
        context.load_cert_chain(identity)
        for renewed in (False, True):
            if renewed:
                new = self.root / "new.pem"
                new.write_bytes(issue("localhost", issuer=authority).pem())
                new.rename(certificate)
                time.sleep(1.1)
            for mechanism in ("EXTERNAL", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-1"):
                connection = Connection(
                    ("127.0.0.1", server.ports[1]),
                    wrap=lambda plain: context.wrap_socket(plain, server_hostname="localhost"),
                )
                self.assertRegex(self.log_in(connection, mechanism), b"^\\+OK", mechanism)
                connection.close()
        self.assertIn("reloaded", server.log)

    def log_in(self, connection, mechanism):
        """Run an exchange of a mechanism; return the last reply."""
        if mechanism == "EXTERNAL":
            return connection.ask(b"AUTH EXTERNAL =")
        if mechanism == "PLAIN":
            return connection.ask(b"AUTH PLAIN " + b64encode(b"\0ann\0secret"))
        client = ScramClient([mechanism], "ann", "secret")
        first = client.get_client_first().encode()
        reply = connection.ask(b"AUTH %b %b" % (mechanism.encode(), b64encode(first)))
        client.set_server_first(_decode(reply))
        reply = connection.ask(b64encode(client.get_client_final().encode()))
        client.set_server_final(_decode(reply))
        return connection.ask(b"")

    def test_tokens(self):
        """Tokens with a signature of each algorithm are verified."""
        keys = {name: key_for(name) for name in ALGORITHMS}
        jwks = [jwk_of(key, kid=name, alg=name) for name, key in keys.items()]
        (self.root / "keys.json").write_text(json.dumps({"keys": jwks}))
        oauth = self.root / "oauth.ini"
        oauth.write_text(f"[oauth]\njwks = keys.json\nissuer = {ISSUER}\naudience = mail\n")
        server = self.start("--auth", f"oauth:{oauth}", "--allow-plaintext")
        for name, key in keys.items():
            claims = {**CLAIMS, "exp": int(time.time()) + 300}
            token = token_of(claims, name, key, kid=name)
            response = b"n,,\1auth=Bearer " + token + b"\1\1"
            connection = server.connect()
            self.assertRegex(
                connection.ask(b"AUTH OAUTHBEARER " + b64encode(response)), b"^\\+OK", name
            )
            connection.close()

    def test_rpop(self):
        """RPOP resolves the host names of the rhosts file."""
        (self.root / "rhosts").write_text("localhost + ann\n")
        self.add("ann", "{PLAIN}secret")
        server = self.start("--dialect", "rfc1225", "--rhosts", self.root / "rhosts")
        # Port 0 stands for any, so a reserved one is searched.
        for port in range(600, 1024):
            connection = socket.socket()
            try:
                connection.bind(("127.0.0.1", port))
            except OSError:
                connection.close()
                continue
            break
        connection.connect(("127.0.0.1", server.port))
        with connection, connection.makefile("rb") as replies:
            for command in (b"", b"USER ann\r\n", b"RPOP root\r\n", b"QUIT\r\n"):
                connection.sendall(command)
                self.assertRegex(replies.readline(), b"^\\+OK", command)


def _decode(reply):
    """Return the text of a challenge."""
    return b64decode(reply.removeprefix(b"+ ")).decode()
