"""What the tests of popserv.core share."""

from popserv.core.snapshot import Snapshot


def make_snapshot(*octets, **more):
    """Return a snapshot of messages with these octets, and unique-ids a, b, c..."""
    return Snapshot(octets, [b"%c" % (97 + i) for i in range(len(octets))], **more)
