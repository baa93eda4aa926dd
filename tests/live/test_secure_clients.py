"""Real clients log in with STLS, implicit TLS and SASL, and fetch real mail octet for octet.

Each client is tested with every mechanism that it supports, in cleartext, after STLS and
over implicit TLS.  Its trace of the session shows that it used that mechanism.
"""

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from functools import cache, partial
from itertools import islice
from pathlib import Path
from threading import Timer
from typing import NamedTuple

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import ECAlgorithm

from popserv.auth.passwords.users_file import default_path
from tests.live.harness import (
    BIN,
    LOOPBACK,
    SAMPLES,
    TIMEOUT,
    Server,
    ServerTestCase,
    deliver,
    read_maildir,
    run,
    split_lines,
    temporary_directory,
    wire_form,
)

TOKENS = ("OAUTHBEARER", "XOAUTH2")
SASL = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "EXTERNAL", *TOKENS)
"""The mechanisms of both popserv and GNU SASL; clients also list USER, a login by USER and PASS."""

NEED_TLS = ("EXTERNAL", "SCRAM-SHA-256-PLUS")

PROGRAMS = Path(__file__).parent / "programs"


class Authority:
    """A certificate authority, with the file of its certificate, which clients trust."""

    def __init__(self, name="our CA"):
        self.folder = temporary_directory()
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _named(name)
        basic = x509.BasicConstraints(ca=True, path_length=None)
        certificate = self._certify(self._name, self._key, basic)
        self.file = self.folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, name, *extensions):
        """Issue a certificate for a name; return the file with the certificate and its key."""
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
    """Return a file with a certificate for localhost and its key."""
    return authority().issue("server", x509.SubjectAlternativeName([x509.DNSName("localhost")]))


class Provider:
    """An OAuth provider that issues tokens, with popserv's configuration file for it."""

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = temporary_directory() / "oauth"
        keys = {"keys": [{**ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True), "kid": "1"}]}
        self.file.with_suffix(".json").write_text(json.dumps(keys))
        self.file.write_text(
            "[oauth]\njwks = oauth.json\nuser = sub\n"
            "issuer = https://idp.example\naudience = pop3\n"
        )

    def token(self, name):
        """Return a new token for a user."""
        end = int(time.time()) + 600
        claims = {"iss": "https://idp.example", "aud": "pop3", "sub": name, "exp": end}
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"kid": "1"})


provider = cache(Provider)


class Login(NamedTuple):
    """The parameters of a client's session."""

    port: int
    transport: str
    mechanism: str
    user: str
    secret: str
    """The password or token."""
    ca: Path
    certificate: Path | str
    """The user's certificate and key for EXTERNAL; otherwise an empty string."""
    home: Path
    """The session's own directory, with an empty Maildir ``maildir``."""

    @property
    def new(self):
        """The directory for messages of a client that does not support Maildirs."""
        return self.home / "maildir" / "new"


class Outcome(NamedTuple):
    """The result of a client's session."""

    success: bool
    """Whether the client reports success."""
    trace: str
    """The client's trace of the session."""


class Client:
    """A program that fetches mail; subclasses describe its behaviour."""

    program: str
    transports = ("plain", "stls", "tls")
    mechanisms: tuple
    chooses = False
    """Whether it selects a mechanism itself if none is configured."""
    refused = "-ERR"
    """The text in the trace if the server has refused the login."""

    def installed(self):
        """Tell whether the program is installed."""
        return (BIN / self.program).exists() or shutil.which(self.program)

    def fetch(self, login):
        """Fetch all mail into the Maildir and leave it on the server; return an Outcome."""
        raise NotImplementedError

    def used(self, mechanism):
        """Return a pattern that the trace of a session with this mechanism contains."""
        if not mechanism:
            return "$"
        return r"\bUSER \S" if mechanism == "USER" else rf"\bAUTH {mechanism}(?![-\w])"

    def preserves(self, message):
        """Tell whether the client stores a message unchanged."""
        return True

    def line_end(self, transport):
        """Return the line ending of the messages that the client stores."""
        return b"\n"


