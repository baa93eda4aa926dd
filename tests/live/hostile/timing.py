"""How long each mechanism takes to refuse a login, by the reason of the refusal.

The server is a real one on a loopback port, but for the delay of such replies, which hides most of
what is measured here.  One client tries all names in turn, in an order that is random in each
round.  The samples of each reason are compared with those of a wrong password by the test of
Mann and Whitney; another user with a wrong password shows what chance does.
"""

import json
import random
import time
from base64 import b64decode, b64encode
from functools import partial
from math import erfc, sqrt
from pathlib import Path
from statistics import median

from popserv.auth.passwords.schemes import new_scram_sha1, new_scram_sha256
from popserv.auth.passwords.users_file import default_path
from tests.live.harness import LOOPBACK, Server, temporary_directory

WRONG = "wrong password"
REASONS = {
    WRONG: ("anna01", ""),
    "another user": ("anna02", ""),
    "unknown": ("anna03", None),
    "disabled": ("anna04", "nologin"),
    "disabled here": ("anna05", "popserv_nologin"),
    "not yet": ("anna06", "delay_until=4000000000"),
    "elsewhere": ("anna07", "allow_nets=192.0.2.1"),
    "no TLS": ("anna08", "popserv_require_tls"),
}
"""The name for each reason of a refusal, and the extra fields of its user, or None if unknown."""

FAILED = b"-ERR [AUTH] authentication failed\r\n"

SECRETS = {
    "SCRAM-SHA-256": lambda: new_scram_sha256(b"secret", 1),
    "SCRAM-SHA-1": lambda: new_scram_sha1(b"secret", 1),
    "PLAIN": lambda: b"{PLAIN}secret",
    "APOP": lambda: b"{APOP}secret",
}
"""The secrets of all users of a server; those of SCRAM are quick, so that little hides the rest."""

SIGNIFICANT = 1e-4
"""The probability by chance below which a difference counts as one."""

RELEVANT = 0.55
"""The probability that the slower of two samples is that of one reason, above which it counts."""


def start(scheme):
    """Start a server whose users all have secrets of one scheme, but mrose if none has APOP."""
    root = temporary_directory()
    field = SECRETS[scheme]().decode()
    lines = [
        f"{name}:{field}::::::{extra}\n" for name, extra in REASONS.values() if extra is not None
    ]
    users = Path(default_path(str(root)))
    users.touch(0o600)
    users.write_text("".join(lines))
    options = [
        "--maildir",
        str(root),
        "--listen",
        LOOPBACK,
        "--sasl",
        "SCRAM-SHA-256,SCRAM-SHA-1,CRAM-MD5,PLAIN,LOGIN",
    ]
    return Server(
        root=root,
        tac=Path(__file__).with_name("undelayed.tac"),
        environment={"POPSERV_TEST_OPTIONS": json.dumps(options)},
    )


class Client:
    """A connection; ``ask`` returns a reply, and the nanoseconds until it came."""

    def __init__(self, server):
        self.socket = server.connect().socket

    def ask(self, line):
        """Send a line; return the line of the reply, and the nanoseconds."""
        begun = time.perf_counter_ns()
        self.socket.sendall(line)
        reply = self.socket.recv(1000)
        return reply, time.perf_counter_ns() - begun


def refuse_pass(client, name):
    """Log in by PASS; return the nanoseconds of each step that is measured."""
    client.ask(b"USER %b\r\n" % name)
    return client.ask(b"PASS nonsense\r\n")


def refuse_plain(client, name):
    """Log in by AUTH PLAIN."""
    return client.ask(b"AUTH PLAIN %b\r\n" % b64encode(b"\0%b\0nonsense" % name))


def refuse_apop(client, name):
    """Log in by APOP."""
    return client.ask(b"APOP %b %032d\r\n" % (name, 0))


def refuse_cram_md5(client, name):
    """Log in by AUTH CRAM-MD5."""
    client.ask(b"AUTH CRAM-MD5\r\n")
    return client.ask(b64encode(b"%b %032d" % (name, 0)) + b"\r\n")


def refuse_login(client, name):
    """Log in by AUTH LOGIN."""
    client.ask(b"AUTH LOGIN\r\n")
    client.ask(b64encode(name) + b"\r\n")
    return client.ask(b64encode(b"nonsense") + b"\r\n")


