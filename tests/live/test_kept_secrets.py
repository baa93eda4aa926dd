"""The objects of a running server, in which secrets are looked for after each way to log in."""

import json
import re
import signal
from base64 import b64decode, b64encode
from hashlib import md5
from hmac import HMAC
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs

from twisted.trial.unittest import TestCase

from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.passwords.users_file import default_path
from tests.auth.sasl.harness import ScramClient
from tests.live.harness import Server, deliver, temporary_directory, until
from tests.live.test_canary import encoded

PASSWORD = b"Canary-7f3a9c"
WRONG = b"Canary-00d4e1"
TOKEN = b"Token-51d0e8"
REFUSED_TOKEN = b"Token-9977aa"
ITERATIONS = 4096


class Provider(BaseHTTPRequestHandler):
    """An introspection endpoint, for which each token that begins with TOKEN is active."""

    def do_POST(self):
        """Say whose the token is: its end is the name."""
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        token, _, name = form["token"][0].partition(".")
        answer = {"active": True, "username": name} if token == TOKEN.decode() else {}
        octets = json.dumps(answer or {"active": False}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)

    def log_message(self, *arguments):
        """Print nothing."""


class KeptSecretsTests(TestCase):
    """Servers whose objects can be searched; the sessions of accepted logins are still open."""

    def start(self, field, *options):
        """Start a server whose users user1, user2 and so on have this password field."""
        root = temporary_directory(self)
        self.secrets = temporary_directory(self) / "secrets"
        names = [f"user{number}".encode() for number in range(1, 11)]
        users = Path(default_path(str(root)))
        users.touch(0o600)
        users.write_bytes(b"".join(b"%b:%b\n" % (name, field) for name in names))
        for name in names:
            deliver(root / name.decode(), [b"x\n"])
        self.names, self.addresses, self.answered = iter(names), count(2), []
        self.server = Server(
            *("--auth", f"passwd-file:{users}", *options),
            root=root,
            environment={"POPSERV_TEST_SECRETS": str(self.secrets)},
        )
        self.addCleanup(self.server.stop)

    def provider(self):
        """Start a provider; return the options for it, with a cache."""
        provider = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
        thread = Thread(target=provider.serve_forever, args=(0.05,))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(provider.server_close)
        self.addCleanup(provider.shutdown)
        file = temporary_directory(self) / "oauth.ini"
        file.write_text(
            f"[oauth]\nintrospection = http://127.0.0.1:{provider.server_port}/\n"
            "client-id = popserv\nclient-secret = secret\nuser = username\ncache = 60\n"
        )
        file.chmod(0o600)
        return ("--auth", f"oauth:{file}")

    def connect(self):
        """Return a connection from another address, so that no login waits for those before."""
        connection = self.server.connect(source=f"127.0.0.{next(self.addresses)}")
        self.addCleanup(connection.abandon)
        return connection

    def attempt(self, is_right, *lines):
        """Log in by these lines; the reply to the last one is read by :meth:`found`."""
        connection = self.connect()
        for line in lines[:-1]:
            connection.ask(line)
        connection.socket.sendall(lines[-1] + b"\r\n")
        self.answered.append((is_right, connection, lines))

    def found(self, *secrets):
        """Return which of the secrets are in objects, once all logins have been answered."""
        for is_right, connection, lines in self.answered:
            reply = connection.line()
            if lines[-1] == b"AUTH PLAIN":
                reply = connection.line()
            self.assertEqual(reply[:3], b"+OK" if is_right else b"-ER", (lines, reply))
        self.answered.clear()
        # The server has done what follows its last reply.
        self.connect().close()
        self.secrets.write_text("\n".join(each.hex() for each in secrets))
        self.server.process.send_signal(signal.SIGUSR2)
        found = self.secrets.with_suffix(".found")
        until(found.exists, "the search")
        self.assertNotIn("Traceback", self.server.log)
        lines = found.read_text().splitlines()
        found.unlink()
        return [re.sub("^[0-9a-f]+", lambda at: repr(bytes.fromhex(at[0])), line) for line in lines]

    def test_passwords_and_tokens(self):
        """No object keeps a password or a token of a login that was accepted or refused."""
        field = new_scram_sha256(PASSWORD, ITERATIONS)
        mechanisms = "PLAIN,LOGIN,SCRAM-SHA-256,XOAUTH2,OAUTHBEARER"
        self.start(field, *self.provider(), "--sasl", mechanisms)
        for is_right, password, token in ((1, PASSWORD, TOKEN), (0, WRONG, REFUSED_TOKEN)):
            name = next(self.names)
            self.attempt(is_right, b"USER " + name, b"PASS " + password)
            name = next(self.names)
            self.attempt(is_right, b"AUTH PLAIN " + b64encode(b"\0%b\0%b" % (name, password)))
            name = next(self.names)
            self.attempt(is_right, b"AUTH LOGIN", b64encode(name), b64encode(password))
            name = next(self.names)
            bearer = b"auth=Bearer %b.%b\1\1" % (token, name)
            # A refused token has a challenge, which the client answers.
            more = () if is_right else (b"",)
            xoauth2 = b"AUTH XOAUTH2 " + b64encode(b"user=%b\1%b" % (name, bearer))
            self.attempt(is_right, xoauth2, *more)
            name = next(self.names)
            bearer = b"auth=Bearer %b.%b\1\1" % (token, name)
            more = () if is_right else (b"AQ==",)
            self.attempt(
                is_right, b"AUTH OAUTHBEARER " + b64encode(b"n,a=%b,\1%b" % (name, bearer)), *more
            )
        secrets = [PASSWORD, WRONG, TOKEN, REFUSED_TOKEN]
        secrets += [part for each in secrets for part in encoded(each)]
        self.assertEqual(self.found(*secrets), [])
        # What a client has sent as a name is kept, so that the search finds something.
        connection = self.connect()
        connection.ask(b"USER " + PASSWORD)
        self.assertIn(repr(PASSWORD), self.found(*secrets)[0])

    def test_digests(self):
        """No object keeps a digest or a proof of a login that was accepted or refused."""
        self.start(b"{PLAIN}" + PASSWORD, "--sasl", "CRAM-MD5,SCRAM-SHA-256")
        secrets = []
        for is_right, password in ((1, PASSWORD), (0, WRONG)):
            connection, name = self.connect(), next(self.names)
            challenge = b64decode(connection.ask(b"AUTH CRAM-MD5")[2:])
            secrets.append(HMAC(password, challenge, "md5").hexdigest().encode())
            connection.socket.sendall(b64encode(name + b" " + secrets[-1]) + b"\r\n")
            self.answered.append((is_right, connection, [b"CRAM-MD5"]))
            connection, name = self.connect(), next(self.names)
            scram = ScramClient(password=password, name=name)
            challenge = connection.ask(b"AUTH SCRAM-SHA-256 " + b64encode(scram(b"")))
            final = scram(b64decode(challenge[2:]))
            secrets += [final.partition(b",p=")[2], b64decode(final.partition(b",p=")[2])]
            connection.socket.sendall(b64encode(final) + b"\r\n")
            if is_right:
                self.assertEqual(scram(b64decode(connection.line()[2:])), b"")
                connection.socket.sendall(b"\r\n")
            self.answered.append((is_right, connection, [b"SCRAM-SHA-256"]))
        self.assertEqual(self.found(*secrets), [])
        self.start(b"{APOP}" + PASSWORD)
        secrets = []
        for is_right, password in ((1, PASSWORD), (0, WRONG)):
            connection = self.connect()
            timestamp = connection.greeting[connection.greeting.index(b"<") :]
            secrets.append(md5(timestamp + password).hexdigest().encode())
            line = b"APOP %b %b\r\n" % (next(self.names), secrets[-1])
            connection.socket.sendall(line)
            self.answered.append((is_right, connection, [b"APOP"]))
        self.assertEqual(self.found(*secrets), [])