def run_client(program, *arguments, **options):
    """Run a program that reports success by its exit code; return the Outcome."""
    done = run(program, *arguments, **options)
    return Outcome(done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace"))


def configuration(login, *lines):
    """Write a program's configuration file; return its path."""
    file = login.home / "rc"
    file.write_text("".join(f"{line}\n" for line in lines))
    file.chmod(0o600)
    return file


def delivery_agent(login):
    """Write a program that delivers a message into the Maildir; return its path."""
    file = login.home / "agent"
    file.write_text(f"#!/bin/sh\ncd {login.new} && exec cat > $(ls | wc -l)\n")
    file.chmod(0o700)
    return file


class _Curl(Client):
    """Curl sends no initial response, and prefers OAUTHBEARER to XOAUTH2 and SASL to USER."""

    program = "curl"
    chooses = True
    mechanisms = ("PLAIN", "LOGIN", "CRAM-MD5", "OAUTHBEARER", "EXTERNAL")

    def line_end(self, transport):
        return b"\r\n"

    def fetch(self, login):
        password = login.secret if login.mechanism not in NEED_TLS + TOKENS else ""
        options = ["--verbose", "--silent", "--fail-early", "--cacert", login.ca]
        options += ["--user", f"{login.user}:{password}"]
        if login.mechanism:
            options += ["--login-options", f"AUTH={login.mechanism}"]
        if login.mechanism in TOKENS:
            options += ["--oauth2-bearer", login.secret]
        if login.certificate:
            options += ["--cert", login.certificate]
        if login.transport == "stls":
            options += ["--ssl-reqd"]
        scheme = "pop3s" if login.transport == "tls" else "pop3"
        urls = f"{scheme}://localhost:{login.port}/[1-{len(SAMPLES)}]"
        return run_client("curl", *options, "--output", login.new / "#1", urls)


class _Mpop(Client):
    """Mpop sends an initial response only for OAUTHBEARER, and pipelines."""

    program = "mpop"
    chooses = True
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
            f"auth {login.mechanism.lower() or 'on'}",
            f"user {login.user}",
            f"password {login.secret}",
            f"uidls_file {login.home}/uidls",
            "keep on",
            f"delivery maildir {login.home}/maildir",
            "received_header off",
        )
        return run_client("mpop", "--debug", "--file", file)


class _Fetchmail(Client):
    """Fetchmail fetches messages by TOP."""

    program = "fetchmail"
    chooses = True
    mechanisms = ("USER", "CRAM-MD5")

    def preserves(self, message):
        # It adds an empty body to a header-only message.
        return b"" in split_lines(message)

    def fetch(self, login):
        transport = {
            "plain": 'sslproto ""',
            "stls": f"sslproto TLS1.2+ sslcertck sslcertfile {login.ca}",
            "tls": f"ssl sslcertck sslcertfile {login.ca}",
        }
        auth = {"USER": "password", "CRAM-MD5": "cram-md5", "": "any"}[login.mechanism]
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
        return run_client("fetchmail", *options, env=environment)


class _Getmail(Client):
    """Getmail supports neither STLS nor a trace, and tokens only with XOAUTH2."""

    program = "getmail"
    transports = ("plain", "tls")
    mechanisms = ("USER", "XOAUTH2")
    refused = "ERR"

    def preserves(self, message):
        # It adds an empty body to a header-only message.
        return b"" in split_lines(message)

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
            # The other destinations do not work as root.
            "type = MDA_external",
            f"path = {delivery_agent(login)}",
            "allow_root_commands = true",
            "[options]",
            "delete = false",
            "delivered_to = false",
            "received = false",
        )
        return run_client("getmail", "--getmaildir", login.home, "--rcfile", "rc")


