"""What the tests of popserv.core share."""

from popserv.core.session import Session
from popserv.core.snapshot import Snapshot
from popserv.errors import LoginFailed


def make_snapshot(*octets, **more):
    """Return a snapshot of messages with these octets, and unique-ids a, b, c..."""
    return Snapshot(octets, [b"%c" % (97 + i) for i in range(len(octets))], **more)


class NoLogins:
    """An authenticator that rejects every login."""

    async def authenticate(self, credentials):
        """Reject the login."""
        raise LoginFailed

    def supports(self, credentials):
        """Support all credentials."""
        return True

    def relayed_mechanisms(self):
        """Relay none."""
        return {}


def make_session(**options):
    """Return a session in AUTHORIZATION state."""
    return Session(NoLogins(), **options)
