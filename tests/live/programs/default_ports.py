"""Run a server in a network of its own, where all ports are free, and greet it on each.

Usage: unshare --net python default_ports.py COMMAND...

Prints a line for each address: host, port, and ``yes`` if the server greets there, else ``no``.
"""

import fcntl
import socket
import ssl
import struct
import subprocess
import sys
import time

ADDRESSES = [(host, port) for port in (110, 995) for host in ("127.0.0.1", "::1")]
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def bring_up_loopback():
    """Do the same as ``ip link set lo up``."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def greets(host, port):
    """Return whether the server sends a greeting."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), 30) as client:
            if port == 995:
                client = context.wrap_socket(client)
            return client.recv(100).startswith(b"+OK")
    except ConnectionRefusedError:
        return False


bring_up_loopback()
server = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
try:
    # All ports are bound before the reactor runs.
    while server.poll() is None and not greets(*ADDRESSES[0]):
        time.sleep(0.05)
    for host, port in ADDRESSES:
        print(host, port, "yes" if greets(host, port) else "no")
finally:
    server.terminate()
    server.wait()