class _Mutt(Client):
    """Mutt requires a terminal, and always sends an authorization identity."""

    program = "mutt"
    chooses = True
    mechanisms = ("USER", *SASL)

    def authenticators(self, login):
        """Return the configuration line that selects the mechanism."""
        return f'set pop_authenticators="{login.mechanism.lower()}"' if login.mechanism else ""

    def debugging(self, login):
        """Return the options for a trace, and the trace file."""
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
            f'set pop_oauth_refresh_command="{token}"' if login.mechanism in TOKENS else "",
            self.authenticators(login),
            f"set ssl_starttls={'yes' if login.transport == 'stls' else 'no'}",
            f"set ssl_force_tls={'no' if login.transport == 'plain' else 'yes'}",
            f"set ssl_ca_certificates_file={login.ca} certificate_file={home}/accepted",
            f"set ssl_client_cert={login.certificate}" if login.certificate else "",
            "set pop_delete=no pop_last=no pop_reconnect=no",
            f"set mbox_type=Maildir folder={home} spoolfile={home}/maildir record=",
            "set quit=yes move=no sleep_time=0 wait_key=no",
            'push "<fetch-mail><quit>"',
        )
        options, trace = self.debugging(login)
        on_terminal(home, self.program, "-n", "-F", file, *options)
        # The exit code does not report failures.
        return Outcome(bool(read_maildir(home / "maildir")), trace.read_text(errors="replace"))


class _Neomutt(_Mutt):
    """Neomutt supports only these as a choice; otherwise GNU SASL selects the mechanism."""

    program = "neomutt"
    mechanisms = ("USER", "OAUTHBEARER")
    refused = "failed"

    def used(self, mechanism):
        if not mechanism:
            return "$"
        return r"Logging in" if mechanism == "USER" else rf"Authenticating \({mechanism}\)"

    def debugging(self, login):
        return ("-d", "2", "-l", login.home / "trace"), login.home / "trace0"


def on_terminal(home, *command):
    """Run a program on a new terminal until it exits; reject unknown certificates."""
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
    # The read fails when the program has exited.
    watchdog = Timer(TIMEOUT, process.kill)
    watchdog.start()
    output = b""
    try:
        while data := os.read(ours, 1 << 16):
            output += data
            if b"(r)eject" in output:
                os.write(ours, b"rq")
                output = b""
    except OSError:
        # Linux reports the closed terminal as an error.
        pass
    finally:
        process.wait()
        watchdog.cancel()
        os.close(ours)


class _SClient(Client):
    """openssl s_client, with all commands as its input."""

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
        login_commands = {
            "USER": [f"USER {login.user}", f"PASS {login.secret}"],
            "PLAIN": [f"AUTH PLAIN {initial}"],
        }[login.mechanism]
        commands = [*login_commands, *(f"RETR {n + 1}" for n in range(len(SAMPLES))), "QUIT"]
        done = run(
            "openssl", "s_client", *options, input="".join(f"{c}\r\n" for c in commands).encode()
        )
        trace = "\n".join(login_commands) + done.stderr.decode()
        lines = iter(done.stdout.splitlines(keepends=True))
        greeting = 0 if login.transport == "stls" else 1
        statuses = list(islice(lines, greeting + len(login_commands)))
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
    """A script that uses a client library; it writes the messages into a directory."""

    script: str

    def fetch(self, login):
        *first, home = login
        return run_client(self.program, PROGRAMS / self.script, *first, home / "maildir" / "new")


class _NetPOP3(_Script):
    """Perl's Net::POP3 with Authen::SASL, which sends an initial response if possible."""

    program = "perl"
    chooses = True
    script = "net_pop3.pl"
    mechanisms = ("USER", "PLAIN", "LOGIN", "CRAM-MD5", "EXTERNAL")

    def installed(self):
        modules = ("Net::POP3", "IO::Socket::SSL", "Authen::SASL", "Digest::HMAC_MD5")
        needed = (f"-M{module}" for module in modules)
        return super().installed() and run("perl", *needed, "-e", "1").returncode == 0

    def line_end(self, transport):
        # Over TLS it does not convert line endings.
        return b"\n" if transport == "plain" else b"\r\n"


