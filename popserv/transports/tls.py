"""TLS on a connection, with fewer packets and turns of the reactor than Twisted's own transport.

It is Twisted's :class:`TLSMemoryBIOProtocol`; only the hot path is different, see
"Output over TLS" in docs/design.rst.  The overridden methods that begin with an underscore are
private to Twisted.

Requires the extra ``tls``.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from OpenSSL.SSL import Error, WantReadError
from twisted.internet.interfaces import (
    INegotiated,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
)
from twisted.internet.protocol import Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from popserv.transports.output import write_now

_RECORD = 1 << 14
"""The maximum octets of data in a TLS record (RFC 8446 section 5.1)."""

_BATCH = 4 * _RECORD
"""The octets after which the output of one turn of the reactor is sent."""

_READ_SIZE = 3 * _RECORD
"""The octets read at once from OpenSSL, which has at most two records and their overhead."""


# Also declared by the base class; otherwise ProtocolWrapper's __getattr__ could return the
# interfaces of the TCP transport instead.
@implementer(INegotiated)
class TLSTransport(TLSMemoryBIOProtocol):
    """A TLS transport that sends its output without waiting for the reactor, in few pieces.

    All output that one read causes is sent together: the end of a handshake and the greeting, or
    the reply to QUIT and the close_notify.
    """

    factory: Any
    transport: Any
    wrappedProtocol: Any

    _is_batching = _is_paused = False
    _held = b""
    _records: list[bytes]
    _in_openssl = 0
    _in_batch = 0

    def makeConnection(self, transport: Any) -> None:
        """Wait for a handshake.

        Twisted's method declares each interface of the TCP transport, which takes a twelfth of the
        CPU time of a connection; this transport declares none of them.
        """
        self._records = []
        self._appSendBuffer: list[bytes] = []
        self._tlsConnection = self.factory._creatorCallable(self)
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        self.wrappedProtocol.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        """Process input and send the output that it causes, but none while paused.

        What comes while the TCP transport does not read has come with a PROXY header.
        """
        if self._is_paused:
            self._held += data
            return
        self._is_batching = True
        super().dataReceived(data)
        self._is_batching = False
        self._flushSendBIO()

    def pauseProducing(self) -> None:
        """Read no more; see IPushProducer."""
        self._is_paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on; see IPushProducer."""
        self._is_paused = False
        self.transport.resumeProducing()
        held, self._held = self._held, b""
        if held and self._tlsConnection is not None:
            self.dataReceived(held)

    def _write(self, octets: bytes) -> None:
        if self._lostTLSConnection:
            return
        if self._appSendBuffer:
            # The handshake has just been completed.
            self._bufferedWrite(octets)
            return
        data = memoryview(octets)
        while data:
            try:
                sent = self._tlsConnection.send(data[:_RECORD])
            except WantReadError:
                self._bufferedWrite(bytes(data))
                break
            except Error:
                self._tlsShutdownFinished(Failure())
                return
            data = data[sent:]
            self._in_openssl += sent
            self._in_batch += sent
            if self._in_batch >= _BATCH:
                self._send()
            elif self._in_openssl >= _RECORD:
                # A larger buffer would stay with the connection.
                self._take_records()
        self._flushSendBIO()

    def _flushSendBIO(self) -> None:
        # An aborted connection must not end with a close_notify, as if everything was sent.  The
        # connection may also have been lost while its input was processed.
        if not (self._is_batching or self._aborted or self._tlsConnection is None):
            self._send()

    def _take_records(self) -> None:
        self._in_openssl = 0
        with suppress(WantReadError):
            while True:
                octets = self._tlsConnection.bio_read(_READ_SIZE)
                self._records.append(octets)
                if len(octets) < _READ_SIZE:
                    return

    def _send(self) -> None:
        self._in_batch = 0
        self._take_records()
        records, self._records = self._records, []
        if records:
            write_now(self.transport, records[0] if len(records) == 1 else b"".join(records))


class TLSFactory(TLSMemoryBIOFactory):
    """Makes a TLS transport around each protocol of ``factory``, such as a ``POP3Factory``.

    ``connections`` is :class:`popserv.tls.Certificates`, or makes TLS connections in the same way.
    """

    protocol = TLSTransport

    def __init__(
        self, connections: IOpenSSLServerConnectionCreator, factory: IProtocolFactory
    ) -> None:
        super().__init__(connections, False, factory)
