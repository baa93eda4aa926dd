"""Asks an OAuth provider by HTTP: one JSON object an answer, bounded in size and in time."""

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
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, FileBodyProducer, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

MAX_ANSWER = 1 << 20
"""Octets of an answer; a set of keys has some thousands."""

TIMEOUT = 10.0
"""Seconds from the first packet to the answer's last octet."""


class ProviderError(Exception):
    """The provider, or a file in its stead, cannot say now whose token it is.

    The text is for the log: it names the place and the trouble, and no token.
    """


def check_url(url: str) -> None:
    """Raise ValueError, which says what is wrong, unless it is https, or http to this machine.

    Whoever answers there decides who gets in.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be a URL such as https://provider.example/path")
    if parts.username is not None or parts.fragment:
        raise ValueError("must be a URL without a user's name and without a #fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise ValueError("must be an https URL; http is for this machine alone, as 127.0.0.1")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object.

    :raises ValueError: it is none, or nests too deeply; the error quotes nothing of it.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


class Provider:
    """The HTTP client.  It follows no redirect, keeps no cookie, and takes no coding of content.

    Each question has its own connection.  A kept one would save a handshake, but a
    POST on a connection that the other end has just closed fails, and nobody can
    tell whether it was heard.

    ``timeout`` is in seconds.
    """

    def __init__(self, timeout: float = TIMEOUT, reactor: Any = None) -> None:
        self._timeout = timeout
        self._reactor = reactor
        self._creators: dict[str, IOpenSSLClientConnectionCreator] = {}

    async def request(
        self,
        url: str,
        form: Mapping[str, str] | None = None,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> dict[str, Any]:
        """GET, or POST a form, and return the JSON object that is the answer.

        :raises ProviderFault: there is no connection, no answer in time, or one that
            is not ``200``, is no JSON object, or is longer than ``MAX_ANSWER``.
        """
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        route = _Route(self._reactor, self._creator)
        exchange = Deferred.fromCoroutine(self._exchange(route, url, form, headers or {}))

        def late(_outcome: object, seconds: float) -> bytes:
            # Agent wraps a cancellation into an error of its own, which tells nobody the reason.
            raise ProviderError(f"{url}: no whole answer in {seconds:g} seconds") from None

        try:
            return parse_object(await exchange.addTimeout(self._timeout, self._reactor, late))
        except ProviderError:
            raise
        except ValueError as error:
            raise ProviderError(f"{url}: {error}") from None
        except Exception as error:
            # Whatever a resolver, a socket, TLS or a parser can come up with.
            raise ProviderError(f"{url}: {type(error).__name__}: {error}") from error

    async def _exchange(
        self,
        route: _Route,
        url: str,
        form: Mapping[str, str] | None,
        headers: Mapping[bytes, bytes],
    ) -> bytes:
        # Bytes throughout: Twisted's cache of names compares what it is given.
        sent = Headers({b"User-Agent": [b"popserv"], b"Accept": [b"application/json"]})
        for name, value in headers.items():
            sent.setRawHeaders(name, [value])
        body = None
        if form is not None:
            sent.setRawHeaders(b"Content-Type", [b"application/x-www-form-urlencoded"])
            body = FileBodyProducer(BytesIO(urlencode(form).encode("ascii")))
        agent = Agent.usingEndpointFactory(self._reactor, route)
        method = b"GET" if form is None else b"POST"
        try:
            response = await agent.request(method, url.encode("ascii"), sent, body)
            if response.code != 200:
                raise ValueError(f"answered {response.code}")
            collector = _Collector()
            response.deliverBody(collector)
            return await collector.body
        except BaseException:
            route.cut()
            raise

    def _creator(self, host: str) -> IOpenSSLClientConnectionCreator:
        """Return what makes TLS for a host; kept, for it takes long to load a system's roots."""
        if host not in self._creators:
            self._creators[host] = optionsForClientTLS(host)
        return self._creators[host]


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Route:
    """The one connection of a request.

    Agent gives nobody a hold on it once the headers are there; without one, a TLS
    connection whose other end has gone silent would stay for ever.
    """

    def __init__(
        self, reactor: Any, creator: Callable[[str], IOpenSSLClientConnectionCreator]
    ) -> None:
        self._reactor = reactor
        self._creator = creator
        self._endpoint: Any = None
        self._protocol: Any = None

    def endpointForURI(self, uri: URI) -> _Route:
        """Be the endpoint of that URI."""
        self._endpoint = HostnameEndpoint(self._reactor, uri.host, uri.port)
        if uri.scheme == b"https":
            creator = self._creator(uri.host.decode("ascii"))
            self._endpoint = wrapClientTLS(creator, self._endpoint)
        return self

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect, and keep hold."""
        connecting: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connecting.addCallback(self._connected)

    def _connected(self, protocol: Any) -> Any:
        self._protocol = protocol
        return protocol

    def cut(self) -> None:
        """Abort the connection, if there is one."""
        if self._protocol is not None:
            self._protocol.transport.abortConnection()


class _Collector(Protocol):
    """Collects the body of an answer; ``body`` fails if it gets too long or breaks off."""

    def __init__(self) -> None:
        self.body: Deferred[bytes] = Deferred()
        self._chunks: list[bytes] = []
        self._left = MAX_ANSWER

    def dataReceived(self, data: bytes) -> None:
        """Take some octets; what comes after too many is dropped."""
        self._left -= len(data)
        if self._left >= 0:
            self._chunks.append(data)
        elif not self.body.called:
            self.body.errback(ValueError(f"an answer of more than {MAX_ANSWER} octets"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Hand out the whole, if it is that."""
        if self.body.called:
            return
        # A cut that nobody announced leaves no JSON object.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.body.callback(b"".join(self._chunks))
        else:
            self.body.errback(reason)
