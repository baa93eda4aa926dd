"""The steps of a run, which follow from its seed alone.

A step has a number, from which everything else about it is chosen.  It depends on nothing that the
server does, so that a seed gives the same decisions whatever was killed in between.
"""

import random
from typing import NamedTuple

WEIGHTS = {
    # A client's.
    "login": 16,
    "commands": 30,
    "all_at_once": 5,
    "second_login": 1,
    "wrong_login": 1,
    "quit": 12,
    "quit_meanwhile": 4,
    "half_close": 4,
    "disconnect": 3,
    "break_off": 2,
    "poll": 5,
    # Those of other programs.
    "deliver": 14,
    "lmtp": 5,
    "flag": 5,
    "move": 5,
    "remove": 3,
    "take": 3,
    "put_back": 3,
    # The operator's, and accidents.
    "kill_worker": 2,
    "kill_at_quit": 2,
    "kill_at_delivery": 2,
    "restart": 1,
    "reload": 2,
    "rotate": 1,
    "renew": 1,
    "change_users": 1,
}
"""How often each action is chosen; each is a method of :class:`tests.soak.driver.Run`."""

IN_SESSION = {
    *("commands", "second_login", "quit", "quit_meanwhile", "half_close", "disconnect"),
    *("break_off", "kill_at_quit"),
}
"""The actions for users who have a session; without any, the step is a login."""


class Step(NamedTuple):
    """An action, the user whom it is about, and the number from which the rest is chosen."""

    action: str
    user: int
    number: int


def steps(seed, life):
    """Yield the steps of a seed, without end; each server serves ``life`` of them."""
    choose = random.Random(seed)
    while True:
        yield Step("new_server", 0, choose.getrandbits(64))
        for action in choose.choices(list(WEIGHTS), list(WEIGHTS.values()), k=life):
            yield Step(action, choose.getrandbits(16), choose.getrandbits(64))
