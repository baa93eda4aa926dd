"""The command line of ``twistd pop3``: that of a session, and where and how it is served."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import ClassVar

from twisted.internet.endpoints import serverFromString
from twisted.python import usage

from popserv.commandline.session_options import TLS_EXTRA, SessionOptions
from popserv.transports.unix_users import HAS_PEER_UID

_EXAMPLES = """
Examples:
  twistd -n pop3 --maildir /var/mail
  twistd -n pop3 --maildir '/srv/mail/%d/%n' --auth passwd-file:/etc/popserv/users
  twistd -n pop3 --maildir /var/mail --certificate /etc/popserv/example.org.pem
  twistd -n pop3 --maildir ~/mail --listen tcp:1110:interface=127.0.0.1
  twistd -n pop3 --maildir /var/mail --preauth unix:/run/popserv/pop3.sock:mode=666

Users: popserv user add NAME --maildir ROOT

Commands, the RFC that each is from, and the module of popserv.commands that has it:
  RFC 1725  rfc1725  USER PASS APOP QUIT STAT LIST RETR DELE NOOP RSET TOP UIDL
  RFC 2449  capa     CAPA, and response codes, of which RFC 3206 and RFC 6856 have more
  RFC 2595  stls     STLS
  RFC 5034  sasl     AUTH, with the mechanisms of RFC 5802 and 7677 (SCRAM), 4422 (EXTERNAL),
                     7628 (OAUTHBEARER), 4616 (PLAIN), 2195 (CRAM-MD5); XOAUTH2 and LOGIN
  RFC 6856  utf8     UTF8, LANG
Other dialects have others:
  RFC 1460  rfc1460  LAST
  RFC 1225  rfc1225  RPOP
TOP, UIDL, APOP, CAPA, STLS, AUTH, UTF8 and LANG can be left out by --without.
"""


class Options(SessionOptions):
    """The command line of ``twistd pop3``."""

    synopsis = "[options]"
    longdesc = "Serve mail from Maildirs by POP3 (RFC 1725, its ancestors, and what came after it)."

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "max-connections",
            None,
            None,
            "Connections at a time; beyond, one that has not logged in makes room. "
            "[default: what the limit of open files allows, at most 10000]",
        ],
        [
            "workers",
            None,
            "1",
            "Processes that share the work; auto: one for each core.",
        ],
        [
            "cache-messages",
            None,
            "500000",
            "Messages that are remembered from session to session, at some 200 bytes each; "
            "those of the maildrops used last.",
        ],
        [
            "login-delay",
            None,
            "0",
            "Seconds that a user must wait between two logins.",
        ],
    ]
    instead_of_stls = "; give a --listen-tls, too"
    arguments: Sequence[str] = ()
    """What was parsed."""

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["listen-tls"] = []
        self["preauth"] = []
        self["trusted-networks"] = []

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the arguments, those of the process if none are given."""
        self.arguments = list(sys.argv[1:] if options is None else options)
        super().parseOptions(self.arguments)

    def opt_listen(self, endpoint: str) -> None:
        """Listen on this server endpoint; may be given again; without any of these, tcp:110."""
        if endpoint.startswith(("haproxy:ssl:", "haproxy:tls:")):
            raise usage.UsageError(
                f"--listen {endpoint}: proxies send their header before TLS; "
                "give --listen-tls haproxy:tcp:995, and --certificate"
            )
        self["listen"].append(_checked("listen", endpoint))

    opt_l = opt_listen

    def opt_listen_tls(self, endpoint: str) -> None:
        """Listen here for TLS from the first octet on (RFC 8314); may be given again."""
        if endpoint.startswith(("ssl:", "tls:")):
            raise usage.UsageError(
                f"--listen-tls {endpoint}: this begins TLS by itself, give it as --listen; "
                "here it would be tcp:995"
            )
        self["listen-tls"].append(_checked("listen-tls", endpoint))

    def opt_preauth(self, endpoint: str) -> None:
        """Listen on this UNIX socket, where the system says who a client is; may be given again."""
        if not endpoint.startswith("unix:"):
            raise usage.UsageError(
                f"--preauth {endpoint}: of no other socket does the system say whose it is; "
                "give one such as unix:/run/popserv/pop3.sock:mode=666"
            )
        if not HAS_PEER_UID:
            raise usage.UsageError(
                f"--preauth {endpoint}: this system does not say who is at the other end"
            )
        self["preauth"].append(_checked("preauth", endpoint))

    def opt_trusted_networks(self, network: str) -> None:
        """Many log in through this address or network, as a webmail; may be given again."""
        try:
            self["trusted-networks"].append(ip_network(network))
        except ValueError as error:
            raise usage.UsageError(f"--trusted-networks: {error}") from error

    def postOptions(self) -> None:
        """Check everything that can be checked before the service is made."""
        super().postOptions()
        if self["max-connections"] is not None:
            self["max-connections"] = self.positive("max-connections", int, "a number above 0")
        self["workers"] = self._workers()
        self["cache-messages"] = self.number("cache-messages", "a number of messages", digits=9)
        self["login-delay"] = self.number("login-delay", "a whole number of seconds")
        if not (self["listen"] or self["listen-tls"] or self["preauth"]):
            self["listen"] = [f"tcp:{self['dialect'].port}"]
            self["listen-tls"] = ["tcp:995"] if self.certificates else []

    def allows_login(self) -> bool:
        """Tell whether there is anything else than --preauth."""
        return bool(self["listen"] or self["listen-tls"]) or not self["preauth"]

    def needs_certificate(self) -> Iterable[str]:
        """Return the options that are nothing without --certificate."""
        needy = ("private-key", "client-ca", "listen-tls")
        return needy if self._has_own_tls() else (*needy, "require-tls")

    def has_tls_from_the_start(self) -> bool:
        """Tell whether there is TLS without STLS."""
        # By default there is a port for it.
        return bool(self["listen-tls"]) or not self["listen"] or self._has_own_tls()

    def _has_own_tls(self) -> bool:
        return any(endpoint.startswith(("ssl:", "tls:")) for endpoint in self["listen"])

    def _workers(self) -> int:
        if self["workers"] == "auto":
            return _cores()
        workers = self.number("workers", "a number of processes, or auto", digits=3)
        if workers < 1:
            raise usage.UsageError("--workers takes a number above 0, or auto, not 0")
        if workers > (self["max-connections"] or workers):
            raise usage.UsageError(
                f"--workers {workers} and --max-connections {self['max-connections']}: "
                "each worker has its part of the connections, one at least"
            )
        return workers

    def getUsage(self, width: int | None = None) -> str:
        """Return the help text, with examples at its end."""
        return super().getUsage(width) + _EXAMPLES


def _cores() -> int:
    """Return how many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _checked(option: str, endpoint: str) -> str:
    """Return the endpoint if it is one."""
    from twisted.internet import reactor

    try:
        serverFromString(reactor, endpoint)
    except (ImportError, NameError) as error:
        raise usage.UsageError(f"--{option} {endpoint}: {error}; {TLS_EXTRA}") from error
    except OSError as error:
        raise usage.UsageError(f"--{option} {endpoint}: {error}") from error
    except Exception as error:
        raise usage.UsageError(
            f"--{option} {endpoint} is no server endpoint ({error}); one would be "
            "tcp:110, tcp:1110:interface=127.0.0.1 or unix:/run/pop3.sock"
        ) from error
    return endpoint
