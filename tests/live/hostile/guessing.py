"""Passwords are guessed from many addresses while another client fetches its mail.

As a program it is the attacker: ``python -m tests.live.hostile.guessing PORT NAMES ADDRESSES``.
"""

import re
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress

from popserv.auth.passwords.schemes import new_scram_sha256
from popserv.auth.passwords.users_file import default_path
from popserv.auth.passwords.users_file_editing import set_secret
from tests.live.harness import CHECKOUT, LOOPBACK, Connection, Server, deliver

AT_ONCE = 40
"""How many connections the attacker opens at a time: no more than the queue of the port."""

CHECK_TIME = 0.5
"""Seconds that the attacker stays connected after the greeting."""

ITERATIONS = 4096
"""Of the attacked user's password: popserv's own number for new ones."""

MANY_ADDRESSES = 1000
"""With so many, an address has a free slot for logins whenever it is its turn to guess."""

MAX_RATIO = 3
"""How many times that of the idle server the 99th percentile of polls may be under attack."""


def start():
    """Start a server behind a proxy, on which ann has a message and a password with a hash."""
    server = Server("--listen", f"haproxy:{LOOPBACK}", "--allow-plaintext")
    deliver(server.root / "ann", [b"x\n"])
    field = new_scram_sha256(b"secret", ITERATIONS)
    set_secret(default_path(str(server.root)), b"ann", field, new=True)
    return server


def header(number):
    """Return the PROXY header of one of 2 ** 24 addresses."""
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return f"PROXY TCP4 {address} 192.0.2.1 4711 110\r\n".encode()


def guess(port, names, addresses):
    """Guess a password of each of so many names, from so many addresses in turn.

    The attacker does not wait for the reply to PASS, which is delayed, but gives the server time to
    check the password: it would not check that of a client that has disconnected.
    """
    greeted = deque()
    with selectors.DefaultSelector() as selector:
        begun, running = 0, 0
        while begun < names or running:
            while greeted and greeted[0][0] < time.monotonic() - CHECK_TIME:
                greeted.popleft()[1].close()
            while begun < names and running < AT_ONCE:
                client = socket.create_connection(("127.0.0.1", port))
                name = "ann" if begun % 2 else f"user{begun}"
                client.sendall(
                    header(begun % addresses) + f"USER {name}\r\nPASS {begun}\r\n".encode()
                )
                selector.register(client, selectors.EVENT_READ)
                begun, running = begun + 1, running + 1
            for key, _ in selector.select():
                with suppress(ConnectionError):
                    key.fileobj.recv(1000)
                selector.unregister(key.fileobj)
                greeted.append((time.monotonic(), key.fileobj))
                running -= 1
                if (begun - running) % 10_000 == 0:
                    print(f"{begun - running} of {names} guesses", flush=True)
    time.sleep(CHECK_TIME)


def poll(server):
    """Log in as ann from an address of her own, and end the session; return the seconds.

    :raises AssertionError: she was refused.
    """
    start = time.perf_counter()
    client = Connection(
        ("127.0.0.1", server.port), header=b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 110\r\n"
    )
    client.ask(b"USER ann")
    reply = client.ask(b"PASS secret")
    if not reply.startswith(b"+OK"):
        raise AssertionError(f"the client that behaves well was refused: {reply!r}")
    client.close()
    return time.perf_counter() - start


def right_guesses(log):
    """Return the lines of a log about right passwords from addresses of the attacker.

    A login with the right password is refused while ann's own session has the maildrop.
    """
    return re.findall(r"10\.[\d.]+:4711: .* (?:logged in by|refused:) .*", log)


def percentile(values, percent):
    """Return a percentile of some values."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def attack(names, addresses, polls):
    """Attack a server; return the seconds of polls when it is idle, and meanwhile.

    Also return how many guesses were checked.

    :param polls: how many polls there are when it is idle.
    :raises AssertionError: a guess was right, or the server or the attacker failed.
    """
    server = start()
    try:
        poll(server)
        idle = [poll(server) for _ in range(polls)]
        attacker = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, (server.port, names, addresses))],
            cwd=CHECKOUT,
        )
        attacked = []
        while attacker.poll() is None:
            try:
                attacked.append(poll(server))
            except OSError as error:
                attacker.kill()
                code, log = server.process.poll(), server.log[-2000:]
                raise AssertionError(f"the server has the exit code {code}:\n{log}") from error
        if attacker.returncode or "Traceback" in server.log:
            raise AssertionError(f"exit code {attacker.returncode}, and the log:\n{server.log}")
        if right := right_guesses(server.log):
            raise AssertionError(f"a guess was right: {right}")
        # The name and the address are known, so the password is not even hashed.
        attacked.append(poll(server))
        return idle, attacked, len(re.findall(r"10\.[\d.]+:4711: .* failed:", server.log))
    finally:
        server.stop()


def measure(names, addresses, show):
    """Show how long polls take while passwords are guessed; return whether all is as it must be."""
    start = time.monotonic()
    idle, attacked, failures = attack(names, addresses, 2000)
    seconds = time.monotonic() - start
    show(
        f"{names} guesses from {addresses} addresses in {seconds:.0f} s, {failures} of them checked"
    )
    for what, values in (("idle", idle), ("attacked", attacked)):
        p50, p99 = (percentile(values, each) * 1000 for each in (50, 99))
        show(f"poll, {what:8}: {len(values):6} polls, p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    ratio = percentile(attacked, 99) / percentile(idle, 99)
    show(f"p99 under attack is {ratio:.1f} times that of the idle server, at most {MAX_RATIO}")
    all_checked = failures == names or addresses < MANY_ADDRESSES
    if not all_checked:
        show(f"{names - failures} guesses were not checked: the others had less to wait for")
    return all_checked and ratio <= MAX_RATIO


if __name__ == "__main__":
    guess(*map(int, sys.argv[1:]))
