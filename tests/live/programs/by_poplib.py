"""Fetch all mail with poplib, and scramp for SCRAM, and print a trace."""

import hashlib
import poplib
import ssl
import sys
from base64 import b64decode, b64encode
from pathlib import Path

from scramp import ScramClient

TIMEOUT = 60

# The default limit for a line is 2,048 octets.
poplib._MAXLINE = 1 << 20


def connect(port, transport, context):
    """Return a client that uses the transport."""
    if transport == "tls":
        return poplib.POP3_SSL("localhost", port, timeout=TIMEOUT, context=context)
    client = poplib.POP3("localhost", port, timeout=TIMEOUT)
    if transport == "stls":
        client.stls(context)
    return client


def scram(client, mechanism, user, password):
    """Log in by SCRAM with an initial response."""
    binding = None
    if mechanism.endswith("-PLUS"):
        certificate = client.sock.getpeercert(binary_form=True)
        binding = ("tls-server-end-point", hashlib.sha256(certificate).digest())
    exchange = ScramClient([mechanism], user, password, channel_binding=binding)

    def send(text, prefix=""):
        # poplib does not support AUTH.
        reply = client._shortcmd(prefix + b64encode(text.encode()).decode())
        return b64decode(reply.removeprefix(b"+ "), validate=True).decode()

    exchange.set_server_first(send(exchange.get_client_first(), f"AUTH {mechanism} "))
    exchange.set_server_final(send(exchange.get_client_final()))
    if not client._shortcmd("").startswith(b"+OK"):
        raise poplib.error_proto("the server sent no positive reply after its final message")


def main(port, transport, mechanism, user, secret, ca, certificate, directory):
    """Fetch all mail; write each message to a file in the directory, with LF line endings."""
    context = ssl.create_default_context(cafile=ca)
    if certificate:
        context.load_cert_chain(certificate)
    client = connect(int(port), transport, context)
    client.set_debuglevel(1)
    if mechanism == "USER":
        client.user(user)
        client.pass_(secret)
    else:
        scram(client, mechanism, user, secret)
    client.capa()
    client.set_debuglevel(0)
    for number in range(1, client.stat()[0] + 1):
        lines = client.retr(number)[1]
        Path(directory, str(number)).write_bytes(b"".join(line + b"\n" for line in lines))
    client.quit()


if __name__ == "__main__":
    main(*sys.argv[1:])
