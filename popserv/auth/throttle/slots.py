"""Logins of one network: a few at a time, the others in line until one of those is over.

A login that has failed keeps its place until its answer is due, even if the client has
gone meanwhile: so nobody guesses faster by not waiting for the answers.  Whose client has
gone before their turn came have none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred

from popserv.errors import POPError, TryLater

MAX_CONCURRENT = 4
"""Logins of one network that are under way at a time."""

MAX_QUEUED = 200
"""Logins of one network that wait for those."""


class LoginSlots:
    """Gives each network its places.

    ``knows`` tells whether a name is known in a network.  Where all places are taken a
    known name has one more of its own, and need not wait for those who guess.
    """

    def __init__(self, knows: Callable[[str, bytes], bool], at_once: int = MAX_CONCURRENT) -> None:
        self._knows = knows
        self._at_once = at_once
        self._taken: dict[str, int] = {}
        self._own: set[tuple[str, bytes]] = set()
        self._lines: dict[str, dict[LoginAttempt, Deferred[None]]] = {}
        self._freed: deque[str] = deque()
        self._is_freeing = False

    def enter(self, turn: LoginAttempt) -> Deferred[None] | None:
        """Begin a turn, unless it had to wait and too many do already.

        :raises TryLater: it had to, and they do.
        """
        if self._give_place(turn):
            return None
        line = self._lines.get(turn.network, {})
        if len(line) >= MAX_QUEUED:
            oldest = next(iter(line))
            if oldest.is_there():
                raise TryLater("too many logins from your network, try again later")
            self.leave(oldest)
        return self.begin(turn)

    def begin(self, turn: LoginAttempt) -> Deferred[None] | None:
        """Give a turn its place; return what fires when there is one, None if there is.

        It fails with a POPError if the turn leaves the line.
        """
        if self._give_place(turn):
            return None
        waiting: Deferred[None] = Deferred()
        self._lines.setdefault(turn.network, {})[turn] = waiting
        return waiting

    def _give_place(self, turn: LoginAttempt) -> bool:
        network = turn.network
        taken = self._taken.get(network, 0)
        if taken < self._at_once:
            self._taken[network] = taken + 1
            turn.place = network
            return True
        own = (network, turn.name)
        if own not in self._own and self._knows(*own):
            self._own.add(own)
            turn.place = own
            return True
        return False

    def end(self, turn: LoginAttempt) -> None:
        """Take a turn's place back, if it has one."""
        place, turn.place = turn.place, None
        if isinstance(place, str):
            self._free(place)
        elif place is not None:
            self._own.remove(place)

    def leave(self, turn: LoginAttempt) -> None:
        """Take a turn out of the line, if it is in it; what it waits for fails."""
        if turn in self._lines.get(turn.network, {}):
            self._take_out(turn).errback(POPError("client disconnected"))

    def _free(self, network: str) -> None:
        # Whoever is next may be over at once: one after the other, not one within the other.
        self._freed.append(network)
        if self._is_freeing:
            return
        self._is_freeing = True
        try:
            while self._freed:
                self._hand_on(self._freed.popleft())
        finally:
            self._is_freeing = False

    def _hand_on(self, network: str) -> None:
        while network in self._lines:
            turn = next(iter(self._lines[network]))
            if turn.is_there():
                turn.place = network
                self._take_out(turn).callback(None)
                return
            self.leave(turn)
        self._taken[network] -= 1
        if not self._taken[network]:
            del self._taken[network]

    def _take_out(self, turn: LoginAttempt) -> Deferred[None]:
        line = self._lines[turn.network]
        waiting = line.pop(turn)
        if not line:
            del self._lines[turn.network]
        return waiting


class LoginAttempt:
    """One login's: from this network, by this name, with these credentials.

    ``is_there`` tells whether the client still waits.
    """

    __slots__ = ("credentials", "is_there", "name", "network", "place")

    def __init__(
        self, network: str, name: bytes, credentials: ICredentials, is_there: Callable[[], bool]
    ) -> None:
        self.network = network
        self.name = name
        self.credentials = credentials
        self.is_there = is_there
        # The network for one of its places, network and name for that name's own.
        self.place: str | tuple[str, bytes] | None = None
