"""A password that is looked for wherever a server shows something, after each way to log in."""

import contextlib
import http.client
import os
import re
import resource
import signal
from base64 import b64decode, b64encode
from hashlib import md5
from hmac import HMAC
from pathlib import Path

from twisted.trial.unittest import TestCase

from examples.cluster.processes import free_port
from popserv.auth.passwords.users_file import default_path
from tests.live.harness import (
    LOOPBACK,
    TIMEOUT,
    Server,
    deliver,
    run,
    temporary_directory,
    until,
)
from tests.live.test_log_format import JSONServer

CANARY = b"Canary-7f3a9c"
TOKEN = b"Token-51d0e8"
NONCE = b"n,,n=plain,r=nonce"
SASL = (
    *(b"SCRAM-SHA-256", b"SCRAM-SHA-1", b"OAUTHBEARER", b"XOAUTH2"),
    *(b"CRAM-MD5", b"PLAIN", b"LOGIN"),
)
"""The mechanisms of the server; those with channel binding need TLS, and EXTERNAL has no secret."""

SERVERS = {"text": Server, "json": JSONServer}
"""The servers by the forms of their logs."""


def encoded(secret):
    """Return the parts that its base64 has in common, wherever it begins."""
    return [b64encode(bytes(before) + secret)[4:-4] for before in range(3)]


