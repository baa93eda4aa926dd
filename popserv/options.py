"""The command line of ``twistd pop3``, and whatever of it can be checked before the start."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from typing import TYPE_CHECKING, ClassVar

from twisted.cred.checkers import (
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.strcred import AuthOptionMixin
from twisted.internet.endpoints import serverFromString
from twisted.python import usage

from popserv import __version__
from popserv.auth.mechanisms import BY_DEFAULT, MECHANISMS, Mechanism
from popserv.auth.passwd import PasswdFileChecker
from popserv.auth.users_file import UsersFileError, default_path
from popserv.idle import MINIMUM
from popserv.interfaces import ITokenCredentials
from popserv.languages import DEFAULT, Languages
from popserv.maildrops.layout import Layout
from popserv.workarounds import WORKAROUNDS

if TYPE_CHECKING:
    from popserv.tls import Certificates

_OPTIONAL = (b"TOP", b"UIDL", b"APOP", b"CAPA", b"STLS", b"AUTH", b"UTF8", b"LANG")
"""The commands that a server may do without."""

_EXAMPLES = """
Examples:
  twistd -n pop3 --maildir /var/mail
  twistd -n pop3 --maildir '/srv/mail/%d/%n' --auth passwd-file:/etc/popserv/users
  twistd -n pop3 --maildir /var/mail --certificate /etc/popserv/example.org.pem
  twistd -n pop3 --maildir ~/mail --listen tcp:1110:interface=127.0.0.1

Users: popserv user add NAME --maildir ROOT

Commands, the RFC that each is from, and the module of popserv.commands that has it:
  RFC 1725  rfc1725  USER PASS APOP QUIT STAT LIST RETR DELE NOOP RSET TOP UIDL
  RFC 2449  capa     CAPA, and response codes, of which RFC 3206 and RFC 6856 have more
  RFC 2595  stls     STLS
  RFC 5034  sasl     AUTH, with the mechanisms of RFC 5802 and 7677 (SCRAM), 4422 (EXTERNAL),
                     7628 (OAUTHBEARER), 4616 (PLAIN), 2195 (CRAM-MD5); XOAUTH2 and LOGIN
  RFC 6856  utf8     UTF8, LANG
