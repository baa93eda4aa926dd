"""A run: a cluster, its faults, its clients, and whether what they were told is true."""

import poplib
import random
import shutil
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from examples.cluster.cluster import USERS
from tests.live.chaos.clients import Reader, Sender, Session, Viewer
from tests.live.chaos.faults import LEASE, ChaosCluster, Faults
from tests.live.chaos.record import Record

RECOVERY = 60
"""Seconds in which everything must work again after the last fault."""


def run_chaos(seconds, seed, *, is_synchronous=True, only=(), delay=1, keep=False, show=print):
    """Let faults happen to a cluster; return what was violated, as a dictionary of lists.

    ``only`` are the names of the faults that happen; the default is all of them.  Each happens
    before one happens again, and the run goes on until each has.  ``delay`` is for how many seconds
    after the end of its lease a maildrop may be locked.  With ``keep``, the files of the cluster
    remain.  ``show`` gets lines of text.
    The seed decides what happens, not when it does.
    """
    parent = Path(tempfile.mkdtemp(prefix="popserv-chaos-"))
    parent.chmod(0o755)
    show(f"seed {seed}, {seconds:g} seconds, in {parent}")
    options = {"is_synchronous": is_synchronous, "show": show}
    try:
        run = _Run(ChaosCluster(parent / "cluster", **options), seed, is_synchronous, delay, show)
        violations = run.run(seconds, only)
    finally:
        if not keep:
            shutil.rmtree(parent)
    return {what: texts for what, texts in violations.items() if texts}


class _Run:
    def __init__(self, cluster, seed, is_synchronous, delay, show):
        self._cluster, self._delay, self._show = cluster, delay, show
        self._random = random.Random(seed)
        self._record = Record()
        self._faults = Faults(cluster, self._record, self._random, is_synchronous=is_synchronous)
        # Nobody notices the loss of a message that he has removed.
        reader = Reader if is_synchronous else Viewer
        self._clients = [
            kind(cluster, self._record, USERS, f"{seed} {number}")
            for number, kind in enumerate([Sender] * 3 + [reader] * 5)
        ]
        self._locked = []

    def run(self, seconds, only):
        """Run, and return what was violated."""
        self._cluster.start()
        try:
            for client in self._clients:
                client.start()
            try:
                happened = self._break(seconds, only)
            finally:
                self._end_clients()
            ended = time.monotonic()
            # All at once, so that none of them has more time than the others.
            with ThreadPoolExecutor(len(USERS)) as threads:
                sessions = list(threads.map(lambda user: self._open(user, ended), USERS))
            present = Counter(token for each in sessions for token in self._read(each))
            inconsistent = self._inconsistent()
        finally:
            self._cluster.stop()
        self._show_sums(present, happened)
        return {
            **self._record.faults(present),
            "still locked": self._locked,
            "inconsistent": inconsistent,
        }

    def _break(self, seconds, only):
        """Let faults happen for a time, each of them at least once; return how often each has."""
        end = time.monotonic() + seconds
        happened = Counter()
        waiting = [each for each in self._faults.all() if not only or each.__name__ in only]
        self._random.shuffle(waiting)
        while (left := end - time.monotonic()) > 0 or len(happened) < len(waiting):
            time.sleep(self._random.uniform(0.5, 2))
            fault = waiting.pop(0)
            waiting.append(fault)
            name = fault.__name__.replace("_", " ")
            self._show(f"{max(left, 0):.0f} seconds left: {name}")
            fault()
            happened[name] += 1
        return happened

    def _end_clients(self):
        for client in self._clients:
            client.stop()
        for client in self._clients:
            client.join()
        if failures := [client.failure for client in self._clients if client.failure]:
            raise failures[0]

    def _read(self, session):
        """Return the tokens of all messages of a session, and end it."""
        with session:
            tokens = [session.retrieve(number) for number in session.numbers]
            session.quit()
        return tokens

    def _open(self, user, ended):
        """Return a session, after all clients have ended; note whether that takes too long."""
        while True:
            began = time.monotonic()
            try:
                return Session(self._cluster, user, self._record)
            except (OSError, poplib.error_proto) as error:
                if began > ended + RECOVERY:
                    raise AssertionError(f"{user} cannot log in: {error!r}") from None
                if "[IN-USE]" in repr(error) and began > ended + LEASE + self._delay:
                    self._locked.append(f"{user}, {began - ended:.1f} s after the last session")
                time.sleep(0.2)

    def _inconsistent(self):
        """Return what the database and the object store do not agree about, as texts."""
        ask = self._cluster.databases[0].execute
        # One statement, since a delivery whose client has given up may end only now.
        before = self._objects()
        rows = ask(
            "SELECT replace(id::text, '-', ''), inline FROM message "
            "UNION ALL SELECT replace(key::text, '-', ''), NULL FROM doomed"
        )
        after = self._objects()
        kinds = dict(row.split("|") for row in rows.splitlines())
        outside = {name for name, inline in kinds.items() if inline == "f"}
        without_body = ask(
            "SELECT id FROM message LEFT JOIN body USING (maildrop, position) "
            "WHERE inline AND body IS NULL"
        )
        without_message = ask(
            "SELECT maildrop, position FROM body LEFT JOIN message USING (maildrop, position) "
            "WHERE id IS NULL"
        )
        return [
            *(f"message {name} has no object" for name in sorted(outside - after)),
            *(f"object {name} has no row" for name in sorted((before & after) - set(kinds))),
            *(f"message {name} has no body" for name in without_body.split()),
            *(f"body {name} has no message" for name in without_message.split()),
        ]

    def _objects(self):
        """Return the names of all objects."""
        directory = self._cluster.directory / "objects"
        # rclone leaves files with other names when it is killed.
        return {path.name for path in directory.rglob("[0-9a-f]" * 32)}

    def _show_sums(self, present, happened):
        record = self._record
        self._show(
            f"{len(record.acknowledged)} messages acknowledged, {len(record.removals)} removed, "
            f"{sum(present.values())} present, {len(record.logins)} logins"
        )
        self._show("; ".join(f"{name}: {number}" for name, number in sorted(happened.items())))
        for text, number in record.refused.most_common():
            self._show(f"refused {number} times: {text}")
