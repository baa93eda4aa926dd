"""What all stores have."""

from collections import Counter


class Vanished(Exception):
    """The server has removed the message."""


class Store:
    """What all stores have; each method is that of a program, for one user.

    :ivar can_change: whether other programs can move and remove messages.
    :ivar can_flag: whether they can set the flags of a message.
    :ivar has_command: whether ``popserv deliver`` delivers messages as well.
    :ivar is_readable: whether they can read it.
    :ivar is_kept: whether it survives the server.
    :ivar rewrites: how often other programs have written the file of all mail of a user anew.
    """

    can_change = True
    can_flag = True
    has_command = False
    is_readable = True
    is_kept = True
    release_seconds = 0
    """For how long a lock may stay if the server is killed when QUIT has just been answered."""

    removes_at_once = False
    """Whether a removal that was interrupted has removed all messages or none."""

    def __init__(self, root):
        self.root = root / "mail"
        self.root.mkdir()
        self.rewrites = Counter()

    def normalize(self, body):
        """Return what no program changes in a message."""
        return body

    def prepare(self, body):
        """Return a message as it is when a delivery agent of this store has stored it."""
        return body

    def repair(self, user, bodies, damaged=1):
        """Do what a user does after the server was killed; the messages are given by key.

        At most so many may be damaged, if there are copies of them.
        """

    def settle(self):
        """Wait until nothing of a killed server is running."""

    def close(self):
        """Close what is open."""


class Memory(Store):
    """Maildrops in memory, which nobody else can see."""

    can_change = can_flag = is_readable = is_kept = False
    name = "memory:"
