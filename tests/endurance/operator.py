"""What the operator does to the server of a long run, and accidents, while clients use it."""

import signal
import socket
import time
from itertools import count

from popserv.auth.passwords.user_changes import UserChanges
from popserv.auth.passwords.users_file_editing import change_user, remove_user, set_secret
from tests.endurance.client import TIMEOUT
from tests.live.harness import until
from tests.soak.model import Fault
from tests.soak.operator import check_log

SECONDS_BETWEEN_KILLS = 61
"""The supervisor restarts a worker that has run for a minute at once, and others later."""


class Operator:
    """The actions of :data:`ACTIONS`, on a :class:`tests.soak.process.Process`.

    :ivar kills: the beginning and the end of each kill, by ``time.monotonic``.
    """

    GUEST = b"guest"

    def __init__(self, process):
        self.kills = []
        self._process = process
        self._numbers = count()

    def rotate(self):
        """Rotate the log, as logrotate does; the old one must contain no error."""
        number = signal.SIGHUP if next(self._numbers) % 2 else signal.SIGUSR1
        check_log(self._process.rotate(number))

    def renew(self):
        """Replace the certificate, and wait until new connections get it."""
        certificate = self._process.renew()

        def is_renewed():
            address = "127.0.0.1", self._process.tls_port
            plain = socket.create_connection(address, TIMEOUT)
            with self._process.wrap(plain) as client:
                return client.getpeercert(binary_form=True) == certificate

        until(is_renewed, "the new certificate", TIMEOUT)

    def change_users(self):
        """Add a user, change the password, disable, enable and remove the user."""
        users = str(self._process.users)
        changes = UserChanges(self.GUEST, users)
        set_secret(users, self.GUEST, b"{PLAIN}first", new=True)
        self._expect(b"first", is_right=True)
        set_secret(users, self.GUEST, b"{PLAIN}second", new=False)
        self._expect(b"second", is_right=True)
        self._expect(b"first", is_right=False)
        change_user(users, self.GUEST, changes.disable())
        self._expect(b"second", is_right=False)
        change_user(users, self.GUEST, changes.enable())
        self._expect(b"second", is_right=True)
        remove_user(users, self.GUEST)
        self._expect(b"second", is_right=False)

    def kill(self):
        """Kill a worker, if it is a minute since the last one, and wait for the next one."""
        workers = self._process.configuration.workers
        since = time.monotonic() - self.kills[-1][1] if self.kills else SECONDS_BETWEEN_KILLS
        if workers > 1 and since >= SECONDS_BETWEEN_KILLS:
            start = time.monotonic()
            self._process.kill_worker()
            self.kills.append((start, time.monotonic()))
            until(lambda: len(self._process.workers()) == workers, "the next worker", TIMEOUT)

    def _expect(self, password, *, is_right):
        # An address that has failed often waits for longer, so that each attempt has one of its
        # own.
        number = next(self._numbers)
        source = f"127.1.{number // 250 % 250}.{number % 250 + 1}", 0
        address = "127.0.0.1", self._process.port
        with socket.create_connection(address, TIMEOUT, source) as client:
            client.sendall(b"USER %b\r\nPASS %b\r\nQUIT\r\n" % (self.GUEST, password))
            replies = client.makefile("rb").read().split(b"\r\n")
        if replies[2].startswith(b"+OK") != is_right:
            raise Fault(f"after {password!r}, the guest gets {replies}")


ACTIONS = (Operator.rotate, Operator.kill, Operator.renew, Operator.change_users)
"""What happens in one round after the other."""
