"""What the rhosts tests share: a file, and a resolver without threads."""

import socket

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.task import Clock

from popserv.auth.credentials import RemoteUserCredentials
from popserv.auth.rhosts import resolver
from popserv.auth.rhosts.checker import RhostsChecker
from popserv.auth.rhosts.file import RhostsFileError
from popserv.auth.rhosts.resolver import HostResolver
from tests.auth.passwords.test_users_file import UsersFileCase

COMPOSED, DECOMPOSED = "jos\xe9".encode(), "jose\u0301".encode()


def fullwidth(text):
    """Return ASCII text in Unicode's fullwidth letters."""
    return "".join(chr(ord(each) + 0xFEE0) for each in text).encode()


FULLWIDTH = fullwidth("ann")

PREPARED = {DECOMPOSED: COMPOSED, FULLWIDTH: b"ann"}
"""Names that RFC 8265 changes, and their prepared forms."""

CLIENTS = ("192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8", "2001:db8::7", "fe80::1", "fe80::1%eth0")

DNS = {
    "seven.example": ["192.0.2.7", "2001:db8::7"],
    "mapped.example": ["::ffff:192.0.2.8"],
    "near.example": ["fe80::1%eth0"],
    "none.example": None,
}
"""The addresses of host names; None: the name does not exist."""

LATER = "later.example"
"""A host name whose name server does not answer."""

HOSTS = {
    b"192.0.2.7": "192.0.2.7 ::ffff:192.0.2.7",
    b"::FFFF:192.0.2.7": "192.0.2.7 ::ffff:192.0.2.7",
    b"192.0.2.6/31": "192.0.2.7 ::ffff:192.0.2.7",
    b"::ffff:c000:208/125": "192.0.2.8",
    b"0.0.0.0/0": "192.0.2.7 ::ffff:192.0.2.7 192.0.2.8",
    b"::ffff:0:0/96": "192.0.2.7 ::ffff:192.0.2.7 192.0.2.8",
    b"::/0": "2001:db8::7 fe80::1 fe80::1%eth0",
    b"::/64": "",
    b"2001:DB8::/32": "2001:db8::7",
    b"fe80::1": "fe80::1 fe80::1%eth0",
    b"seven.example": "192.0.2.7 ::ffff:192.0.2.7 2001:db8::7",
    b"Seven.Example": "192.0.2.7 ::ffff:192.0.2.7 2001:db8::7",
    b"mapped.example": "192.0.2.8",
    b"near.example": "fe80::1 fe80::1%eth0",
    b"none.example": None,
}
"""The clients that match a first column; None: the host name cannot be resolved."""

NOT_RESOLVED = "host names not resolved"


class RhostsCase(UsersFileCase):
    """Has an rhosts file, and a resolver that answers immediately."""

    def setUp(self):
        """Make the checker; record the lookups."""
        super().setUp()
        self.looked_up = []
        self.patch(resolver, "getaddrinfo", self.getaddrinfo)
        self.clock = Clock()
        self.checker = RhostsChecker(self.path, HostResolver(self.run_now, self.clock))

    async def run_now(self, function, *args, still_needed):
        """Replace the thread pool."""
        return function(*args)

    def getaddrinfo(self, host, port, **more):
        """Replace the system's resolver."""
        self.looked_up.append(host.decode())
        if host.decode() == LATER:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        addresses = DNS.get(host.decode().rstrip("."))
        if addresses is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(0, 0, 0, "", (each, 0)) for each in addresses]

    def error_of(self, call, *args, **more):
        """Return the text of the RhostsFileError that the call must raise."""
        return str(self.assertRaises(RhostsFileError, call, *args, **more))

    def log_in(self, username, remote_user=b"ann", host="192.0.2.7", port=1023):
        """Return the Deferred of the checker for an RPOP login."""
        credentials = RemoteUserCredentials(username, remote_user, host, port)
        return self.checker.requestAvatarId(credentials)

    def opened(self, *args, **more):
        """Return the user whose maildrop is opened, or None if the login is refused."""
        outcome = self.log_in(*args, **more)
        outcome.addErrback(lambda failure: failure.trap(UnauthorizedLogin) and None)
        return self.successResultOf(outcome)

    def refusal(self, *args, kind=UnauthorizedLogin, **more):
        """Return the reason of a refused login."""
        return str(self.failureResultOf(self.log_in(*args, **more), kind).value)
