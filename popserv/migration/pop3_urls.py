"""The addresses of POP3 servers as URLs, and how their certificates are verified."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

_PORTS = {"pop3": 110, "pop3s": 995}


@dataclass(frozen=True)
class ServerAddress:
    """A POP3 server.

    With ``implicit_tls``, TLS starts before the greeting (RFC 8314 section 3.3).
    """

    host: str
    port: int
    implicit_tls: bool

    @classmethod
    def from_url(cls, url: str) -> ServerAddress:
        """Return the server of ``pop3://HOST[:PORT]`` or ``pop3s://HOST[:PORT]``.

        The ports are 110 and 995 by default.

        :raises ValueError: it is not such a URL; the message says how to correct it.
        """
        before, at, rest = url.rpartition("@")
        if at:
            # A password may be before it.
            scheme = before.partition(":")[0]
            raise ValueError(f"{scheme}:...@{rest}: only a host and a port may follow {scheme}://")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url}: {error}") from error
        if parts.scheme not in _PORTS or not parts.hostname or port == 0:
            raise ValueError(f"{url} is not pop3://HOST:PORT or pop3s://HOST:PORT")
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError(f"{url}: only a host and a port may follow {parts.scheme}://")
        return cls(parts.hostname, port or _PORTS[parts.scheme], parts.scheme == "pop3s")

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, so that nobody else sees the connection."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_url(text: str) -> bool:
    """Return whether a text is the URL of a POP3 server, valid or not."""
    return text.partition("://")[0] in _PORTS


@dataclass(frozen=True)
class Security:
    """How connections are secured.

    Certificates are verified with those of ``ca_file``, in PEM, or with those that the system
    trusts.  With ``insecure``, they are not verified, and a server need not have TLS at all.
    """

    ca_file: str | None = None
    insecure: bool = False

    def context(self) -> ssl.SSLContext:
        """Return the context for a connection.

        :raises ValueError: the file cannot be used; the message names it.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise ValueError(f"--ca-file {self.ca_file}: {error.strerror or error}") from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
