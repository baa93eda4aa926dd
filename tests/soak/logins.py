"""How clients log in: by PASS, APOP, AUTH with PLAIN and SCRAM-SHA-256, and RPOP."""

import base64
import errno
import hashlib
import random
import re
import socket
import time
from itertools import count

from scramp import ScramClient, ScramException

from tests.soak.connection import Client
from tests.soak.model import Fault

RHOSTS = """\
127.0.0.0/8   -intruder   +
127.0.0.0/8   fetch       +
127.0.0.0/8   +           =
"""
"""The rhosts file: fetch reads all mail, and anybody but the intruder their own."""

WIDE_RHOSTS = "127.0.0.0/8 + +\n"
"""One that lets anybody read all mail."""

RESERVED = range(700, 1000)
"""Ports from which clients give RPOP."""


def has_reserved_ports():
    """Tell whether this process may use reserved ports."""
    with socket.socket() as unused:
        try:
            unused.bind(("127.0.0.1", RESERVED[-1]))
        except PermissionError:
            return False
        except OSError:
            # It is in use.
            return True
    return True


class Refused(Exception):
    """The server has refused a login before its end; the argument is the reply."""


class Logins:
    """Actions of clients that log in."""

    _wrong_logins = count()

    def login(self, user, choose):
        """Log in, and list everything."""
        if not user.session:
            self._login(user, choose)

    def _connect(self, name, *, tls=False, transcript=None, source=None):
        port = self.process.tls_port if tls else self.process.port
        wrap = self.process.wrap if tls else None
        client = Client(port, transcript or self.transcript, name, wrap, source)
        if not client.greeting.startswith(b"+OK"):
            raise Fault(f"the greeting is {client.greeting!r}")
        return client

    def _methods(self, user):
        """Return the methods by which a user can log in to the present server."""
        dialect = self.process.configuration.dialect
        has_rpop = dialect in ("pop-revised", "rfc1225")
        methods = ["RPOP"] if has_rpop and self.process.configuration.rhosts else []
        if user.has_apop:
            return methods if has_rpop else ["APOP"]
        return [*methods, "PASS", *(["PLAIN", "SCRAM"] if dialect == "modern" else [])]

    def _login(self, user, choose):
        """Log in by some method, and return whether there is one."""
        configuration = self.process.configuration
        methods = self._methods(user)
        if not methods:
            return False
        method = choose.choice(methods)
        tls = choose.random() < 0.3 and method != "RPOP"
        starts_tls = choose.random() < 0.3 and configuration.dialect == "modern" and not tls
        as_stored = choose.random() < 0.3 and configuration.utf8
        delivers = choose.random() < 0.15 and hasattr(self._store, "deliver")
        # What is shown should tell what is hidden.
        delivers &= not user.maildrop.maybe_hidden
        number = choose.getrandbits(64)
        self._settle(user)
        deadline = time.monotonic() + self.LOCK_SECONDS
        while True:
            client = self._connect_for(method, user, tls=tls)
            if starts_tls:
                if not client.ask(b"STLS").startswith(b"+OK"):
                    raise Fault("STLS was refused")
                client.start_tls(self.process.wrap)
            if as_stored and not client.ask(b"UTF8").startswith(b"+OK"):
                raise Fault("UTF8 was refused")
            client.send(self._credentials(method, user, client))
            snapshots = user.maildrop.shown(hides=self._hides)
            if delivers:
                self.deliver(user, random.Random(number))
                delivers = False
                snapshots += user.maildrop.shown(hides=self._hides)
            reply = client.line()
            if reply.startswith(b"+OK"):
                break
            client.close()
            if not (user.may_be_locked and reply.startswith(b"-ERR [IN-USE]")):
                raise Fault(f"{user.name} cannot log in: {reply!r}")
            if time.monotonic() > deadline:
                raise Fault(f"the maildrop of {user.name} stays locked")
            self.counts["waits"] += 1
            time.sleep(0.1)
        user.may_be_locked = False
        user.client = client
        self.counts["sessions"] += 1
        self.counts[method] += 1
        self._list(user, snapshots, as_stored=as_stored)
        return True

    @property
    def _hides(self):
        return self.process.configuration.deleted == "keep"

    def _connect_for(self, method, user, **options):
        """Connect, for RPOP from a reserved port."""
        if method != "RPOP":
            return self._connect(user.name, **options)
        for port in RESERVED:
            try:
                return self._connect(user.name, source=("127.0.0.1", port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise
        raise AssertionError("all reserved ports are in use")

    def _credentials(self, method, user, client, *, is_right=True):
        """Return the lines that log in, but for the last reply nothing remains to be read.

        :raises Refused: the server has refused them before the last line.
        """
        name = user.name.encode()
        password = user.password.encode() if is_right else b"wrong"
        if method == "APOP":
            timestamp = re.search(rb"<.*>", client.greeting)
            if timestamp is None:
                raise Fault("the greeting has no timestamp")
            digest = hashlib.md5(timestamp[0] + password).hexdigest().encode()
            return b"APOP %b %b\r\n" % (name, digest)
        if method == "PLAIN":
            return b"AUTH PLAIN " + base64.b64encode(b"\0%b\0%b" % (name, password)) + b"\r\n"
        if method == "SCRAM":
            return self._scram(client, user.name, password.decode())
        if not client.ask(b"USER " + name).startswith(b"+OK"):
            raise Fault("USER was refused")
        if method == "RPOP":
            remote = name if self.counts["RPOP"] % 2 else b"fetch"
            return b"RPOP %b\r\n" % (remote if is_right else b"intruder")
        return b"PASS " + password + b"\r\n"

    def _scram(self, client, name, password):
        """Carry out an exchange of SCRAM-SHA-256 but for its last, empty line."""
        exchange = ScramClient(["SCRAM-SHA-256"], name, password)

        def ask(text, prefix=b""):
            reply = client.ask(prefix + base64.b64encode(text.encode()))
            if not reply.startswith(b"+ "):
                raise Refused(reply)
            return base64.b64decode(reply.removeprefix(b"+ "), validate=True).decode()

        try:
            first = exchange.get_client_first()
            exchange.set_server_first(ask(first, b"AUTH SCRAM-SHA-256 "))
            exchange.set_server_final(ask(exchange.get_client_final()))
        except ScramException as error:
            raise Fault(f"SCRAM: {error}") from error
        return b"\r\n"

    def wrong_login(self, user, choose):
        """Wrong credentials are refused."""
        methods = self._methods(user)
        if not methods:
            return
        method = choose.choice(methods)
        if method == "RPOP":
            client = self._connect_for(method, user)
        else:
            # An address that has failed often waits for longer.
            number = next(self._wrong_logins)
            source = f"127.1.{number // 250 % 250}.{number % 250 + 1}", 0
            client = self._connect(user.name, source=source)
        try:
            client.send(self._credentials(method, user, client, is_right=False))
            reply = client.line()
        except Refused as error:
            (reply,) = error.args
        client.close()
        if not reply.startswith(b"-ERR") or reply.startswith(b"-ERR [IN-USE]"):
            raise Fault(f"wrong credentials of {user.name} by {method} get {reply!r}")

    def second_login(self, user, choose):
        """A second login while a session is open is refused, and does not end the session."""
        if not (user.session and user.session.entries):
            # Where there is no Maildir, nothing is locked.
            return
        method = choose.choice(self._methods(user))
        client = self._connect_for(method, user, tls=choose.random() < 0.3)
        client.send(self._credentials(method, user, client))
        reply = client.line()
        client.close()
        if not reply.startswith(b"-ERR [IN-USE]"):
            raise Fault(f"the reply to a second login is {reply!r}")
        self._talk(user, [b"STAT"])
