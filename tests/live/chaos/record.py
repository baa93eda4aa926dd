"""What the clients of a cluster were told, and what must therefore be so."""

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b


@dataclass
class Login:
    """One session of a user."""

    user: str
    asked: float
    """When PASS was sent."""
    opened: float
    """When the reply, +OK, was received."""
    removing: float = 0.0
    """When QUIT was sent, if messages were marked."""
    removed: bool = False
    """Whether the reply to this QUIT was +OK."""


@dataclass
class Record:
    """What was delivered, read and removed; tokens stand for messages."""

    sent: dict = field(default_factory=dict)
    """The octets of each message as they must be sent to clients, by token."""
    acknowledged: set = field(default_factory=set)
    removals: Counter = field(default_factory=Counter)
    """How often the removal of each message was confirmed."""
    uncertain: set = field(default_factory=set)
    """Messages whose removal was asked for, and not confirmed."""
    unique_ids: dict = field(default_factory=lambda: defaultdict(set))
    """The digests of the messages that were seen under a unique-id of a user."""
    logins: list = field(default_factory=list)
    wrong: list = field(default_factory=list)
    """What a client received and should not have, as texts."""
    refused: Counter = field(default_factory=Counter)
    """The replies other than success, as texts, with their numbers."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def received(self, user, unique_id, octets, announced):
        """Check a message that a client has received; return its token, or None."""
        with self.lock:
            digest = blake2b(octets).digest()
            self.unique_ids[user, unique_id].add(digest)
            if len(octets) != announced:
                self.wrong.append(f"LIST told {announced} octets, RETR sent {len(octets)}")
            token = token_of(octets)
            if self.sent.get(token) != octets:
                self.wrong.append(f"message {token} of {user} has other octets than were delivered")
                return None
            return token

    def faults(self, present):
        """Return what was violated, as a dictionary from a name to a sorted list.

        ``present`` is the Counter of the tokens that are in the maildrops at the end.
        """
        removed = set(self.removals)
        return {
            "lost": sorted(self.acknowledged - set(present) - removed - self.uncertain),
            "back": sorted(removed & set(present)),
            "removed twice": sorted(t for t, number in self.removals.items() if number > 1),
            "stored twice": sorted(t for t, number in present.items() if number > 1),
            "wrong": sorted(self.wrong),
            "unique-id of two messages": sorted(
                f"{user} {unique_id}"
                for (user, unique_id), digests in self.unique_ids.items()
                if len(digests) > 1
            ),
            "removed without the lock": self._removed_without_the_lock(),
        }

    def _removed_without_the_lock(self):
        """Return the sessions that removed messages after a later session had been opened.

        A server that is suspended between its lock and its reply may reply when the lock has
        expired, so the later session is one that was asked for after the reply to the earlier one.
        """
        by_user = defaultdict(list)
        for login in self.logins:
            by_user[login.user].append(login)
        return sorted(
            f"{earlier.user}: opened {earlier.opened:.3f}, later one asked for {later.asked:.3f}, "
            f"opened {later.opened:.3f}, "
            f"QUIT {earlier.removing:.3f}"
            for logins in by_user.values()
            for earlier in logins
            for later in logins
            if earlier.removed and earlier.opened < later.asked and later.opened < earlier.removing
        )


def token_of(octets):
    """Return the token in the header field X-Token of a message."""
    for line in octets.split(b"\r\n", 10)[:10]:
        if line.startswith(b"X-Token: "):
            return line[9:].decode("ascii", "replace")
    return ""
