"""A server that clients use in many rounds; the operator does one thing in each of them."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

from popserv.auth.passwords.users_file_editing import set_secret
from tests.endurance.operator import ACTIONS, Operator
from tests.endurance.trends import Sample
from tests.live.harness import CHECKOUT, wire_form
from tests.soak.model import Fault
from tests.soak.operator import check_log
from tests.soak.process import CA, Configuration, Process
from tests.soak.stores import STORES

SIZES = (0, 3, 30, 100)
"""The numbers of messages in the maildrops that a client polls."""

OCTETS_PER_MIB = 1 << 20


def cpu_seconds(pids):
    """Return the CPU time of processes, of all their threads."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Run:
    """A run with a server of so many workers; one is a single process, which is never killed.

    ``broken`` is a fault of the store that the server has.
    """

    def __init__(self, root, workers, *, clients=4, seed=1725, broken=""):
        self._choose = random.Random(seed)
        self._store = STORES["maildir"](root)
        self._bodies = count()
        name = self._store.name
        self.process = Process(root, f"broken:{broken}:{name}" if broken else name)
        self.operator = Operator(self.process)
        self._clients = []
        self._actions = 0
        self._sessions = self._broken = 0
        users = str(self.process.users)
        self._polled = [
            {f"user{n}x{size}": self._deliver(f"user{n}x{size}", size) for size in SIZES}
            for n in range(clients)
        ]
        for n, polled in enumerate(self._polled):
            for user in (f"mail{n}", *polled):
                set_secret(users, user.encode(), b"{PLAIN}secret", new=True)
        authority = root / "ca.pem"
        authority.write_bytes(CA.certificate_pem())
        self.process.start(Configuration("modern", workers, marks_seen=False))
        # The supervisor and the worker that is never killed, or the only process.
        self._lasting = self.process.pids()[:2]
        for number in range(clients):
            self._start_client(
                number=number,
                port=self.process.port,
                tls_port=self.process.tls_port,
                lmtp=str(self.process.lmtp),
                authority=str(authority),
            )
        self._start = time.monotonic()

    def _start_client(self, **arguments):
        command = [sys.executable, "-m", "tests.endurance.client"]
        client = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
        )
        self._clients.append(client)
        self._tell(client, arguments)

    def _tell(self, client, arguments):
        client.stdin.write(json.dumps(arguments) + "\n")
        client.stdin.flush()

    def _deliver(self, user, number):
        """Deliver messages; return the unique-id and the octets of each."""
        delivered = []
        for _ in range(number):
            body = b"Subject: %d\n\n" % next(self._bodies) + b"x\n" * self._choose.randrange(999)
            key = self._store.deliver(user, body, self._choose)
            delivered.append((key, len(wire_form(body))))
        return delivered

    def _turn_over(self, polled):
        """Another program removes the oldest message of each user, and delivers another one."""
        for user, messages in polled.items():
            if messages:
                self._store.remove(user, messages.pop(0)[0])
                messages += self._deliver(user, 1)

    def round(self, sessions):
        """Carry out so many sessions of each client, and what else happens; return a sample.

        :raises Fault: the server has not done what it must.
        """
        start, cpu = time.monotonic(), cpu_seconds(self._lasting)
        for client, polled in zip(self._clients, self._polled, strict=True):
            self._turn_over(polled)
            seed = self._choose.getrandbits(64)
            self._tell(client, {"sessions": sessions, "seed": seed, "users": list(polled.items())})
        action = ACTIONS[self._actions % len(ACTIONS)]
        self._actions += 1
        action(self.operator)
        results = [self._result(client) for client in self._clients]
        latencies = sorted(each for result in results for each in result["latencies"])
        for each in (each for result in results for each in result["broken"]):
            self._explain(*each)
            self._broken += 1
        sessions *= len(self._clients)
        self._sessions += sessions
        cpu = cpu_seconds(self._lasting) - cpu
        _, memory, descriptors, threads = self.process.usage(self._lasting)
        seconds = time.monotonic() - start
        return Sample(
            self._sessions,
            time.monotonic() - self._start,
            sessions / seconds,
            latencies[len(latencies) // 2] * 1000,
            latencies[len(latencies) * 99 // 100] * 1000,
            cpu / sessions * 1000,
            memory / OCTETS_PER_MIB,
            descriptors,
            threads,
            len(self.operator.kills),
            self._broken,
        )

    def _result(self, client):
        line = client.stdout.readline()
        if not line:
            raise Fault(f"a client has ended with the exit code {client.wait()}")
        result = json.loads(line)
        if "fault" in result:
            raise Fault(result["fault"])
        return result

    def _explain(self, start, end, what):
        """Look for a kill that explains that a session has broken off."""
        if not any(begun <= end and start <= ended for begun, ended in self.operator.kills):
            raise Fault(f"a session has broken off, and nothing was killed: {what}")

    def finish(self):
        """Stop the server in order, and look at its log."""
        code = self.process.stop()
        # twistd ends by the signal that has stopped it.
        if code != -signal.SIGTERM:
            raise Fault(f"the exit code of the server is {code}")
        check_log(self.process.log())

    def close(self):
        """End the clients and the server, after a fault as well."""
        for client in self._clients:
            client.kill()
            client.communicate()
        self.process.stop()
        self._store.close()
