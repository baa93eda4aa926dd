"""The messages of another POP3 server, in a session that changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from popserv.messages.octets import OctetCounter
from popserv.migration.pop3_client import CommandRefused, POP3Client, POP3ClientError
from popserv.migration.pop3_urls import Security, ServerAddress


class RemoteMaildrop:
    """The messages of a user who is logged in, by position.

    The numbers of the messages need not be consecutive.  ``different_octets`` are those that came
    for messages, by position, if LIST has told others.
    """

    def __init__(self, client: POP3Client) -> None:
        self.client = client
        self.different_octets: dict[int, int] = {}
        self._has_top = True
        sizes = client.sizes()
        unique_ids = client.unique_ids()
        self._numbers = sorted(sizes)
        self.sizes = [sizes[number] for number in self._numbers]
        self.unique_ids = [unique_ids.get(number, b"") for number in self._numbers]

    def header(self, position: int) -> list[bytes]:
        """Return the lines of the header, by TOP; by RETR if the server does not have TOP."""
        if self._has_top:
            try:
                return _lines(self.client.top(self._numbers[position]))
            except CommandRefused:
                self._has_top = False
        return self.contents(position)

    def contents(self, position: int) -> list[bytes]:
        """Return the lines of a message, by RETR."""
        return _lines(b"".join(self.read(position)))

    def read(self, position: int) -> Iterator[bytes]:
        """Return the octets of a message in chunks, by RETR."""
        counter, received, listed = OctetCounter(), 0, self.sizes[position]
        for chunk in self.client.retrieve(self._numbers[position], listed):
            counter.feed(chunk)
            received += len(chunk)
            yield chunk
        if listed not in (received, counter.finish()):
            self.different_octets[position] = received

    def remarks(self) -> list[str]:
        """Return lines about what was odd, although it can be usual with this server."""
        if not self.different_octets:
            return []
        count, position = len(self.different_octets), min(self.different_octets)
        return [
            f"{count} message{'' if count == 1 else 's'} came with other octets than LIST of the "
            f"server tells, the first of them message {position + 1} with "
            f"{self.different_octets[position]} instead of {self.sizes[position]}"
        ]


def _lines(octets: bytes) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in octets.split(b"\n")[:-1]]


@contextmanager
def logged_in(
    address: ServerAddress, security: Security, user: bytes, password: bytes
) -> Iterator[RemoteMaildrop]:
    """Log a user in, and end the session by RSET and QUIT, so that nothing is changed.

    :raises POP3ClientError: the server cannot be used, or has refused a command.
    """
    with POP3Client(address, security) as client:
        client.login(user, password)
        try:
            yield RemoteMaildrop(client)
        finally:
            with suppress(POP3ClientError):
                client.quit()