TOP, UIDL, APOP, CAPA, STLS, AUTH, UTF8 and LANG can be left out by --without.
"""


class Options(usage.Options, AuthOptionMixin):
    """The command line of ``twistd pop3``."""

    synopsis = "[options]"
    longdesc = "Serve mail from Maildirs by POP3 (RFC 1725 and what came after it)."
    supportedInterfaces = (*PasswdFileChecker.credentialInterfaces, ITokenCredentials)

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "maildir",
            "m",
            None,
            "Where the mail is: a directory that holds one Maildir for each user, or the "
            "path of a Maildir with %u (the user's name), %n (its part before the @) "
            "and %d (the part behind it) in it.  Needed.",
        ],
        [
            "timeout",
            "t",
            str(MINIMUM),
            "Seconds without a command after which a connection is closed.",
        ],
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
            "remember",
            None,
            "500000",
            "Messages that are remembered from session to session, at some 200 bytes each; "
            "those of the maildrops used last.",
        ],
        [
            "certificate",
            None,
            None,
            "For TLS: a PEM file of the server's certificate, with those that lead to a root "
            "behind it, or a directory of such files, among which the client's choice of a "
            "name decides.  Re-read when it changes.",
        ],
        [
            "private-key",
            None,
            None,
            "The certificate's private key, if it is not in the same file.",
        ],
        [
            "client-ca",
            None,
            None,
            "A PEM file of the authorities whose client certificates let their owners in by "
            "AUTH EXTERNAL.",
        ],
        [
            "sasl",
            None,
            None,
            "The mechanisms that AUTH offers, parted by commas, best first; each where a "
            "checker can serve it.  [default: all but CRAM-MD5 and those ending in -PLUS]",
        ],
        [
            "login-delay",
            None,
            "0",
            "Seconds that a user must wait between two logins.",
        ],
        [
            "expire",
            None,
            None,
            "Days after which another program removes mail, for CAPA to announce. [default: never]",
        ],
        [
            "workarounds",
            None,
            "",
            f"For old clients, parted by commas: {', '.join(WORKAROUNDS)}.",
        ],
        [
            "hostname",
            None,
            None,
            "The server's name, in its goodbye and in APOP's timestamp. [default: this machine's]",
        ],
        ["language", None, DEFAULT, "The language that LANG * chooses."],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        [
            "allow-plaintext",
            None,
            "Take passwords in the clear over any connection; without this, over TLS and "
            "from this machine alone.",
        ],
        ["require-tls", None, "Let nobody log in without TLS, from this machine neither."],
        ["hide-version", None, "Do not tell popserv's version in CAPA."],
    ]
    compData = usage.Completions(
        optActions={
            "maildir": usage.CompleteDirs(),
            "certificate": usage.CompleteFiles(),
            "private-key": usage.CompleteFiles(),
            "client-ca": usage.CompleteFiles(),
        }
    )
    certificates: Certificates | None = None
    arguments: Sequence[str] = ()
    """What was parsed."""

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["listen-tls"] = []
        self["without"] = []
        self["trusted"] = []

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the arguments, those of the process if none are given."""
        self.arguments = list(sys.argv[1:] if options is None else options)
        super().parseOptions(self.arguments)

    def opt_listen(self, endpoint: str) -> None:
        """Listen on this server endpoint; may be given again; without any, tcp:110."""
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

    def opt_without(self, keyword: str) -> None:
        """Leave optional commands out, such as UTF8,LANG; may be given again."""
        for word in keyword.upper().split(","):
            if word.encode("ascii", "replace") not in _OPTIONAL:
                raise usage.UsageError(
                    f"--without {word}: these can be left out: {b' '.join(_OPTIONAL).decode()}"
                )
            self["without"].append(word.encode("ascii"))

    def opt_trusted(self, network: str) -> None:
        """Many log in through this address or network, as a webmail; may be given again."""
        try:
            self["trusted"].append(ip_network(network))
        except ValueError as error:
            raise usage.UsageError(f"--trusted: {error}") from error

    def opt_auth(self, description: str) -> None:
        """Ask this checker who may log in, such as passwd-file:PATH; --help-auth lists others."""
        try:
            super().opt_auth(description)
        except usage.UsageError as error:
            told = str(error)
            if told.startswith("Unexpected error: "):
                told = told.removeprefix("Unexpected error: ")
            else:
                told += "; --help-auth lists what there is, such as passwd-file:PATH"
            raise usage.UsageError(f"--auth {description.partition(':')[0]}: {told}") from error

    def addChecker(self, checker: ICredentialsChecker) -> None:
        """Take a checker of --auth."""
        if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
            # Twisted's own memory: keeps text, and what clients send is bytes.
            checker.users = {
                os.fsencode(name): os.fsencode(password) for name, password in checker.users.items()
            }
        super().addChecker(checker)

    def opt_version(self) -> None:
        """Print the version of popserv and exit."""
        print(f"popserv {__version__}")
        sys.exit(0)

    def postOptions(self) -> None:
        """Check everything that can be checked before the service is made."""
        if not self["maildir"]:
            raise usage.UsageError(
                "--maildir ROOT is needed: a directory that holds one Maildir for each user"
            )
        root = self._root()
        self["timeout"] = self._positive("timeout", float, "seconds, such as 600")
        if self["max-connections"] is not None:
            self["max-connections"] = self._positive("max-connections", int, "a number above 0")
        self["workers"] = self._workers()
        self["remember"] = self._number("remember", "a number of messages", digits=9)
        self["login-delay"] = self._number("login-delay", "a whole number of seconds")
        if self["expire"] is not None:
            self["expire"] = self._number("expire", "a whole number of days")
        if self["hostname"] is not None:
            self["hostname"] = self._hostname()
        self["sasl"] = self._mechanisms()
        self["workarounds"] = [name for name in self["workarounds"].split(",") if name]
        for name in self["workarounds"]:
            if name not in WORKAROUNDS:
                raise usage.UsageError(f"--workarounds {name}: there are {', '.join(WORKAROUNDS)}")
        try:
            self["language"] = Languages(preferred=self["language"])
        except ValueError as error:
            raise usage.UsageError(f"--language: {error}") from error
        self._check_tls()
        if not (self["listen"] or self["listen-tls"]):
            self["listen"] = ["tcp:110"]
            self["listen-tls"] = ["tcp:995"] if self.certificates else []
        self._check_require_tls()
        checkers = self.get("credCheckers")
        if checkers is None:
            try:
                self.addChecker(PasswdFileChecker.at_start(default_path(root)))
            except UsersFileError as error:
                raise usage.UsageError(str(error)) from error
        for interface, several in self["credInterfaces"].items():
            if len(several) > 1:
                raise usage.UsageError(
                    f"--auth given {len(several)} times for {interface.__name__}: "
                    "one place alone can decide about a user, give one"
                )

    def _root(self) -> str:
        template = self["maildir"]
        try:
            root = os.fsdecode(Layout(template).root)
        except ValueError as error:
            raise usage.UsageError(f"--maildir {template}: {error}") from error
        if not os.path.isdir(root):
            wrong = "is no directory" if os.path.exists(root) else "is not there; make it first"
            raise usage.UsageError(f"--maildir {template}: the directory {root} {wrong}")
        if "%" not in template and all(
            os.path.isdir(os.path.join(root, folder)) for folder in ("new", "cur")
        ):
            raise usage.UsageError(
                f"--maildir {template}: this is a Maildir itself; give the directory above, "
                "which holds one for each user"
            )
        return root

    def _workers(self) -> int:
        if self["workers"] == "auto":
            return _cores()
        workers = self._number("workers", "a number of processes, or auto", digits=3)
        if workers < 1:
            raise usage.UsageError("--workers takes a number above 0, or auto, not 0")
        if workers > (self["max-connections"] or workers):
            raise usage.UsageError(
                f"--workers {workers} and --max-connections {self['max-connections']}: "
                "each worker has its part of the connections, one at least"
            )
        return workers

    def _mechanisms(self) -> Iterable[Mechanism]:
        if self["sasl"] is None:
            return BY_DEFAULT
        known = {each.name.decode("ascii"): each for each in MECHANISMS}
        wanted = [name.strip() for name in self["sasl"].upper().split(",")]
        for name in wanted:
            if name not in known:
                raise usage.UsageError(
                    f"--sasl: no mechanism is called {name!r}; there are {', '.join(known)}"
                )
        return tuple(known[name] for name in dict.fromkeys(wanted))

    def _hostname(self) -> bytes:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", self["hostname"]):
            raise usage.UsageError(
                f"--hostname takes a name such as pop.example.org, not {self['hostname']!r}"
            )
        return str(self["hostname"]).encode("ascii")

    def _check_tls(self) -> None:
        if self["certificate"] is None:
            needy = ["private-key", "client-ca", "listen-tls"]
            if not self._has_own_tls():
                needy.append("require-tls")
            for name in needy:
                if self[name]:
                    raise usage.UsageError(f"--{name} needs --certificate FILE")
            return
        try:
            from popserv.tls import CertificateError, Certificates
        except ImportError as error:
            raise usage.UsageError(f"--certificate: {error}; {_TLS_EXTRA}") from error
        try:
            self.certificates = Certificates(
                self["certificate"], self["private-key"], client_ca=self["client-ca"]
            )
        except CertificateError as error:
            raise usage.UsageError(
                f"{error} (--certificate, --private-key, --client-ca)"
            ) from error

    def _has_own_tls(self) -> bool:
        return any(endpoint.startswith(("ssl:", "tls:")) for endpoint in self["listen"])

    def _check_require_tls(self) -> None:
        if not self["require-tls"]:
            return
        if self["allow-plaintext"]:
            raise usage.UsageError("--require-tls and --allow-plaintext: give one of them")
        if b"STLS" in self["without"] and not (self["listen-tls"] or self._has_own_tls()):
            raise usage.UsageError(
                "--require-tls and --without STLS: nobody could log in; give a --listen-tls, too"
            )

    def _number(self, name: str, wanted: str, digits: int = 6) -> int:
        given = self[name]
        if not re.fullmatch(rf"[0-9]{{1,{digits}}}", given):
            raise usage.UsageError(f"--{name} takes {wanted}, not {given!r}")
        return int(given)

    def _positive(self, name: str, kind: Callable[[str], float], wanted: str) -> float:
        given = self[name]
        try:
            value = kind(given)
            if 0 < value < math.inf:
                return value
        except ValueError:
            pass
        raise usage.UsageError(f"--{name} takes {wanted}, not {given!r}")

    def getUsage(self, width: int | None = None) -> str:
        """Return the help text, with examples at its end."""
        return super().getUsage(width) + _EXAMPLES


def _cores() -> int:
    """Return how many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_TLS_EXTRA = "TLS needs the extra: pip install 'popserv[tls]'"


def _checked(option: str, endpoint: str) -> str:
    """Return the endpoint if it is one."""
    from twisted.internet import reactor

    try:
        serverFromString(reactor, endpoint)
    except (ImportError, NameError) as error:
        raise usage.UsageError(f"--{option} {endpoint}: {error}; {_TLS_EXTRA}") from error
    except OSError as error:
        raise usage.UsageError(f"--{option} {endpoint}: {error}") from error
    except Exception as error:
        raise usage.UsageError(
            f"--{option} {endpoint} is no server endpoint ({error}); one would be "
            "tcp:110, tcp:1110:interface=127.0.0.1 or unix:/run/pop3.sock"
        ) from error
    return endpoint
