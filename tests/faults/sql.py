"""The SQL store: system calls on the sockets of its database fail, or on its objects."""

import shutil
from contextlib import suppress

from tests.faults.base import converse, look, require
from tests.faults.power import restore
from tests.faults.sessions import Delivery, SecondSession
from tests.live.harness import until


class _OnSockets:
    """What all scenarios have whose faults are on the sockets of the database."""

    benches = ("sql",)
    is_recorded = False

    @property
    def root(self):
        """The path of the sockets."""
        return self.bench.store.socket

    def act(self):
        """Do what may meet with the fault, up to the release of the maildrop."""
        replies = super().act()
        with suppress(AssertionError):
            self._wait_for_release(0.2)
        return replies

    def _wait_for_release(self, seconds=10):
        until(lambda: not self.bench.store.has_lease(self.user), "the release", seconds)

    def check(self, killed):
        """Check what all scenarios do, once the leases that nobody could release have expired."""
        until(lambda: converse(self.bench, self.user).ok(b"PASS"), f"the lease of {self.user}")
        super().check(killed)


class _OnObjects:
    """What meets with faults on the objects of messages."""

    @property
    def root(self):
        """The directory of the objects."""
        return self.bench.mail


class DatabaseSession(_OnSockets, SecondSession):
    """A session, which asks the database."""

    def prepare(self):
        """Deliver mail, and run a session."""
        super().prepare()
        # With the fields that a delivery adds.
        self.expected = [*look(self.bench, self.user).values()]
        self._wait_for_release()

    def check_stored(self, texts):
        """As many messages are in the database."""
        stored = self.bench.store.read(self.user)
        require(len(stored) == len(texts), f"the database has {stored}")


class Reconnection(DatabaseSession):
    """A session for which the server must connect to the database again."""

    def prepare(self):
        """Break the connections after a session."""
        super().prepare()
        self.bench.store.cut()


class ObjectSession(_OnObjects, DatabaseSession):
    """A session, which reads a large message."""


class DatabaseDelivery(_OnSockets, Delivery):
    """A message comes by LMTP, and the database gets its row."""


class ObjectDelivery(_OnObjects, DatabaseDelivery):
    """A message comes by LMTP, which is large."""

    is_recorded = True

    def is_known(self, told):
        """Without the reply, the database may have the row of a message without an object."""
        return self.reply.encode() in told

    def lose_power(self, told, contents):
        """The object of a message that was accepted is on disk, and whole.

        The database is another process, which has the row.
        """
        for path in self.disk.iterdir():
            shutil.rmtree(path)
        restore(contents, lambda path: path)
        self.check_shown()