def begin_scram(mechanism, client, name):
    """Ask for the salt of a mechanism of SCRAM, and cancel."""
    first = b64encode(b"n,,n=%b,r=nonce" % name)
    challenge, nanoseconds = client.ask(b"AUTH %b %b\r\n" % (mechanism, first))
    if not challenge.startswith(b"+ "):
        raise AssertionError(challenge)
    return client.ask(b"*\r\n")[0], nanoseconds


def refuse_scram(mechanism, client, name):
    """Send a wrong proof by a mechanism of SCRAM."""
    first = b64encode(b"n,,n=%b,r=nonce" % name)
    challenge, _ = client.ask(b"AUTH %b %b\r\n" % (mechanism, first))
    nonce = b64decode(challenge[2:]).partition(b",")[0]
    proof = bytes(32 if mechanism == b"SCRAM-SHA-256" else 20)
    final = b"c=biws,%b,p=%b" % (nonce, b64encode(proof))
    return client.ask(b64encode(final) + b"\r\n")


STEPS = {
    "PASS": ("SCRAM-SHA-256", refuse_pass),
    "PLAIN": ("SCRAM-SHA-256", refuse_plain),
    "LOGIN": ("SCRAM-SHA-256", refuse_login),
    "SCRAM-SHA-256, salt": ("SCRAM-SHA-256", partial(begin_scram, b"SCRAM-SHA-256")),
    "SCRAM-SHA-256, proof": ("SCRAM-SHA-256", partial(refuse_scram, b"SCRAM-SHA-256")),
    "SCRAM-SHA-1, salt": ("SCRAM-SHA-1", partial(begin_scram, b"SCRAM-SHA-1")),
    "SCRAM-SHA-1, proof": ("SCRAM-SHA-1", partial(refuse_scram, b"SCRAM-SHA-1")),
    "CRAM-MD5": ("PLAIN", refuse_cram_md5),
    "APOP": ("APOP", refuse_apop),
}
"""What is measured: the scheme of the users' secrets, and the function that is refused."""


def sample(server, refuse, number):
    """Return so many measurements for each reason, in nanoseconds."""
    client, order = Client(server), random.Random(1725)
    samples = {reason: [] for reason in REASONS}
    for _ in range(number):
        for reason in order.sample(list(REASONS), len(REASONS)):
            reply, nanoseconds = refuse(client, REASONS[reason][0].encode())
            if reply != FAILED:
                raise AssertionError(f"{reason}: {reply!r}")
            samples[reason].append(nanoseconds)
    client.socket.close()
    return samples


def compare(one, other):
    """Return the probability that a value of ``other`` is the greater one, and that of chance.

    This is the test of Mann and Whitney with its normal approximation; equal values count half.
    """
    values = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    ranks, ties, at = 0.0, 0, 0
    while at < len(values):
        end = at
        while end < len(values) and values[end][0] == values[at][0]:
            end += 1
        equal = end - at
        ranks += (at + end + 1) / 2 * sum(group for _, group in values[at:end])
        ties += equal**3 - equal
        at = end
    first, second, both = len(one), len(other), len(values)
    greater = ranks - second * (second + 1) / 2
    variance = first * second / 12 * (both + 1 - ties / (both * (both - 1)))
    deviations = abs(greater - first * second / 2) / sqrt(variance) if variance else 0.0
    return greater / (first * second), erfc(deviations / sqrt(2))


def measure(number, show):
    """Show the times of refusals, and return what differs, as pairs of a step and a reason."""
    differing = []
    show(f"{number} refusals for each reason; microseconds, and the difference of the medians")
    for step, (scheme, refuse) in STEPS.items():
        server = start(scheme)
        samples = sample(server, refuse, number)
        server.stop()
        for reason, values in samples.items():
            usual, shown = median(samples[WRONG]), median(values)
            greater, chance = compare(samples[WRONG], values)
            differs = chance < SIGNIFICANT and abs(greater - 0.5) > RELEVANT - 0.5
            if differs:
                differing.append((step, reason))
            show(
                f"{step:20} {reason:14} {shown / 1000:8.1f} {(shown - usual) / 1000:+6.2f} "
                f"P(slower) {greater:.3f}  by chance {chance:.0e}{'  differs' if differs else ''}"
            )
    return differing
