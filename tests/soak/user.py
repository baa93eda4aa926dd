"""A user of a run."""

import math

from tests.soak.model import Maildrop


class User:
    """A user: the model of the maildrop, and the session that is open, if one is."""

    def __init__(self, name, normalize):
        self.name = name
        self.password = "secret"
        self.has_apop = False
        self.maildrop = Maildrop(normalize)
        self.client = None
        self.session = None
        self.is_quitting = False
        self.quit_at = -math.inf
        """When the last session that ended with QUIT did so."""
        self.may_be_locked = False
        """Whether the last session ended in a way after which the lock stays for some time."""