class _Poplib(_Script):
    """Python's poplib, with scramp for SCRAM and channel binding."""

    program = sys.executable
    script = "by_poplib.py"
    mechanisms = ("USER", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")


class _Twisted(_Script):
    """Twisted's AdvancedPOP3Client, which does not support SASL."""

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


class _SecureTestCase(ServerTestCase):
    """Tests with a server with both ports, and users with passwords or tokens."""

    def new_server(self):
        root = temporary_directory()
        return Server(
            *("--listen", LOOPBACK, "--listen-tls", LOOPBACK),
            *("--certificate", server_certificate(), "--client-ca", authority().file),
            *("--auth", f"passwd-file:{default_path(str(root))}"),
            *("--auth", f"oauth:{provider().file}"),
            *self.options,
            root=root,
        )

    def require_client(self, client):
        """Skip the test if the client is not installed; in CI, fail it."""
        if not client.installed():
            if "CI" in os.environ:
                self.fail(f"{client.program} is not installed")
            self.skipTest(f"{client.program} is not installed")

    def prepare_login(self, transport, mechanism, ca=None):
        """Add a user with all sample messages; return the Login for a client."""
        name, _ = self.server.add_user(SAMPLES)
        home = temporary_directory(self)
        deliver(home / "maildir", [])
        return Login(
            self.server.ports[transport == "tls"],
            transport,
            mechanism,
            name,
            provider().token(name) if mechanism in TOKENS else "secret",
            ca or authority().file,
            authority().issue(name) if mechanism == "EXTERNAL" else "",
            home,
        )

    def check_fetched(self, client, transport, mechanism):
        """The client logs in by the mechanism and receives the messages octet for octet."""
        login = self.prepare_login(transport, mechanism)
        outcome = client.fetch(login)
        self.assertTrue(outcome.success, outcome.trace)
        self.assertRegex(outcome.trace, client.used(mechanism))
        received, end = read_maildir(login.home / "maildir"), client.line_end(transport)
        self.assertEqual(len(received), len(SAMPLES))
        expected = [wire_form(message, end) for message in filter(client.preserves, SAMPLES)]
        self.assertEqual([message for message in expected if message not in received], [])

    def check_refused(self, client, transport):
        """With a wrong secret or another user's certificate the client cannot log in."""
        logins = []
        for mechanism in client.mechanisms:
            login = self.prepare_login(transport, mechanism)
            if login.certificate:
                other, _ = self.server.add_user()
                login = login._replace(certificate=authority().issue(other))
            logins.append(login._replace(secret=login.secret.swapcase()))
        # In parallel, because the server delays each reply.
        with ThreadPoolExecutor(len(logins)) as pool:
            outcomes = list(pool.map(client.fetch, logins))
        for login, outcome in zip(logins, outcomes, strict=True):
            self.assertFalse(outcome.success, outcome.trace)
            self.assertRegex(outcome.trace, client.used(login.mechanism))
            self.assertIn(client.refused, outcome.trace)
            self.assertEqual(read_maildir(login.home / "maildir"), [])

    def check_untrusted(self, client, transport):
        """A client that does not trust the CA does not send the user name."""
        login = self.prepare_login(transport, client.mechanisms[0], ca=Authority("another CA").file)
        outcome = client.fetch(login)
        self.assertFalse(outcome.success, outcome.trace)
        self.assertNotIn(login.user, self.server.log)
        self.assertEqual(read_maildir(login.home / "maildir"), [])


class MechanismTests(_SecureTestCase):
    """Each client with each transport and each mechanism that it can be configured to use."""

    options = ("--sasl", ",".join([*SASL, "SCRAM-SHA-256-PLUS"]))


class ChoiceTests(_SecureTestCase):
    """Each client with each transport, with no mechanism configured."""


def _test(check, title, client, *arguments):
    def test(self):
        self.require_client(client)
        check(self, client, *arguments)

    test.__doc__ = title
    return test


def _add_tests():
    """Add a test for each client, transport and mechanism to the classes."""
    fetched, refused, untrusted = (
        _SecureTestCase.check_fetched,
        _SecureTestCase.check_refused,
        _SecureTestCase.check_untrusted,
    )
    for name, client in CLIENTS.items():
        last_transport = client.transports[-1]
        tests = [(MechanismTests, "refused", refused, last_transport)]
        for transport in client.transports:
            if transport != "plain":
                tests.append((MechanismTests, f"{transport}_untrusted", untrusted, transport))
            if client.chooses:
                tests.append((ChoiceTests, transport, fetched, transport, ""))
            for mechanism in client.mechanisms:
                if transport != "plain" or mechanism not in NEED_TLS:
                    title = f"{transport}_{mechanism.lower().replace('-', '_')}"
                    tests.append((MechanismTests, title, fetched, transport, mechanism))
        for owner, title, check, *arguments in tests:
            test = _test(check, check.__doc__, client, *arguments)
            setattr(owner, f"test_{name}_{title}", test)


_add_tests()
