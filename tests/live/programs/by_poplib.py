"""Fetches all mail by poplib, with SCRAM of scramp's, and traces what it says."""

import hashlib
import poplib
import ssl
import sys
from base64 import b64decode, b64encode
from pathlib import Path

from scramp import ScramClient

PATIENCE = 60

# It reads no line beyond 2,048 octets unless told.
poplib._MAXLINE = 1 << 20


def connected(port, transport, context):
    """Return a client with TLS as it is wanted."""
    if transport == "tls":
        return poplib.POP3_SSL("localhost", port, timeout=PATIENCE, context=context)
    client = poplib.POP3("localhost", port, timeout=PATIENCE)
    if transport == "stls":
        client.stls(context)
    return client


def scram(client, mechanism, user, password):
    """Log in by SCRAM, the first response along with AUTH."""
    binding = None
    if mechanism.endswith("-PLUS"):
        certificate = client.sock.getpeercert(binary_form=True)
        binding = ("tls-server-end-point", hashlib.sha256(certificate).digest())
    dialogue = ScramClient([mechanism], user, password, channel_binding=binding)

    def say(text, prefix=""):
        # poplib has no AUTH of its own.
        reply = client._shortcmd(prefix + b64encode(text.encode()).decode())
        return b64decode(reply.removeprefix(b"+ "), validate=True).decode()

    dialogue.set_server_first(say(dialogue.get_client_first(), f"AUTH {mechanism} "))
    dialogue.set_server_final(say(dialogue.get_client_final()))
    if not client._shortcmd("").startswith(b"+OK"):
        raise poplib.error_proto("the server proved itself, and then has no welcome")


def main(port, transport, mechanism, user, secret, ca, certificate, got):
    """Write each message, with its lines ended by LF, to a file of its own."""
    context = ssl.create_default_context(cafile=ca)
    if certificate:
        context.load_cert_chain(certificate)
    client = connected(int(port), transport, context)
    client.set_debuglevel(1)
    before = client.capa()
    if "UTF8" in before:
        client.utf8()
    if mechanism == "USER":
        client.user(user)
        client.pass_(secret)
    else:
        scram(client, mechanism, user, secret)
    client.capa()
    client.set_debuglevel(0)
    for number in range(1, client.stat()[0] + 1):
        lines = client.retr(number)[1]
        Path(got, str(number)).write_bytes(b"".join(line + b"\n" for line in lines))
    client.quit()


if __name__ == "__main__":
    main(*sys.argv[1:])
