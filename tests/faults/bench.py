"""A server with one store, the maildrops of its users, and the programs that use them."""

import os
import random
import shutil
import signal
import socket

from tests.faults.database import Database
from tests.live.harness import Connection, until
from tests.live.test_lmtp import LMTP
from tests.soak.stores import STORES
from tests.soak.stores.maildir import Maildir

STALE_AGE = 300
"""Seconds after which any dotlock is stale."""


def message(number, octets=0):
    """Return a message, of about so many octets."""
    line = b"%d: all that is here must be there afterwards\n" % number
    return (
        b"From: s@example.org\nSubject: message %d\nMessage-ID: <%d@example.org>\n\n"
        % (number, number)
    ) + line * max(2, octets // len(line))


MESSAGES = (message(1), message(2, 3000), message(3, 150_000), message(4))
"""The third is larger than what a store keeps in memory."""


LISTED = 2
"""The messages in the lists of Dovecot."""

VALIDITY = b"1700000000"
"""The UIDVALIDITY in the lists of Dovecot, with which their unique-ids begin."""


class _ListedMaildirs(Maildir):
    """Maildirs whose first messages are in the list of Dovecot; the server adds the others."""

    def deliver(self, user, body, choose):
        """See Store."""
        key = super().deliver(user, body, choose)
        path = self.root / user / "dovecot-uidlist"
        first = f"3 V{VALIDITY.decode()} N3 G0"
        lines = path.read_text().splitlines() if path.exists() else [first]
        if len(lines) <= LISTED:
            path.write_text("\n".join([*lines, f"{len(lines)} :{key}", ""]))
        return key


_STORES = {**STORES, "sql": Database}


class Bench:
    """One store, with a server that is started when it is needed.

    :param root: the directory that is made for all its files.
    :param kind: the store, as :data:`tests.soak.stores.STORES` names it.
    :param options: more options of the server.
    :ivar is_listed: whether the maildrops have lists of Dovecot.
    :ivar is_kept: whether messages that sessions remove stay for other programs.
    :ivar pid: the process of the server, or None.
    :ivar patch: one of :mod:`tests.faults.patches` for the servers and commands that are started,
        or None.
    """

    USERS = 500
    """Each run has a user of its own, so that nothing that the server keeps is from another run."""

    def __init__(self, root, shim, prepared, kind, *options):
        self.shim = shim
        self.prepared = prepared
        self.kind = kind
        self.root = root
        self.root.mkdir()
        self.is_listed = "--uidl" in options
        self.is_kept = "keep" in options
        self.store = (_ListedMaildirs if self.is_listed else _STORES[kind])(self.root)
        self.mail = self.store.root
        self.log_file = self.root / "log"
        self.control = self.root / "control"
        self._options = options
        self.patch = None
        self.pid = None
        self._bystander = None
        self._serial = 0
        self.users = self.root / "auth" / "users"
        self.users.parent.mkdir()
        self.users.write_text("".join(f"u{each}:{{PLAIN}}secret\n" for each in range(self.USERS)))
        self.users.chmod(0o600)
        self.edits = self.root / "edits"
        self.edits.mkdir()
        self.temporary = prepared.temporary
        self._sources = {}
        self.choose = random.Random(0)
        self.clear()

    def clear(self):
        """Begin with the mail of the bystander only, which an SQL store gets from a server."""
        if self.kind == "sql":
            self.store.clear()
        else:
            self.deliver("u0", MESSAGES[:1])

    def new_user(self):
        """Return the name of a user who has no maildrop; the server is running then."""
        if self._serial == self.USERS - 1:
            self.stop()
            for each in (self.mail, self.edits, *(each.root for each in self._sources.values())):
                shutil.rmtree(each)
                each.mkdir()
            self.clear()
            self._serial = 0
        self.start()
        self._serial += 1
        return f"u{self._serial}"

    def deliver(self, user, messages):
        """Deliver messages as another program does; return what there is of each, by its key."""
        if self.kind != "sql":
            return {self.store.deliver(user, each, self.choose): each for each in messages}
        for each in messages:
            if not (reply := self.post(user, each)).startswith("2"):
                raise AssertionError(f"LMTP: {reply}")
        return {}

    def source(self, kind):
        """Return another store, from which mail is copied."""
        if kind not in self._sources:
            root = self.root / f"from-{kind}"
            root.mkdir()
            self._sources[kind] = STORES[kind](root)
        return self._sources[kind]

    def command(self, *argv, text=b""):
        """Run a command of popserv; return its exit code, and what it has printed."""
        output = self.root / "output"
        output.write_bytes(b"")
        pid = self.prepared.start(output, "popserv", *argv, text=text, patch=self.patch)
        code = self.prepared.wait(pid)
        return code, output.read_text(errors="backslashreplace")

    def read(self, user):
        """Return the messages that another program sees."""
        return [self.store.normalize(body) for _, body, _ in self.store.read(user)]

    def logged(self):
        """Return the octets that the server and the commands have logged."""
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def log(self, start=0):
        """Return what they have logged after so many octets."""
        with self.log_file.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="backslashreplace")

    def start(self):
        """Start the server unless it runs, with a session of another user."""
        if self.pid is not None:
            return
        for each in ("pop3", "lmtp"):
            (self.root / each).unlink(missing_ok=True)
        self.pid = self.prepared.start(
            *(self.log_file, "twistd", "--nodaemon", "--pidfile=", "pop3"),
            *("--store", self.store.name, "--auth", f"passwd-file:{self.users}"),
            *("--listen", f"unix:{self.root}/pop3", "--mark-seen"),
            *("--control", f"unix:{self.control}"),
            *("--lmtp", f"unix:{self.root}/lmtp", "--recipient-local-part", *self._options),
            patch=self.patch,
        )

        def is_ready():
            try:
                for each in ("pop3", "lmtp"):
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(str(self.root / each))
            except OSError:
                return False
            return True

        until(is_ready, f"the server of {self.root}")
        if self.kind == "sql":
            self.deliver("u0", MESSAGES[:1])

        def has_bystander():
            self._bystander = self.connect()
            if self.login(self._bystander, "u0").startswith(b"+OK"):
                return True
            # After a server was killed, a lease must expire.
            self._bystander.abandon()
            return False

        until(has_bystander, f"the login of u0: {self.log_file}")

    def connect(self):
        """Return a new connection."""
        return Connection(str(self.root / "pop3"))

    def login(self, connection, user):
        """Log in; return the last reply."""
        connection.ask(b"USER " + user.encode())
        return connection.ask(b"PASS secret")

    def post(self, user, text):
        """Deliver a message by LMTP; return the reply to it, empty if the server is gone."""
        lmtp = None
        try:
            lmtp = LMTP(self.root / "lmtp")
            lmtp.ask(b"LHLO x", b"MAIL FROM:<s@example.org>")
            accepted = lmtp.ask(b"RCPT TO:<%b@example.org>" % user.encode())[0]
            if not accepted.startswith("250"):
                return accepted
            lmtp.ask(b"DATA")
            lmtp.socket.sendall(text.replace(b"\n", b"\r\n") + b".\r\n")
            return lmtp.reply()
        except OSError:
            return ""
        finally:
            if lmtp is not None:
                lmtp.close()

    def age_dotlocks(self, *, of_mboxes=False):
        """Let the time pass after which the dotlocks of Dovecot's lists are stale.

        Those of mbox files name their process, unless a power loss has taken that away.
        """
        patterns = ["*/dovecot-uidlist.lock", *(["*.lock"] if of_mboxes else [])]
        for root in (self.mail, *(each.root for each in self._sources.values())):
            for path in (path for pattern in patterns for path in root.glob(pattern)):
                old = path.stat().st_mtime - STALE_AGE - 1
                os.utime(path, (old, old))

    def check_bystander(self):
        """Check that the session of another user is as it was."""
        replies = [self._bystander.ask(b"NOOP"), self._bystander.ask(b"RETR 1")]
        if not all(each.startswith(b"+OK") for each in replies):
            raise AssertionError(f"another session was told {replies}")
        self._bystander.lines()

    def close(self):
        """Stop the server, and close the store."""
        self.stop()
        self.store.close()

    def stop(self, number=signal.SIGTERM):
        """Stop the server, or find that it was killed; return its exit code."""
        if self.pid is None:
            return None
        self._bystander.abandon()
        if number:
            os.kill(self.pid, number)
        code = self.prepared.wait(self.pid)
        self.pid = None
        return code
