"""The options of ``twistd pop3``: those of a session, the endpoints, and the limits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import ClassVar

from twisted.python import usage

from popserv.core.printable import one_line
from popserv.listening.reactor import has_ipv6
from popserv.maildrops.owners.store import OwnersStore
from popserv.options import completions
from popserv.options.checkers import AUTH_CACHE
from popserv.options.delivery import DeliveryOptions
from popserv.options.log import LogOptions
from popserv.options.operation import OperationOptions
from popserv.options.pidfile import remove_own_pidfile
from popserv.options.table import CACHE_MESSAGES, EPILOGUE
from popserv.options.values import (
    parse_endpoint,
    parse_network,
    parse_number,
    parse_positive,
    split_proxy_prefix,
)
from popserv.reloading import signals
from popserv.transports.unix_users import HAS_PEER_UID


class Options(LogOptions, DeliveryOptions, OperationOptions):
    """The command line of ``twistd pop3``.

    After parsing, ``listen``, ``listen-tls`` and ``preauth`` are server endpoint descriptions,
    ``trusted-networks`` and ``proxies`` IP networks, ``max-connections`` a number or None,
    ``workers`` and ``cache-messages`` numbers, and ``login-delay`` and ``auth-cache`` seconds.
    """

    synopsis = "[options]"
    longdesc = (
        "A POP3 server for Maildirs and mbox files: RFC 1725 with extensions, or a predecessor."
    )

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "max-connections",
            None,
            None,
            "The maximum number of simultaneous connections. A new connection beyond it replaces "
            "one that has not logged in, or is rejected. With --workers the number is divided "
            "among the workers, and must be at least their number. The default is the number that "
            "the limit of open files allows, but at most 10000; with --workers each worker has "
            "this default.",
        ],
        [
            "workers",
            None,
            "1",
            "The number of worker processes, or auto for one worker for each core that the server "
            "may use. The default is 1, a single process without a supervisor.",
        ],
        [
            "cache-messages",
            None,
            str(CACHE_MESSAGES),
            "The number of messages that are cached between sessions, in about 200 bytes of memory "
            "each. The cache keeps the maildrops that were used last. With --workers the number "
            f"is divided among the workers. The default is {CACHE_MESSAGES}.",
        ],
        [
            "auth-cache",
            None,
            None,
            "The number of seconds for which a password that dovecot, pam, checkpassword or ldap "
            f"has verified is accepted again; 0 for none. The default is {AUTH_CACHE}.",
        ],
        [
            "login-delay",
            None,
            "0",
            "The minimum number of seconds between two logins of one user. "
            "The default is 0, which means no minimum.",
        ],
    ]
    compData = completions.SERVER
    login_remedy = "add --listen or --listen-tls"
    tls_remedy = "add --listen-tls"

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["listen-tls"] = []
        self["preauth"] = []
        self["trusted-networks"] = []
        self["proxies"] = []

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the arguments; the default is those of the process.

        :raises UsageError: an option is invalid.
        :raises SystemExit: the same, under twistd, which would print the whole help text.
        """
        if self.parent is None:
            super().parseOptions(options)
            return
        # Until the service handles them; twistd starts it after some time.
        signals.block()
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            sys.exit(f"twistd pop3: {one_line(str(error))}; see twistd pop3 --help")

    def opt_listen(self, endpoint: str) -> None:
        """A server endpoint of Twisted on which the server accepts connections.

        With --certificate, clients can start TLS there with STLS. After haproxy:, as in
        haproxy:tcp:110, proxies connect there; see --proxies. tcp:PORT accepts IPv4 only, and
        tcp6:PORT IPv6 only. May be given more than once. If --listen, --listen-tls and --preauth
        are all omitted, the default is tcp:110 and tcp6:110, or port 109 with --dialect
        pop-revised.
        """
        self["listen"].append(parse_endpoint("listen", endpoint))

    opt_l = opt_listen

    def opt_listen_tls(self, endpoint: str) -> None:
        """A server endpoint of Twisted on which TLS starts with the first octet (RFC 8314).

        May be given more than once. Requires --certificate. If --listen, --listen-tls and
        --preauth are all omitted, the default with --certificate is tcp:995 and tcp6:995.
        """
        if endpoint.startswith(("ssl:", "tls:")):
            raise usage.UsageError(
                f"--listen-tls {endpoint}: this endpoint starts TLS itself; use it with --listen, "
                "or use --listen-tls tcp:995"
            )
        self["listen-tls"].append(parse_endpoint("listen-tls", endpoint))

    def opt_preauth(self, endpoint: str) -> None:
        """A UNIX socket whose clients do not log in, such as unix:/run/popserv/pop3.sock:mode=666.

        The operating system identifies the user at the other end. May be given more than once.
        If --listen and --listen-tls are omitted, the server opens no other port. The default is
        to open no such socket.
        """
        if not endpoint.startswith("unix:"):
            raise usage.UsageError(
                f"--preauth {endpoint}: the operating system identifies only clients of UNIX "
                "sockets; use one such as unix:/run/popserv/pop3.sock:mode=666"
            )
        if not HAS_PEER_UID:
            raise usage.UsageError(
                f"--preauth {endpoint}: this operating system does not identify clients of UNIX "
                "sockets; remove --preauth"
            )
        self["preauth"].append(parse_endpoint("preauth", endpoint))

    def opt_trusted_networks(self, network: str) -> None:
        """An address or a network from which many users log in, such as that of a webmail server.

        Failed logins from there do not delay other logins. May be given more than once. This
        machine and UNIX sockets are always trusted.
        """
        self["trusted-networks"].append(parse_network("trusted-networks", network))

    def opt_proxies(self, network: str) -> None:
        """An address or a network of the proxies that connect to endpoints with haproxy:.

        A proxy sends the address of its client in a header of the PROXY protocol. Connections
        from elsewhere are closed. May be given more than once. Requires --listen or --listen-tls
        with haproxy:. The default is this machine. Headers on UNIX sockets are always believed.
        """
        self["proxies"].append(parse_network("proxies", network))

    def postOptions(self) -> None:
        """Convert the values, and check those that depend on each other.

        :raises UsageError: an option is invalid.
        """
        self.check_log_format()
        self._parse_limits()
        super().postOptions()
        self.check_delivery()
        if self.parent is not None and self.parent.get("pidfile"):
            remove_own_pidfile(self.parent["pidfile"])
        self._check_jail()
        if self["as-owners"] and not isinstance(self.store, OwnersStore):
            raise usage.UsageError(
                "--as-owners requires a store of files: --maildir, --mbox or --store mh:PATH; "
                "remove --as-owners"
            )
        endpoints = (*self["listen"], *self["listen-tls"])
        if self["proxies"] and not any(split_proxy_prefix(each)[0] for each in endpoints):
            raise usage.UsageError(
                "--proxies requires an endpoint for proxies; use one such as "
                "--listen haproxy:tcp:110"
            )
        if not (self["listen"] or self["listen-tls"] or self["preauth"]):
            prefixes = ("tcp", "tcp6") if has_ipv6() else ("tcp",)
            self["listen"] = [f"{each}:{self['dialect'].port}" for each in prefixes]
            self["listen-tls"] = [f"{each}:995" for each in prefixes if self.certificates]

    def allows_login(self) -> bool:
        """Return whether the server has other endpoints than those of ``--preauth``."""
        return bool(self["listen"] or self["listen-tls"]) or not self["preauth"]

    def options_requiring_certificate(self) -> Iterable[str]:
        """Return the names of the options that require ``--certificate``."""
        names = ("private-key", "client-ca", "tls-profile", "listen-tls")
        return names if self._has_tls_endpoint() else (*names, "require-tls")

    def has_implicit_tls(self) -> bool:
        """Return whether TLS starts with the first octet on some port (RFC 8314 section 3)."""
        # Without --listen and --listen-tls, a certificate adds port 995.
        return bool(self["listen-tls"]) or not self["listen"] or self._has_tls_endpoint()

    def _has_tls_endpoint(self) -> bool:
        """Return whether an endpoint starts TLS itself, or is for proxies, which may do so."""
        return any(
            endpoint.startswith(("ssl:", "tls:")) or split_proxy_prefix(endpoint)[0]
            for endpoint in self["listen"]
        )

    def _parse_limits(self) -> None:
        if self["max-connections"] is not None:
            self["max-connections"] = parse_positive(
                "max-connections", self["max-connections"], int, "a whole number above 0"
            )
        self["workers"] = self._parse_workers()
        self["cache-messages"] = parse_number(
            "cache-messages", self["cache-messages"], "messages", maximum=999_999_999
        )
        self["login-delay"] = parse_number("login-delay", self["login-delay"], "seconds")
        self.parse_operation()
        self.set_auth_cache()

    def _parse_workers(self) -> int:
        if self["workers"] == "auto":
            cores = _usable_cores()
            # Each worker needs at least one connection.
            return min(cores, self["max-connections"] or cores)
        workers = parse_number(
            "workers", self["workers"], "processes", minimum=1, maximum=999, alternative=", or auto"
        )
        if workers > (self["max-connections"] or workers):
            raise usage.UsageError(
                f"--workers {workers} requires --max-connections to be at least {workers}, "
                "because each worker needs at least one connection"
            )
        return workers

    def _check_jail(self) -> None:
        """Check that workers can be started in the directory of twistd's ``--chroot``."""
        jail = self.parent and self.parent.get("chroot")
        if jail and self["workers"] > 1 and not os.path.exists(f"{jail}/{sys.executable}"):
            raise usage.UsageError(
                f"--workers {self['workers']}: workers are started in the directory of --chroot "
                f"{jail}, which does not contain {sys.executable}; remove --workers or --chroot"
            )

    def getUsage(self, width: int | None = None) -> str:
        """Return the help text, followed by examples and the commands of the server."""
        return super().getUsage(width) + EPILOGUE


def _usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
