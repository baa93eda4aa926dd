"""Real clients log in by STLS, implicit TLS and SASL, and fetch real mail to the byte.

Each client is asked for every mechanism that it knows, in the clear, after STLS and
over implicit TLS; what it tells of the session shows that it really used that one.
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
    PATIENCE,
    SAMPLES,
    Server,
    ServerTestCase,
    deliver,
    lines_of,
    run,
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


class Provider:
    """Who gives tokens to users, and the file by which popserv knows it."""

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


def header_of(message):
    """Return a message's header, to its end or to the message's."""
    lines = lines_of(message)
    return b"\n".join(lines[: lines.index(b"")] if b"" in lines else lines)


class Client:
    """A program that fetches mail; each way tells what is peculiar to it."""

    program: str
    transports = ("plain", "stls", "tls")
    mechanisms: tuple
    chooses = False
    """Whether it chooses a mechanism for itself if it is told of none."""
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
        if not mechanism:
            return "$"
        return r"\bUSER \S" if mechanism == "USER" else rf"\bAUTH {mechanism}(?![-\w])"

    def gets(self, message):
        """Tell whether it stores a message as it is on the server."""
        # Without UTF8, a header that needs it is sent in another form (RFC 6856).
        return header_of(message).isascii()

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


class _Curl(Client):
    """Curl sends AUTH alone, and prefers OAUTHBEARER to XOAUTH2, and SASL to USER."""

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
        return outcome("curl", *options, "--output", login.new / "#1", urls)


class _Mpop(Client):
    """Mpop sends an initial response with OAUTHBEARER alone, and pipelines."""

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
            f"delivery maildir {login.home}/got",
            "received_header off",
        )
        return outcome("mpop", "--debug", "--file", file)


class _Fetchmail(Client):
    """Fetchmail, which reads by TOP."""

    program = "fetchmail"
    chooses = True
    mechanisms = ("USER", "CRAM-MD5")

    def gets(self, message):
        # It gives a message that is nothing but a header an empty body.
        return super().gets(message) and b"" in lines_of(message)

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
        return outcome("fetchmail", *options, env=environment)


class _Getmail(Client):
    """Getmail knows no STLS, and traces nothing; a token is good for nothing but XOAUTH2."""

    program = "getmail"
    transports = ("plain", "tls")
    mechanisms = ("USER", "XOAUTH2")
    refused = "ERR"

    def gets(self, message):
        # It gives a message that is nothing but a header an empty body.
        return super().gets(message) and b"" in lines_of(message)

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
    chooses = True
    mechanisms = ("USER", *SASL)

    def authenticators(self, login):
        """Return the line that chooses the mechanism."""
        return f'set pop_authenticators="{login.mechanism.lower()}"' if login.mechanism else ""

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
            f'set pop_oauth_refresh_command="{token}"' if login.mechanism in TOKENS else "",
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
    """Neomutt, which can be told of these alone, and else takes what GNU SASL likes best."""

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
    chooses = True
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
    """Python's poplib with UTF8, and scramp, which binds to the certificate."""

    program = sys.executable
    script = "by_poplib.py"
    mechanisms = ("USER", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")

    def gets(self, message):
        return True


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


class _SecureTestCase(ServerTestCase):
    """Tests of clients with a server that has both ports, and users with passwords or tokens."""

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

    def needs(self, client):
        """Skip the test where the client is not installed, but never in CI."""
        if not client.installed():
            if "CI" in os.environ:
                self.fail(f"{client.program} is not installed")
            self.skipTest(f"{client.program} is not installed")

    def prepared(self, client, transport, mechanism, ca=None):
        """Add a user who has all samples; return what the client must know."""
        name, _ = self.server.add_user(SAMPLES)
        home = temporary_directory(self)
        deliver(home / "got", [])
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
        """Check that a client logs in by the mechanism, and has all to the byte."""
        login = self.prepared(client, transport, mechanism)
        made = client.fetch(login)
        self.assertTrue(made.welcome, made.trace)
        self.assertRegex(made.trace, client.used(mechanism))
        got, end = stored(login.home / "got"), client.line_end(transport)
        self.assertEqual(len(got), len(SAMPLES))
        whole = [wire_form(message, end) for message in filter(client.gets, SAMPLES)]
        self.assertEqual([message for message in whole if message not in got], [])

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


class MechanismTests(_SecureTestCase):
    """Each client, by each transport, by each mechanism that it can be told to use."""

    options = ("--sasl", ",".join([*SASL, "SCRAM-SHA-256-PLUS"]))


class ChoiceTests(_SecureTestCase):
    """Each client, by each transport, if neither it nor the server is told of mechanisms."""


def _test(check, title, client, *arguments):
    def test(self):
        self.needs(client)
        check(self, client, *arguments)

    test.__doc__ = title
    return test


def _add_tests():
    """Give the classes a test for each client, transport and mechanism."""
    fetched, refused, untrusted = (
        _SecureTestCase.check_fetched,
        _SecureTestCase.check_refused,
        _SecureTestCase.check_untrusted,
    )
    for name, client in CLIENTS.items():
        *_, safest = client.transports
        tests = [(MechanismTests, "refused", refused, safest)]
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
