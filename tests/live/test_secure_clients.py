"""Real clients log in by STLS, implicit TLS and SASL, and fetch real mail to the byte.

Each client is asked for every mechanism that it knows, in the clear, after STLS and
over implicit TLS; what it tells of the session shows that it really used that one.
"""

import os
import pty
import shutil
import subprocess
import sys
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from functools import cache, partial
from itertools import islice
from pathlib import Path
from threading import Timer
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.live.harness import (
    BIN,
    LOOPBACK,
    PATIENCE,
    SAMPLES,
    ServerTestCase,
    deliver,
    lines_of,
    run,
    shown,
    stored,
    temporary_directory,
    wire_form,
)

TOKENS = ("OAUTHBEARER", "XOAUTH2")
SASL = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "EXTERNAL", *TOKENS)
"""What GNU SASL knows of ours; a client names USER as well, which is a way to log in."""

NEED_TLS = ("EXTERNAL", "SCRAM-SHA-256-PLUS")

PROGRAMS = Path(__file__).parent / "programs"


class Authority:
    """A certificate authority, and the file of its certificate, which clients trust."""

    def __init__(self, name="our CA"):
        self.folder = temporary_directory()
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _named(name)
        basic = x509.BasicConstraints(ca=True, path_length=None)
        certificate = self._certify(self._name, self._key, basic)
        self.file = self.folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, name, *extensions):
        """Return the file of a new certificate for a name, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certify(_named(name), key, *extensions)
        file = self.folder / f"{name}.pem"
        file.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        file.chmod(0o600)
        return file

    def _certify(self, subject, key, *extensions):
        now = datetime.now(timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=90))
        )
        for extension in extensions:
            critical = isinstance(extension, x509.BasicConstraints)
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


def _named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


authority = cache(Authority)


@cache
def server_certificate():
    """Return the file of a certificate for localhost, and its key."""
    return authority().issue("server", x509.SubjectAlternativeName([x509.DNSName("localhost")]))


class Login(NamedTuple):
    """All that a client must know for a session."""

    port: int
    transport: str
    mechanism: str
    user: str
    secret: str
    """A password, or a token."""
    ca: Path
    certificate: Path | str
    """The user's certificate and key, for EXTERNAL; else an empty string."""
    home: Path
    """A directory of the session's own, with an empty Maildir ``got``."""

    @property
    def new(self):
        """Where a client that knows no Maildirs puts messages."""
        return self.home / "got" / "new"


class Outcome(NamedTuple):
    """What a client made of it."""

    welcome: bool
    """Whether the client says that all went well."""
    trace: str
    """What the client tells of the session."""


class Client:
    """A program that fetches mail; each way tells what is peculiar to it."""

    program: str
    transports = ("plain", "stls", "tls")
    mechanisms: tuple
    refused = "-ERR"
    """What the trace has if the server refused the login."""

    def installed(self):
        """Tell whether the program is there."""
        return (BIN / self.program).exists() or shutil.which(self.program)

    def fetch(self, login):
        """Fetch all mail into the Maildir, and leave it on the server."""
        raise NotImplementedError

    def used(self, mechanism):
        """Return a pattern that is in the trace of a session with this mechanism."""
        return r"\bUSER \S" if mechanism == "USER" else rf"\bAUTH {mechanism}(?![-\w])"

    def keeps(self, message):
        """Tell whether it stores a message unmended."""
        return True

    def line_end(self, transport):
        """Return how it ends the lines of what it stores."""
        return b"\n"


