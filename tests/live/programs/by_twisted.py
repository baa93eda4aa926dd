"""Fetch all mail with Twisted's client, and print a trace."""

import sys
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import react
from twisted.mail.pop3 import AdvancedPOP3Client


class Client(AdvancedPOP3Client):
    """A client with a trace, and a Deferred for the greeting."""

    MAX_LENGTH = 1 << 20

    def __init__(self, transport):
        # The client uses STLS if the server announces it, but not over implicit TLS.
        self.allowInsecureLogin = transport != "stls"
        self.greeted = Deferred()

    def serverGreeting(self, greeting):
        """See AdvancedPOP3Client."""
        super().serverGreeting(greeting)
        self.greeted.callback(None)

    def connectionLost(self, reason):
        """See AdvancedPOP3Client."""
        super().connectionLost(reason)
        if not self.greeted.called:
            self.greeted.errback(reason)

    def sendLine(self, line):
        """See LineOnlyReceiver."""
        print(line.decode(), file=sys.stderr)
        super().sendLine(line)

    def lineReceived(self, line):
        """See LineOnlyReceiver."""
        if line.startswith(b"-ERR"):
            print(line.decode(), file=sys.stderr)
        super().lineReceived(line)


async def fetch(reactor, port, transport, user, secret, ca, directory):
    """Fetch all mail; write each message to a file in the directory, with LF line endings."""
    trusted_networks = trustRootFromCertificates([Certificate.loadPEM(Path(ca).read_bytes())])
    options = optionsForClientTLS("localhost", trustRoot=trusted_networks)
    endpoint = HostnameEndpoint(reactor, b"localhost", int(port))
    if transport == "tls":
        endpoint = wrapClientTLS(options, endpoint)
    client = await connectProtocol(endpoint, Client(transport))
    await client.greeted
    if transport == "stls":
        await client.startTLS(options)
    await client.login(user.encode(), secret.encode())
    for number in range(len(await client.listSize())):
        lines = await client.retrieve(number)
        Path(directory, str(number)).write_bytes(b"".join(line + b"\n" for line in lines))
    await client.quit()


if __name__ == "__main__":
    port, transport, _, user, secret, ca, _, directory = sys.argv[1:]
    react(
        lambda reactor: Deferred.fromCoroutine(
            fetch(reactor, port, transport, user, secret, ca, directory)
        )
    )
