"""``twistd pop3``: from options to a service; the one room that knows everybody."""

from __future__ import annotations

import errno
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import TYPE_CHECKING, ClassVar

from twisted.application import strports
from twisted.application.internet import TimerService
from twisted.application.service import IService, MultiService
from twisted.cred.checkers import (
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.portal import IRealm, Portal
from twisted.cred.strcred import AuthOptionMixin
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger
from twisted.python import usage

from popserv import __version__
from popserv.auth.delay import LoginDelayRealm
from popserv.auth.login import PortalLogin
from popserv.auth.mechanisms import BY_DEFAULT, MECHANISMS, Mechanism
from popserv.auth.passwd import PasswdFileChecker
from popserv.auth.realm import MaildropRealm
from popserv.auth.users_file import UsersFileError, default_path
from popserv.command import Command, CommandTable
from popserv.commands import capa, rfc1725, sasl, stls, utf8
from popserv.idle import MINIMUM
from popserv.interfaces import (
    IAPOPCredentials,
    ICertificateCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
    ITokenCredentials,
)
from popserv.languages import DEFAULT, Languages
from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir import MaildirMaildrops
from popserv.protocol import POP3Factory
from popserv.workarounds import WORKAROUNDS

if TYPE_CHECKING:
    from popserv.tls import Certificates

_log = Logger()

_OPTIONAL = (b"TOP", b"UIDL", b"APOP", b"CAPA", b"STLS", b"AUTH", b"UTF8", b"LANG")
"""The commands that a server may do without."""

_EXAMPLES = """
Examples:
  twistd -n pop3 --maildir /var/mail
  twistd -n pop3 --maildir '/srv/mail/%d/%n' --auth passwd-file:/etc/popserv/users
  twistd -n pop3 --maildir /var/mail --certificate /etc/popserv/example.org.pem
  twistd -n pop3 --maildir ~/mail --listen tcp:1110:interface=127.0.0.1

Users: popserv user add NAME --maildir ROOT

Commands, and where they come from:
  RFC 1725  USER PASS APOP QUIT STAT LIST RETR DELE NOOP RSET TOP UIDL
  RFC 2449  CAPA, response codes; RFC 3206 more of these
  RFC 2595  STLS
  RFC 5034  AUTH, with the mechanisms of RFC 5802 and 7677 (SCRAM), 4422 (EXTERNAL),
            7628 (OAUTHBEARER), 4616 (PLAIN), 2195 (CRAM-MD5); XOAUTH2 and LOGIN
  RFC 6856  UTF8, LANG
TOP, UIDL, APOP, CAPA, STLS, AUTH, UTF8 and LANG can be left out by --without.
"""

_FDS_A_CONNECTION = 4
"""A socket, and the directories of a Maildir."""


class Options(usage.Options, AuthOptionMixin):
    """The command line of ``twistd pop3``."""

    synopsis = "[options]"
    longdesc = "Serve mail from Maildirs by POP3 (RFC 1725 and what came after it)."
    supportedInterfaces = (
        IUsernamePassword,
        IAPOPCredentials,
        IScramSHA256Credentials,
        IScramSHA1Credentials,
        IUsernameHashedPassword,
        ICertificateCredentials,
        ITokenCredentials,
    )

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
            "Connections at a time; beyond, the oldest that has not logged in makes room. "
            "[default: what the limit of open files allows, at most 10000]",
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

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["listen-tls"] = []
        self["without"] = []

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


def makeService(options: Options) -> IService:
    """Return the service that the options describe."""
    if options["timeout"] < MINIMUM:
        _log.warn(
            "--timeout {given:g}: RFC 1725 section 3 wants {minimum} seconds at least; "
            "slow clients and people will be cut off",
            given=options["timeout"],
            minimum=MINIMUM,
        )
    # A thread that reads a huge directory must not hold up the reactor for the usual 5 ms.
    sys.setswitchinterval(0.0005)
    maildrops = MaildirMaildrops(options["maildir"], remember=options["remember"])
    realm: IRealm = MaildropRealm(maildrops)
    if options["login-delay"]:
        realm = LoginDelayRealm(realm, options["login-delay"])
    portal = Portal(realm)
    for checker in options["credCheckers"]:
        portal.registerChecker(checker)
    certificates = options.certificates
    for mechanism in options["sasl"] if options["sasl"] is not BY_DEFAULT else ():
        if not PortalLogin(portal).offers(mechanism.credentials):
            _log.warn(
                "AUTH does not offer {name} now: no checker can serve it to all its users",
                name=mechanism.name.decode("ascii"),
            )
    factory = POP3Factory(
        CommandTable(_commands(options)),
        portal,
        host=options["hostname"],
        idle_timeout=options["timeout"],
        allow_plaintext=bool(options["allow-plaintext"]),
        tls=certificates,
        require_tls=bool(options["require-tls"]),
        workarounds=options["workarounds"],
        max_connections=options["max-connections"] or _room(),
    )
    listeners = Listeners()
    for endpoint in options["listen"]:
        strports.service(endpoint, factory).setServiceParent(listeners)
    if certificates is not None:
        over_tls = _over_tls(certificates, factory)
        for endpoint in options["listen-tls"]:
            strports.service(endpoint, over_tls).setServiceParent(listeners)
        TimerService(_DAY, certificates.warn_of_expiry).setServiceParent(listeners)
    return listeners


_DAY = 24 * 60 * 60


def _over_tls(certificates: Certificates, factory: POP3Factory) -> IProtocolFactory:
    from twisted.protocols.tls import TLSMemoryBIOFactory

    over_tls: IProtocolFactory = TLSMemoryBIOFactory(certificates, False, factory)
    return over_tls


def _commands(options: Options) -> Iterable[Command]:
    """Return the commands that the options leave."""
    groups = (
        rfc1725.COMMANDS,
        capa.commands(
            implementation=None if options["hide-version"] else b"popserv-" + __version__.encode(),
            expire_days=options["expire"],
            login_delay=options["login-delay"],
        ),
        stls.COMMANDS,
        sasl.commands(options["sasl"]),
        (utf8.utf8, utf8.lang_command(options["language"])),
    )
    return [entry for group in groups for entry in group if entry.keyword not in options["without"]]


def _room() -> int:
    """Return how many connections the limit of open files allows, having raised it."""
    _, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (hard, hard))
    files = 1 << 20 if hard == RLIM_INFINITY else hard
    return max(1, min(10_000, (files - 100) // _FDS_A_CONNECTION))


class CannotStart(SystemExit, Exception):
    """Ends twistd with one line; an Exception, too, so that twistd removes its pidfile first."""


class Listeners(MultiService):
    """Ports, which are all opened or end the server."""

    def privilegedStartService(self) -> None:
        """Bind, while there is still the right to; the reason and a hint if that fails."""
        try:
            super().privilegedStartService()
        except CannotListenError as error:
            raise CannotStart(f"popserv: {error}{_hint(error)}") from None
        except (OSError, OverflowError) as error:
            raise CannotStart(f"popserv: cannot listen: {error}") from None


def _hint(error: CannotListenError) -> str:
    if isinstance(error.socketError, PermissionError):
        return (
            " Ports below 1024 are root's: start as root with twistd's --uid and --gid, "
            "or try --listen tcp:1110"
        )
    if getattr(error.socketError, "errno", None) == errno.EADDRNOTAVAIL:
        return " This machine has no such address."
    return " Is another server running there? Give another port by --listen"
