"""What the operator does in a run, and the accidents."""

import signal
import time

from popserv.auth.passwords.users_file_editing import remove_user, set_secret
from tests.live.harness import until
from tests.soak.model import Fault
from tests.soak.process import Configuration
from tests.soak.session import COMMANDS
from tests.soak.user import User


def check_log(text):
    """Look for errors in a log.

    :raises Fault: there is one.
    """
    for sign in ("Traceback", "Unhandled", "Unexpected error"):
        if sign in text:
            at = text.index(sign)
            raise Fault(f"the log has an error:\n{text[max(0, at - 1000) : at + 3000]}")


class Operator:
    """Actions of the operator, and accidents."""

    def new_server(self, _user, choose):
        """Stop the server, and start one with another configuration."""
        if self._servers:
            self._stop()
        dialect = self._dialects[(self._servers + len(self._kind)) % len(self._dialects)]
        workers = choose.choice([1, 2, 3]) if self._store.is_kept else 1
        marks_seen = choose.random() < 0.5 and "LAST" not in COMMANDS[dialect]
        utf8 = choose.random() < 0.5 and dialect == "modern"
        deleted = choose.choice(["remove", "keep", "move:Trash"])
        if self._kind != "maildir" or "UIDL" not in COMMANDS[dialect]:
            deleted = "remove"
        self._servers += 1
        configuration = Configuration(
            dialect,
            workers,
            marks_seen and not self._broken,
            utf8 and self._broken in ("", "utf8-ignored"),
            deleted if self._broken in ("", "deleted-ignored") else "remove",
            self._rhosts if dialect in ("rfc1225", "pop-revised") else None,
        )
        self.transcript.add("operator", f"starts {configuration}")
        self.process.start(configuration)
        self._forget()

    def restart(self, _user, choose):
        """Stop the server in order or not, and start it again."""
        number = choose.choice([signal.SIGTERM, signal.SIGKILL])
        self._stop(number)
        self.process.start()
        self._forget()

    def close(self):
        """Stop the server, after a fault as well."""
        for user in self.users:
            if user.client:
                user.client.close()
        self.process.stop(signal.SIGKILL)
        self._store.close()

    def _stop(self, number=signal.SIGTERM):
        self.transcript.add("operator", f"stops the server by {number!r}")
        self.process.stop(number)
        check_log(self.process.log())
        if number == signal.SIGKILL:
            self._doubt_locks()
        for user in self.users:
            self._lose(user, is_killed=number == signal.SIGKILL)

    def _forget(self):
        if not self._store.is_kept:
            for user in self.users:
                user.maildrop.forget()

    def kill_worker(self, _user, _choose):
        """Kill a worker, or the only process; sessions of other workers continue."""
        self.process.kill_worker()
        self._after_kill()

    def _after_kill(self):
        self.transcript.add("operator", "has killed a worker")
        self.counts["kills"] += 1
        self._store.settle()
        if not self._store.is_kept:
            self._forget()
        self._doubt_locks()
        for user in self.users:
            if user.session and not user.client.ask(b"NOOP").startswith(b"+OK"):
                self._lose(user, is_killed=True)

    def _doubt_locks(self):
        """Remember that locks of sessions that ended just before may not have been released."""
        for user in self.users:
            if time.monotonic() - user.quit_at < self._store.release_seconds:
                user.may_be_locked = True

    def _lose(self, user, *, is_killed):
        """Record that a session has ended without QUIT."""
        if user.session:
            user.client.close()
            user.client = user.session = None
            user.may_be_locked = True
        if is_killed and self._store.is_kept:
            bodies = {message.key: message.body for message in user.maildrop.messages}
            self._store.repair(user.name, bodies)
            self._settle(user)

    def reload(self, _user, _choose):
        """Have the server read its files again."""
        self.process.signal(signal.SIGHUP)

    def rotate(self, _user, _choose):
        """Rotate the log, and look for errors in the old file."""
        check_log(self.process.rotate(signal.SIGHUP))

    def renew(self, _user, _choose):
        """Replace the certificate; new connections get the new one, and others go on."""
        certificate = self.process.renew()

        def is_renewed():
            client = self._connect("operator", tls=True)
            found = client.certificate()
            client.ask(b"QUIT")
            client.close()
            return found == certificate

        until(is_renewed, "the new certificate")

    def change_users(self, user, choose):
        """Change a user's password, and add and remove another user."""
        path = str(self.process.users)
        user.password = f"secret{choose.getrandbits(32)}"
        scheme = "APOP" if user.has_apop else "PLAIN"
        field = f"{{{scheme}}}{user.password}".encode()
        set_secret(path, user.name.encode(), field, new=False)
        other = User(f"other{choose.getrandbits(32)}", self._store.normalize)
        set_secret(path, other.name.encode(), b"{PLAIN}secret", new=True)
        if not self._login(other, choose):
            raise Fault(f"the new user {other.name} cannot log in")
        self._quit(other)
        remove_user(path, other.name.encode())
