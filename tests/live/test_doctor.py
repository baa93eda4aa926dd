"""``popserv doctor`` with real servers: popserv, Dovecot, and one that is hostile."""

import contextlib
import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import TestCase

from tests.certificates import SERVER, issue, make_authority
from tests.doctor.harness import ScriptedServer
from tests.live.dovecot_pop3 import DovecotPOP3
from tests.live.harness import (
    LOOPBACK,
    SAMPLES,
    TIMEOUT,
    Server,
    deliver,
    run,
    temporary_directory,
)

PROGRAMS = "Outlook, Thunderbird, Apple Mail, Gmail, fetchmail, mpop, K-9, QUIT"
MACHINE = ("clock", "open-files", "disk-full", "inodes", "uid")
"""The codes of findings that depend on the machine."""


def doctor(*arguments, password=b"long secret\n"):
    """Run the command; return the exit code, and what it finds that is not the machine's."""
    done = run("popserv", "doctor", "--json", *arguments, input=password)
    if done.stderr:
        raise AssertionError(done.stderr)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, [each for each in found if each.get("code") not in MACHINE]


class DoctorCase(TestCase):
    """Tests with Maildirs."""

    def make_maildir(self, root):
        """Deliver mail to a user who has a strong secret; return the files."""
        done = run("popserv", "user", "add", "ann", "--maildir", root, input=b"long secret\n")
        self.assertEqual(done.returncode, 0, repr(done))
        deliver(root / "ann", SAMPLES[:4])
        (root / "ann").chmod(0o700)

    def files(self, root):
        """Return what a session could change."""
        return {
            path: (status.st_ino, status.st_mtime_ns, status.st_size)
            for path in root.rglob("*")
            for status in [path.stat()]
        }


class PopservTests(DoctorCase):
    """The doctor and popserv."""

    def setUp(self):
        """Start a server that has nothing wrong with it, with TLS."""
        self.root = temporary_directory(self)
        self.make_maildir(self.root)
        authority = make_authority()
        pem = temporary_directory(self) / "pem"
        pem.write_bytes(issue("localhost", issuer=authority, usage=[SERVER]).pem())
        pem.chmod(0o600)
        self.authority = temporary_directory(self) / "ca"
        self.authority.write_bytes(authority.certificate_pem())
        self.options = ("--certificate", pem, "--mark-seen")
        self.server = Server(
            *(*self.options, "--listen", LOOPBACK, "--listen-tls", LOOPBACK), root=self.root
        )
        self.addCleanup(self.server.stop)

    def ports(self):
        """Return the options that name the ports of the server."""
        plain, secure = self.server.ports
        return [
            *("--listen", f"tcp:{plain}:interface=127.0.0.1"),
            *("--listen-tls", f"tcp:{secure}:interface=127.0.0.1"),
        ]

    def test_right(self):
        """Nothing is wrong with it, all programs can use it, and no mail is changed."""
        before = self.files(self.root)
        _, found = doctor(*("--maildir", self.root, *self.options, *self.ports(), "--login", "ann"))
        wrong = [each for each in found if each["severity"] != "ok"]
        # Only this test trusts the CA.
        self.assertEqual([each["code"] for each in wrong], ["certificate-untrusted"])
        passed = " ".join(each["what"] for each in found if each["severity"] == "ok")
        self.assertIn("1 maildrops", passed)
        self.assertEqual(passed.count("Outlook, Thunderbird, Apple Mail"), 2)
        self.assertEqual(passed.count("Gmail"), 1)
        self.assertEqual(self.files(self.root), before)

    def test_address(self):
        """A server is reached by its name over TLS, with STLS and at once."""
        plain, secure = self.server.ports
        for scheme, port in (("pop3", plain), ("pop3s", secure)):
            _, found = doctor(
                *("--address", f"{scheme}://localhost:{port}", "--login", "ann"),
                *("--ca-file", self.authority),
            )
            wrong = [each["code"] for each in found if each["severity"] != "ok"]
            # Gmail's fetcher does not use STLS.
            self.assertEqual(wrong, ["client-tls"] if scheme == "pop3" else [])

    def test_wrong(self):
        """A wrong password, and a server without UIDL, are told."""
        arguments = ("--address", f"localhost:{self.server.ports[0]}", "--login", "ann")
        code, found = doctor(*arguments)
        self.assertIn("the certificate cannot be verified", found[0]["what"])
        code, found = doctor(*arguments, "--insecure", password=b"wrong\n")
        self.assertEqual((code, found[0]["code"]), (2, "client-login"))
        other = Server("--without", "UIDL,TOP", root=self.root)
        self.addCleanup(other.stop)
        code, found = doctor("--address", f"localhost:{other.port}", "--login", "ann")
        wrong = {each["what"].partition(":")[0] for each in found if "code" in each}
        self.assertEqual(code, 2)
        self.assertEqual(wrong, {*PROGRAMS.split(", ")} - {"QUIT"})

    def test_other_server(self):
        """A port that another server has is an error."""
        other = ScriptedServer(self, lambda connection: connection.sendall(b"* OK ready\r\n"))
        listen = f"tcp:{other.address[1]}:interface=127.0.0.1"
        code, found = doctor("--maildir", self.root, "--listen", listen)
        self.assertEqual((code, found[0]["code"]), (2, "port-in-use"))


