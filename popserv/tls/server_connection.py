"""The server's end of a TLS connection, which tells its protocol what TLS would hide.

Requires the extra ``tls``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.interfaces import IHalfCloseableProtocol

if TYPE_CHECKING:
    from twisted.protocols.tls import TLSMemoryBIOProtocol


class ServerConnection(SSL.Connection):
    """A TLS connection, which tells its protocol that the client will send no more, and of turns.

    With TLS 1.3, a close_notify ends only what its sender sends (RFC 8446 section 6.1).  A protocol
    that provides IHalfCloseableProtocol gets a call of ``readConnectionLost``, as if a TCP
    connection was half-closed, and can still write.  For any other protocol, and with
    TLS 1.2 (RFC 5246 section 7.2.1), Twisted answers the close_notify, and the connection is lost.

    It also sets the protocol's attribute ``is_new_turn``: whether the data that follow are the
    first ones of a read of the TCP connection.  One read may bring thousands of records.
    """

    _is_first = True

    _transport: Any

    def __init__(self, context: SSL.Context, transport: TLSMemoryBIOProtocol) -> None:
        super().__init__(context, None)
        self._transport = transport

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """Return what the client has sent, decrypted; see SSL.Connection.

        :raises SSL.WantReadError: nothing has come, or the client has closed its end only.
        :raises SSL.ZeroReturnError: both ends are closed, or must be.
        """
        try:
            received = super().recv(bufsiz, flags)
        except SSL.WantReadError:
            self._is_first = True
            raise
        except SSL.ZeroReturnError:
            protocol = self._transport.wrappedProtocol
            if (
                self.get_shutdown() & SSL.SENT_SHUTDOWN
                or self.get_protocol_version() < SSL.TLS1_3_VERSION
                or not IHalfCloseableProtocol.providedBy(protocol)
            ):
                raise
            protocol.readConnectionLost()
            raise SSL.WantReadError from None
        # That a protocol is told by an attribute saves a call for each command.
        self._transport.wrappedProtocol.is_new_turn = self._is_first
        self._is_first = False
        return received