class CanaryTests(TestCase):
    """A server with metrics, the page for people, a control socket, and a provider that is down."""

    def start(self, log_format, **more):
        """Start a server on which ``plain`` and ``apop`` have the canary as their password."""
        root, files = temporary_directory(self), temporary_directory(self)
        users = Path(default_path(str(root)))
        users.touch(0o600)
        users.write_bytes(b"plain:{PLAIN}%b\napop:{APOP}%b\n" % (CANARY, CANARY))
        for name in ("plain", "apop"):
            deliver(root / name, [b"x\n"])
        oauth = files / "oauth.ini"
        oauth.write_text(
            f"[oauth]\nintrospection = http://127.0.0.1:{free_port()}/\n"
            "client-id = popserv\nclient-secret = secret\n"
        )
        oauth.chmod(0o600)
        self.control = f"unix:{files}/control"
        self.server = SERVERS[log_format](
            *("--auth", f"passwd-file:{users}", "--auth", f"oauth:{oauth}"),
            *("--sasl", b",".join(SASL).decode()),
            *("--metrics", LOOPBACK, "--control", self.control, "--log-format", log_format),
            root=root,
            **more,
        )
        self.addCleanup(self.server.stop)

    def connect(self):
        """Return a connection."""
        connection = self.server.connect()
        self.addCleanup(connection.abandon)
        return connection

    def log_in(self, word):
        """Log in with a password in every way; return the digests, and the connections.

        Their last replies are still to be read: those of refusals are delayed.
        """
        digests, waiting = [], []
        for lines in (
            [b"USER plain", b"PASS " + word],
            [b"USER nobody", b"PASS " + word],
            [b"PASS " + word],
            [b"AUTH PLAIN " + b64encode(b"\0plain\0" + word)],
            [b"AUTH PLAIN", b64encode(b"\0plain\0" + word)],
            *([b"AUTH " + each, b64encode(word + b" " + TOKEN) + b"!"] for each in SASL),
            [b"AUTH LOGIN", b64encode(b"plain"), b64encode(word)],
            [b"AUTH XOAUTH2 " + b64encode(b"user=plain\1auth=Bearer %b\1\1" % TOKEN)],
            [b"AUTH OAUTHBEARER " + b64encode(b"n,a=plain,\1auth=Bearer %b\1\1" % TOKEN)],
        ):
            connection = self.connect()
            for line in lines[:-1]:
                connection.ask(line)
            connection.socket.sendall(lines[-1] + b"\r\n")
            waiting.append(connection)
        connection = self.connect()
        timestamp = connection.greeting[connection.greeting.index(b"<") :]
        digests.append(md5(timestamp + word).hexdigest().encode())
        connection.socket.sendall(b"APOP apop %b\r\n" % digests[-1])
        waiting.append(connection)
        connection = self.connect()
        challenge = b64decode(connection.ask(b"AUTH CRAM-MD5")[2:])
        digests.append(HMAC(word, challenge, "md5").hexdigest().encode())
        connection.socket.sendall(b64encode(b"plain " + digests[-1]) + b"\r\n")
        waiting.append(connection)
        for mechanism, length in ((b"SCRAM-SHA-256", 32), (b"SCRAM-SHA-1", 20)):
            connection = self.connect()
            salt = connection.ask(b"AUTH %b %b" % (mechanism, b64encode(NONCE)))
            self.assertEqual(salt[:2], b"+ ")
            digests.append(b64encode(word.ljust(length, b"\0")))
            final = b"c=biws,%b,p=%b" % (b64decode(salt[2:]).partition(b",")[0], digests[-1])
            connection.socket.sendall(b64encode(final) + b"\r\n")
            waiting.append(connection)
        return digests, waiting

    def shown(self):
        """Return all that shows something of the server, by what it is."""
        shown = {"log": self.server.log.encode()}
        for command in ("who", "status"):
            done = run("popserv", command, "--json", "--control", self.control)
            self.assertEqual(done.returncode, 0, done)
            shown[command] = done.stdout
        found = until(lambda: re.search(r"BoundedSite starting on (\d+)", self.server.log), "HTTP")
        for path in ("/metrics", "/", "/healthz"):
            client = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=TIMEOUT)
            self.addCleanup(client.close)
            client.request("GET", path)
            shown[path] = client.getresponse().read()
        process = Path("/proc", str(self.server.process.pid))
        for file in ("cmdline", "environ", "maps", "comm"):
            shown[file] = (process / file).read_bytes()
        links = []
        for file in (process / "fd").iterdir():
            # A connection may end meanwhile.
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(file).encode())
        shown["files"] = b"\n".join(links)
        return shown

    def test_nowhere(self):
        """No password, token or digest is in the log, a reply, a metric, a page or in /proc."""
        for log_format in SERVERS:
            self.start(log_format)
            session = self.server.login("plain", CANARY.decode())
            self.addCleanup(session.abandon)
            secrets = [CANARY[1:], TOKEN, *encoded(CANARY), *encoded(TOKEN)]
            waiting = []
            for word in (CANARY, CANARY + b"x", CANARY[1:], b"\xff" + CANARY, CANARY * 100):
                digests, connections = self.log_in(word)
                secrets += digests
                waiting += connections
            replies = {connection.line()[:4] for connection in waiting}
            # Those of a user whose maildrop is locked are negative as well.
            self.assertLessEqual(replies, {b"-ERR", b"+OK "})
            shown = self.shown()
            self.assertIn(b"plain", shown["log"])
            for where, octets in shown.items():
                for secret in secrets:
                    self.assertNotIn(secret, octets, f"{where} ({log_format})")

    def test_core(self):
        """A server that is killed by a signal leaves no core, in a file or to a program."""
        if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
            self.skipTest("this system permits no core, whatever a process does")
        # As where cores are wanted; many systems begin with 0.
        unlimited = 'ulimit -S -c "$(ulimit -H -c)" && exec "$@"'
        self.start("text", prefix=("sh", "-c", unlimited, "sh"))
        self.server.login("plain", CANARY.decode()).close()
        limits = Path("/proc", str(self.server.process.pid), "limits").read_text()
        # Not 0, with which Linux still hands a core to another program.
        self.assertRegex(limits, r"(?m)^Max core file size +1 ")
        self.assertEqual(self.server.stop(signal.SIGABRT), -signal.SIGABRT)
        directory = self.server._log.parent
        self.assertEqual(sorted(each.name for each in directory.iterdir()), ["log"])
