"""Carries out the steps of a run: its clients, the other programs, the operator, and accidents."""

import random
from collections import Counter

from popserv.auth.passwords.users_file_editing import set_secret
from tests.soak import plan
from tests.soak.clients import Clients
from tests.soak.connection import Transcript
from tests.soak.endings import Endings
from tests.soak.logins import RHOSTS, WIDE_RHOSTS, Logins, has_reserved_ports
from tests.soak.operator import Operator
from tests.soak.process import Process
from tests.soak.programs import Programs
from tests.soak.session import COMMANDS
from tests.soak.stores import STORES
from tests.soak.user import User

ANY_PROOF, ANY_REMOTE_USER = "any-proof", "any-remote-user"
"""Faults that are not the store's: a checker that takes any proof of SCRAM, and an rhosts file."""


class Run(Logins, Clients, Endings, Programs, Operator):
    """A run of one store; every public method whose name is an action carries out a step of it.

    A ``broken`` server has a fault: one of those above, or one of ``store_plugin``.

    :raises tests.soak.model.Fault: the server does not agree with the model.
    """

    LOCK_SECONDS = 20

    def __init__(self, root, store, *, users=4, polls=5, broken=""):
        self.transcript = Transcript()
        self.counts = Counter()
        self.latencies = []
        self._store = STORES[store](root)
        self._kind = store
        self._polls = polls
        self._servers = 0
        self._broken = broken
        # Broken stores have no record for LAST.
        self._dialects = ["modern"] if broken else list(COMMANDS)
        name, auth, rhosts = self._store.name, "passwd-file:", RHOSTS
        if broken == ANY_PROOF:
            auth = f"broken:{broken}:{auth}"
        elif broken == ANY_REMOTE_USER:
            self._dialects, rhosts = ["pop-revised"], WIDE_RHOSTS
        elif broken:
            name = f"broken:{broken}:{name}"
        self.process = Process(root, name, auth)
        self._rhosts = root / "rhosts" if has_reserved_ports() else None
        if self._rhosts:
            self._rhosts.write_text(rhosts)
        self.users = [User(f"user{n}", self._store.normalize) for n in range(users)]
        self.users[-1].has_apop = True
        self._bodies = 0
        for user in self.users:
            field = b"{APOP}secret" if user.has_apop else b"{PLAIN}secret"
            set_secret(str(self.process.users), user.name.encode(), field, new=True)

    def execute(self, step):
        """Carry out a step."""
        self.transcript.add("step", f"{step.action} {step.user} {step.number}")
        action, users = step.action, self.users
        if action in plan.IN_SESSION:
            users = [user for user in users if user.session]
            if not users:
                action, users = "login", self.users
        elif action == "login":
            users = [user for user in users if not user.session] or users
        user = users[step.user % len(users)]
        getattr(self, action)(user, random.Random(step.number))
        self.counts["steps"] += 1

    def finish(self):
        """End all sessions, compare everything once more, and stop the server."""
        for user in self.users:
            self._end(user)
        for user in self.users:
            if self._login(user, random.Random(0)):
                self._talk(user, [b"RETR %d" % n for n in range(1, len(user.session.entries) + 1)])
                self._quit(user)
        self._stop()