def outcome(program, *arguments, **options):
    """Run a program that tells by its exit code."""
    done = run(program, *arguments, **options)
    return Outcome(done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace"))


def configuration(login, *lines):
    """Write a program's configuration of these lines; return the file."""
    file = login.home / "rc"
    file.write_text("".join(f"{line}\n" for line in lines))
    file.chmod(0o600)
    return file


def delivery_agent(login):
    """Write a program that puts a message into the Maildir; return the file."""
    file = login.home / "agent"
    file.write_text(f"#!/bin/sh\ncd {login.new} && exec cat > $(ls | wc -l)\n")
    file.chmod(0o700)
    return file


def _has_body(message):
    """Tell whether a message has one, if an empty one: some clients add it."""
    return b"" in lines_of(message)


class _Curl(Client):
    """Curl sends AUTH alone, and prefers OAUTHBEARER to XOAUTH2, and SASL to USER."""

    program = "curl"
    mechanisms = ("PLAIN", "LOGIN", "CRAM-MD5", "OAUTHBEARER", "EXTERNAL")

    def line_end(self, transport):
        return b"\r\n"

    def fetch(self, login):
        password = login.secret if login.mechanism not in NEED_TLS + TOKENS else ""
        options = ["--verbose", "--silent", "--fail-early", "--cacert", login.ca]
        options += ["--user", f"{login.user}:{password}"]
        options += ["--login-options", f"AUTH={login.mechanism}"]
        if login.mechanism in TOKENS:
            options += ["--oauth2-bearer", login.secret]
        if login.certificate:
            options += ["--cert", login.certificate]
        if login.transport == "stls":
            options += ["--ssl-reqd"]
        scheme = "pop3s" if login.transport == "tls" else "pop3"
        urls = f"{scheme}://localhost:{login.port}/[1-{len(SAMPLES)}]"
        return outcome("curl", *options, "--output", login.new / "#1", urls)


class _Mpop(Client):
    """Mpop sends an initial response with OAUTHBEARER alone, and pipelines."""

    program = "mpop"
    mechanisms = ("USER", *SASL)

    def fetch(self, login):
        certificate = f"tls_cert_file {login.certificate}\ntls_key_file {login.certificate}"
        file = configuration(
            login,
            "account default",
            "host localhost",
            f"port {login.port}",
            f"tls {'off' if login.transport == 'plain' else 'on'}",
            f"tls_starttls {'on' if login.transport == 'stls' else 'off'}",
            f"tls_trust_file {login.ca}",
            certificate if login.certificate else "",
            f"auth {login.mechanism.lower()}",
            f"user {login.user}",
            f"password {login.secret}",
            f"uidls_file {login.home}/uidls",
            "keep on",
            f"delivery maildir {login.home}/got",
            "received_header off",
        )
        return outcome("mpop", "--debug", "--file", file)


class _Fetchmail(Client):
    """Fetchmail, which reads by TOP."""

    program = "fetchmail"
    mechanisms = ("USER", "CRAM-MD5")
    keeps = staticmethod(_has_body)

    def fetch(self, login):
        transport = {
            "plain": 'sslproto ""',
            "stls": f"sslproto TLS1.2+ sslcertck sslcertfile {login.ca}",
            "tls": f"ssl sslcertck sslcertfile {login.ca}",
        }
        auth = "password" if login.mechanism == "USER" else login.mechanism.lower()
        file = configuration(
            login,
            "set invisible",
            f"set idfile {login.home}/ids",
            f"set pidfile {login.home}/pid",
            f"poll localhost service {login.port} proto pop3 uidl auth {auth}",
            f"user {login.user} password {login.secret} is root here",
            f"{transport[login.transport]} keep no rewrite mda {delivery_agent(login)}",
        )
        environment = {**os.environ, "HOME": str(login.home)}
        options = ("--nodetach", "--verbose", "--verbose", "--fetchmailrc", file)
        return outcome("fetchmail", *options, env=environment)


class _Getmail(Client):
    """Getmail knows no STLS, and traces nothing; a token is good for nothing but XOAUTH2."""

    program = "getmail"
    transports = ("plain", "tls")
    mechanisms = ("USER", "XOAUTH2")
    refused = "ERR"
    keeps = staticmethod(_has_body)

    def used(self, mechanism):
        return "$"

    def fetch(self, login):
        kind = "SimplePOP3SSLRetriever" if login.transport == "tls" else "SimplePOP3Retriever"
        configuration(
            login,
            "[retriever]",
            f"type = {kind}",
            "server = localhost",
            f"port = {login.port}",
            f"ca_certs = {login.ca}" if login.transport == "tls" else "",
            f"username = {login.user}",
            f"password = {login.secret}",
            f"use_xoauth2 = {login.mechanism == 'XOAUTH2'}",
            "[destination]",
            # Its other ways to deliver are not for root.
            "type = MDA_external",
            f"path = {delivery_agent(login)}",
            "allow_root_commands = true",
            "[options]",
            "delete = false",
            "delivered_to = false",
            "received = false",
        )
        return outcome("getmail", "--getmaildir", login.home, "--rcfile", "rc")


class _Mutt(Client):
    """Mutt, on a terminal of its own, names whom it acts as even if that is itself."""

    program = "mutt"
    mechanisms = ("USER", *SASL)

    def authenticators(self, login):
        """Return the line that chooses the mechanism."""
        return f'set pop_authenticators="{login.mechanism.lower()}"'

    def debugging(self, login):
        """Return the options that make it write a trace, and the trace's file."""
        return ("-d", "2"), login.home / ".muttdebug0"

    def fetch(self, login):
        home = login.home
        token = home / "token"
        token.write_text(f"#!/bin/sh\necho '{login.secret}'\n")
        token.chmod(0o700)
        scheme = "pops" if login.transport == "tls" else "pop"
        file = configuration(
            login,
            f'set pop_host="{scheme}://{login.user}@localhost:{login.port}"',
            f'set pop_pass="{login.secret}"',
            f'set pop_oauth_refresh_command="{token}"',
            self.authenticators(login),
            f"set ssl_starttls={'yes' if login.transport == 'stls' else 'no'}",
            f"set ssl_force_tls={'no' if login.transport == 'plain' else 'yes'}",
            f"set ssl_ca_certificates_file={login.ca} certificate_file={home}/accepted",
            f"set ssl_client_cert={login.certificate}" if login.certificate else "",
            "set pop_delete=no pop_last=no pop_reconnect=no",
            f"set mbox_type=Maildir folder={home} spoolfile={home}/got record=",
            "set quit=yes move=no sleep_time=0 wait_key=no",
            'push "<fetch-mail><quit>"',
        )
        options, trace = self.debugging(login)
        on_terminal(home, self.program, "-n", "-F", file, *options)
        # Its exit code tells nothing.
        return Outcome(bool(stored(home / "got")), trace.read_text(errors="replace"))


class _Neomutt(_Mutt):
    """Neomutt, which takes the best mechanism of GNU SASL's unless it is told of a few others."""

    program = "neomutt"
    mechanisms = ("USER", "SCRAM-SHA-256", "OAUTHBEARER")
    refused = "failed"

    def used(self, mechanism):
        return r"Logging in" if mechanism == "USER" else rf"Authenticating \({mechanism}\)"

    def authenticators(self, login):
        return "" if login.mechanism == "SCRAM-SHA-256" else super().authenticators(login)

    def debugging(self, login):
        return ("-d", "2", "-l", login.home / "trace"), login.home / "trace0"


def on_terminal(home, *command):
    """Run a program to its end on a terminal of its own; it trusts no unknown certificate."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        list(map(str, command)),
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        cwd=home,
        env={**os.environ, "TERM": "vt100", "HOME": str(home), "LC_ALL": "C.UTF-8"},
    )
    os.close(its)
    # Reading ends with the program.
    watchdog = Timer(PATIENCE, process.kill)
    watchdog.start()
    shown = b""
    try:
        while some := os.read(ours, 1 << 16):
            shown += some
            if b"(r)eject" in shown:
                os.write(ours, b"rq")
                shown = b""
    except OSError:
        # Thus Linux tells that nobody has the other end any more.
        pass
    finally:
        process.wait()
        watchdog.cancel()
        os.close(ours)


class _SClient(Client):
    """What one types into openssl s_client, all at once."""

    program = "openssl"
    transports = ("stls", "tls")
    mechanisms = ("USER", "PLAIN")

    def line_end(self, transport):
        return b"\r\n"

    def fetch(self, login):
        options = ["-quiet", "-connect", f"localhost:{login.port}", "-servername", "localhost"]
        options += ["-alpn", "pop3", "-verify_hostname", "localhost", "-verify_return_error"]
        options += ["-CAfile", login.ca]
        if login.transport == "stls":
            options += ["-starttls", "pop3"]
        initial = b64encode(f"\0{login.user}\0{login.secret}".encode()).decode()
        typed = {
            "USER": [f"USER {login.user}", f"PASS {login.secret}"],
            "PLAIN": [f"AUTH PLAIN {initial}"],
        }[login.mechanism]
        commands = [*typed, *(f"RETR {n + 1}" for n in range(len(SAMPLES))), "QUIT"]
        done = run(
            "openssl", "s_client", *options, input="".join(f"{c}\r\n" for c in commands).encode()
        )
        trace = "\n".join(typed) + done.stderr.decode()
        lines = iter(done.stdout.splitlines(keepends=True))
        greeting = 0 if login.transport == "stls" else 1
        statuses = list(islice(lines, greeting + len(typed)))
        trace += b"".join(statuses).decode()
        if not statuses or not statuses[-1].startswith(b"+OK"):
            return Outcome(False, trace)
        for n in range(len(SAMPLES)):
            next(lines)
            body = iter(partial(next, lines), b".\r\n")
            message = b"".join(line.removeprefix(b".") for line in body)
            (login.new / str(n)).write_bytes(message)
        return Outcome(next(lines).startswith(b"+OK"), trace)


class _Script(Client):
    """A script of ours around a library; it puts messages into a directory."""

    script: str

    def fetch(self, login):
        *first, home = login
        return outcome(self.program, PROGRAMS / self.script, *first, home / "got" / "new")


class _NetPOP3(_Script):
    """Perl's Net::POP3 with Authen::SASL, which sends an initial response if it has one."""

    program = "perl"
    script = "net_pop3.pl"
    mechanisms = ("USER", "PLAIN", "LOGIN", "CRAM-MD5", "EXTERNAL")

    def installed(self):
        modules = ("Net::POP3", "IO::Socket::SSL", "Authen::SASL", "Digest::HMAC_MD5")
        needed = (f"-M{module}" for module in modules)
        return super().installed() and run("perl", *needed, "-e", "1").returncode == 0

    def line_end(self, transport):
        # Over TLS it leaves line ends as they are.
        return b"\n" if transport == "plain" else b"\r\n"


class _Poplib(_Script):
    """Python's poplib, and scramp, which sends an initial response and binds to the certificate."""

    program = sys.executable
    script = "by_poplib.py"
    mechanisms = ("USER", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")


class _Twisted(_Script):
    """Twisted's AdvancedPOP3Client, which knows no SASL."""

    program = sys.executable
    script = "by_twisted.py"
    mechanisms = ("USER",)


CLIENTS = {
    "curl": _Curl(),
    "fetchmail": _Fetchmail(),
    "getmail": _Getmail(),
    "mpop": _Mpop(),
    "mutt": _Mutt(),
    "neomutt": _Neomutt(),
    "net_pop3": _NetPOP3(),
    "openssl": _SClient(),
    "poplib": _Poplib(),
    "twisted": _Twisted(),
}


class SecureClientTests(ServerTestCase):
    """Each client, by each transport, by each mechanism."""

    @property
    def options(self):
        """What is given to ``twistd pop3``: both ports, and all mechanisms."""
        return (
            *("--listen", LOOPBACK, "--listen-tls", LOOPBACK),
            *("--certificate", server_certificate(), "--client-ca", authority().file),
            *("--sasl", ",".join([*SASL, "SCRAM-SHA-256-PLUS"])),
        )

    def token(self, name):
        """Return a bearer token for a user."""
        raise NotImplementedError

    def needs(self, client):
        """Skip the test where the client is not installed, but never in CI."""
        if not client.installed():
            if "CI" in os.environ:
                self.fail(f"{client.program} is not installed")
            self.skipTest(f"{client.program} is not installed")

    def prepared(self, client, transport, mechanism, ca=None):
        """Add a user with all the samples that the client keeps; return what it must know."""
        name, _ = self.server.add_user(list(filter(client.keeps, SAMPLES)))
        home = temporary_directory(self)
        deliver(home / "got", [])
        return Login(
            self.server.ports[transport == "tls"],
            transport,
            mechanism,
            name,
            self.token(name) if mechanism in TOKENS else "secret",
            ca or authority().file,
            authority().issue(name) if mechanism == "EXTERNAL" else "",
            home,
        )

    def check_fetched(self, client, transport, mechanism):
        """Check that a client logs in by the mechanism, and has all to the byte."""
        login = self.prepared(client, transport, mechanism)
        made = client.fetch(login)
        self.assertTrue(made.welcome, made.trace)
        self.assertRegex(made.trace, client.used(mechanism))
        end = client.line_end(transport)
        expected = [wire_form(shown(message), end) for message in filter(client.keeps, SAMPLES)]
        self.assertEqual(sorted(stored(login.home / "got")), sorted(expected))

    def check_refused(self, client, transport):
        """Check that a wrong secret, or another's certificate, opens nothing by any mechanism."""
        wrong = []
        for mechanism in client.mechanisms:
            login = self.prepared(client, transport, mechanism)
            if login.certificate:
                other, _ = self.server.add_user()
                login = login._replace(certificate=authority().issue(other))
            wrong.append(login._replace(secret=login.secret.swapcase()))
        # All at once, for each has to wait for its answer.
        with ThreadPoolExecutor(len(wrong)) as pool:
            outcomes = list(pool.map(client.fetch, wrong))
        for login, made in zip(wrong, outcomes, strict=True):
            self.assertFalse(made.welcome, made.trace)
            self.assertRegex(made.trace, client.used(login.mechanism))
            self.assertIn(client.refused, made.trace)
            self.assertEqual(stored(login.home / "got"), [])

    def check_untrusted(self, client, transport):
        """Check that a client that does not know our CA says nothing of its user."""
        login = self.prepared(
            client, transport, client.mechanisms[0], ca=Authority("another CA").file
        )
        made = client.fetch(login)
        self.assertFalse(made.welcome, made.trace)
        self.assertNotIn(login.user, self.server.log)
        self.assertEqual(stored(login.home / "got"), [])


def _test(check, title, client, *arguments):
    def test(self):
        self.needs(client)
        check(self, client, *arguments)

    test.__doc__ = title
    return test


def _add_tests():
    """Give the class a test for each line of the table above."""
    for name, client in CLIENTS.items():
        *_, safest = client.transports
        named = {f"test_{name}_refused": (SecureClientTests.check_refused, safest)}
        for transport in client.transports:
            if transport != "plain":
                check = SecureClientTests.check_untrusted
                named[f"test_{name}_{transport}_untrusted"] = (check, transport)
            for mechanism in client.mechanisms:
                if transport != "plain" or mechanism not in NEED_TLS:
                    title = f"test_{name}_{transport}_{mechanism.lower().replace('-', '_')}"
                    check = SecureClientTests.check_fetched
                    named[title] = (check, transport, mechanism)
        for title, (check, *arguments) in named.items():
            setattr(SecureClientTests, title, _test(check, check.__doc__, client, *arguments))


_add_tests()