class DovecotTests(DoctorCase):
    """The doctor and a real Dovecot."""

    def test_dovecot(self):
        """The programs can use it, and no message is marked as seen."""
        dovecot = DovecotPOP3(self)
        maildir = dovecot.deliver("ann", SAMPLES[:3])
        dovecot.unique_ids("ann")
        dovecot.start()
        address = f"127.0.0.1:{dovecot.port}"
        code, found = doctor("--address", address, "--login", "ann", password=b"secret\n")
        self.assertEqual(code, 0, found)
        self.assertEqual(found, [{"severity": "ok", "what": f"{address}: {PROGRAMS}"}])
        names = [path.name for path in maildir.glob("[cn]*/*")]
        self.assertEqual({name.rpartition(",")[2] for name in names}, {""})
        # Beside it, popserv would have other unique-ids.
        code, found = doctor(
            *("--maildir", dovecot.mail, "--listen", f"tcp:{dovecot.port}:interface=127.0.0.1"),
            *("--auth", "memory:ann:secret"),
        )
        codes = {each.get("code") for each in found}
        self.assertGreaterEqual(codes, {"port-in-use", "other-unique-ids"})


class HostileServerTests(DoctorCase):
    """Servers that do not let a client go."""

    def test_hostile(self):
        """Each of them is given up, and told in one line."""
        with ThreadPoolExecutor() as threads:
            checks = [
                (threads.submit(self.check, serve), text)
                for serve, text in (
                    (silent, "the greeting: no answer in time"),
                    (garbage, "the greeting"),
                    (endless, "the response to CAPA has more than"),
                )
            ]
            for check, text in checks:
                code, found = check.result(TIMEOUT)
                self.assertEqual(code, 2)
                self.assertIn(text, found[0]["what"])

    def check(self, serve):
        """Run the command with a server; return the exit code, and what it finds."""
        listener = socket.create_server(("127.0.0.1", 0))

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection):
            with contextlib.suppress(OSError), connection:
                serve(connection)

        threading.Thread(target=accept, daemon=True).start()
        try:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            return doctor("--address", address, "--login", "ann")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def silent(connection):
    """Say nothing, whatever comes."""
    while connection.recv(1 << 16):
        pass


def garbage(connection):
    """Send octets without a meaning."""
    while True:
        connection.sendall(os.urandom(1 << 16))


def endless(connection):
    """Send capabilities without an end."""
    connection.sendall(b"+OK\r\n+OK\r\n")
    while True:
        connection.sendall(b"TOP\r\n" * 10_000)
