"""The HTTP client for requests to an OAuth provider.

A response must be a JSON object.  Its size and the duration of a request are limited.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlencode, urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, FileBodyProducer, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

MAX_RESPONSE_OCTETS = 1 << 20
"""The maximum size of a response body; a JWK Set has a few thousand octets."""

MAX_OCTETS_WITH_HEADER = 2 * MAX_RESPONSE_OCTETS
"""The maximum octets of a whole response, of which Twisted keeps all header fields in memory."""

REQUEST_TIMEOUT = 10.0
"""Seconds from the start of a request to the last octet of the response."""


class ProviderError(Exception):
    """The provider, or the file that holds its keys, is unavailable or has invalid contents.

    The message is for the log: it names the URL or the file and the reason, and contains no token.
    """


def check_url(url: str) -> None:
    """Check that a URL of the provider is https, or http to this machine.

    The provider decides who can log in, so its identity must be verified.

    :raises ValueError: the message says what the URL must be.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be a URL such as https://provider.example/path")
    if parts.username is not None or parts.fragment:
        raise ValueError("must be a URL without a user name and without a #fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise ValueError(
            "must be an https URL; http is accepted only for this machine, such as 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_json_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object.

    :raises ValueError: the text is not a JSON object, or is nested too deeply; the message does
        not quote the text.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


class ProviderClient:
    """An HTTP client that follows no redirects, keeps no cookies, and requests no compression.

    Each request uses a new connection.  A persistent connection would save a TLS handshake, but
    a POST that is sent while the server closes an idle connection fails, and must not be repeated
    because the server may have processed it.

    ``timeout`` is the limit for a request, in seconds.
    """

    def __init__(self, timeout: float = REQUEST_TIMEOUT, reactor: Any = None) -> None:
        self._timeout = timeout
        self._reactor = reactor
        self._tls_creators: dict[str, IOpenSSLClientConnectionCreator] = {}

    def prepare(self, url: str) -> None:
        """Load the system's CAs for an https URL, before the process gives up its privileges.

        :raises MemoryError: memory cannot be made executable, which pyOpenSSL requires.
        """
        parts = urlsplit(url)
        if parts.scheme == "https":
            creator = self._tls_creator(str(parts.hostname))
            # Newer versions of Twisted load the CAs with the first connection object, so one is
            # made here.  Without a clock, its factory would install the default reactor before the
            # program has chosen one.
            factory = TLSMemoryBIOFactory(creator, True, Factory.forProtocol(Protocol), Clock())
            creator.clientConnectionForTLS(factory.buildProtocol(None))

    async def request(
        self,
        url: str,
        form: Mapping[str, str] | None = None,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> dict[str, Any]:
        """Send a GET, or a POST of ``form``, and return the JSON object in the response.

        :raises ProviderError: the connection failed, or there was no complete response within the
            timeout, or the response has another status than 200, is not a JSON object, or
            exceeds ``MAX_RESPONSE_OCTETS``, or ``MAX_OCTETS_WITH_HEADER``.
        """
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        endpoint = _AbortableEndpoint(self._reactor, self._tls_creator)
        fetching = Deferred.fromCoroutine(self._fetch(endpoint, url, form, headers or {}))

        def on_timeout(_outcome: object, seconds: float) -> bytes:
            # Agent wraps a cancellation in an error that does not mention the timeout.
            raise ProviderError(f"{url}: no complete response within {seconds:g} seconds") from None

        try:
            return parse_json_object(
                await fetching.addTimeout(self._timeout, self._reactor, on_timeout)
            )
        except ProviderError:
            raise
        except ValueError as error:
            raise ProviderError(f"{url}: {error}") from None
        except Exception as error:
            # Resolvers, sockets, TLS and the HTTP parser each raise errors of their own.
            raise ProviderError(f"{url}: {type(error).__name__}: {error}") from error

    async def _fetch(
        self,
        endpoint: _AbortableEndpoint,
        url: str,
        form: Mapping[str, str] | None,
        headers: Mapping[bytes, bytes],
    ) -> bytes:
        # All names are bytes: with -bb, Twisted's cache of header names fails on a mixture.
        request_headers = Headers({b"User-Agent": [b"popserv"], b"Accept": [b"application/json"]})
        for name, value in headers.items():
            request_headers.setRawHeaders(name, [value])
        body = None
        if form is not None:
            request_headers.setRawHeaders(b"Content-Type", [b"application/x-www-form-urlencoded"])
            body = FileBodyProducer(BytesIO(urlencode(form).encode("ascii")))
        agent = Agent.usingEndpointFactory(self._reactor, endpoint)
        method = b"GET" if form is None else b"POST"
        try:
            response = await agent.request(method, url.encode("ascii"), request_headers, body)
            if response.code != 200:
                raise ValueError(f"HTTP status {response.code}")
            collector = _BodyCollector()
            response.deliverBody(collector)
            return await collector.body
        except BaseException as error:
            endpoint.abort()
            if endpoint.octets > MAX_OCTETS_WITH_HEADER:
                text = f"response exceeds {MAX_OCTETS_WITH_HEADER} octets with its header"
                raise ValueError(text) from error
            raise

    def _tls_creator(self, host: str) -> IOpenSSLClientConnectionCreator:
        """Return the TLS settings for a host, cached because loading the system's CAs is slow."""
        if host not in self._tls_creators:
            self._tls_creators[host] = optionsForClientTLS(host)
        return self._tls_creators[host]


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _AbortableEndpoint:
    """The endpoint of one request, which can abort the request's connection.

    Agent does not give access to the connection once the response's headers have arrived.  A TLS
    connection whose peer does not respond would then stay open forever.

    :ivar octets: those that were received; after ``MAX_OCTETS_WITH_HEADER`` of them, the connection
        is aborted.
    """

    def __init__(
        self, reactor: Any, tls_creator: Callable[[str], IOpenSSLClientConnectionCreator]
    ) -> None:
        self._reactor = reactor
        self._tls_creator = tls_creator
        self._endpoint: Any = None
        self._protocol: Any = None
        self.octets = 0

    def endpointForURI(self, uri: URI) -> _AbortableEndpoint:
        """Connect to this URI; see IAgentEndpointFactory."""
        self._endpoint = HostnameEndpoint(self._reactor, uri.host, uri.port)
        if uri.scheme == b"https":
            creator = self._tls_creator(uri.host.decode("ascii"))
            self._endpoint = wrapClientTLS(creator, self._endpoint)
        return self

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect, and keep a reference to the connection; see IStreamClientEndpoint."""
        connecting: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connecting.addCallback(self._connected)

    def _connected(self, protocol: Any) -> Any:
        self._protocol = protocol
        process = protocol.dataReceived

        def count(data: bytes) -> None:
            self.octets += len(data)
            if self.octets > MAX_OCTETS_WITH_HEADER:
                self.abort()
            else:
                process(data)

        # Agent's protocol is used by no other endpoint.
        protocol.dataReceived = count
        return protocol

    def abort(self) -> None:
        """Abort the connection, if there is one."""
        if self._protocol is not None:
            self._protocol.transport.abortConnection()


class _BodyCollector(Protocol):
    """Collects the body of a response.

    ``body`` fires with the body, or fails if the body is too long or incomplete.
    """

    def __init__(self) -> None:
        self.body: Deferred[bytes] = Deferred()
        self._chunks: list[bytes] = []
        self._remaining = MAX_RESPONSE_OCTETS

    def dataReceived(self, data: bytes) -> None:
        """Store the octets; those beyond the limit are discarded."""
        self._remaining -= len(data)
        if self._remaining >= 0:
            self._chunks.append(data)
        elif not self.body.called:
            self.body.errback(ValueError(f"response exceeds {MAX_RESPONSE_OCTETS} octets"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fire ``body``."""
        if self.body.called:
            return
        # With PotentialDataLoss the body may be truncated; a truncated JSON object is invalid.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.body.callback(b"".join(self._chunks))
        else:
            self.body.errback(reason)
