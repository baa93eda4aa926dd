"""``twistd pop3``: from options to a service; the one room that knows everybody."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Callable
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import ClassVar

from twisted.application import strports
from twisted.application.service import IService, MultiService
from twisted.cred.checkers import (
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.portal import Portal
from twisted.cred.strcred import AuthOptionMixin
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python import usage

from popserv import __version__
from popserv.auth.passwd import PasswdFileChecker
from popserv.auth.realm import MaildropRealm
from popserv.auth.users_file import UsersFileError, default_path
from popserv.command import CommandTable
from popserv.commands import rfc1725
from popserv.idle import MINIMUM
from popserv.interfaces import IAPOPCredentials
from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir import MaildirMaildrops
from popserv.protocol import POP3Factory

_log = Logger()

_EXAMPLES = """
Examples:
  twistd -n pop3 --maildir /var/mail
  twistd -n pop3 --maildir '/srv/mail/%d/%n' --auth passwd-file:/etc/popserv/users
  twistd -n pop3 --maildir ~/mail --listen tcp:1110:interface=127.0.0.1

Users: popserv user add NAME --maildir ROOT
"""

_FDS_A_CONNECTION = 4
"""A socket, and the directories of a Maildir."""


class Options(usage.Options, AuthOptionMixin):
    """The command line of ``twistd pop3``."""

    synopsis = "[options]"
    longdesc = "Serve mail from Maildirs by POP3 (RFC 1725)."
    supportedInterfaces = (IUsernamePassword, IAPOPCredentials)

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
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        [
            "allow-plaintext",
            None,
            "Take passwords in the clear over any connection; without this, over TLS and "
            "from this machine alone.",
        ],
    ]
    compData = usage.Completions(optActions={"maildir": usage.CompleteDirs()})

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Listen on this server endpoint; may be given again; without any, tcp:110."""
        from twisted.internet import reactor

        try:
            serverFromString(reactor, endpoint)
        except (ImportError, NameError) as error:
            raise usage.UsageError(
                f"--listen {endpoint}: {error}; TLS needs the extra: pip install 'popserv[tls]'"
            ) from error
        except OSError as error:
            raise usage.UsageError(f"--listen {endpoint}: {error}") from error
        except Exception as error:
            raise usage.UsageError(
                f"--listen {endpoint} is no server endpoint ({error}); one would be "
                "tcp:110, tcp:1110:interface=127.0.0.1 or unix:/run/pop3.sock"
            ) from error
        self["listen"].append(endpoint)

    opt_l = opt_listen

    def opt_auth(self, description: str) -> None:
        """Ask this checker who may log in, such as passwd-file:PATH; --help-auth lists others."""
        try:
            super().opt_auth(description)
        except usage.UsageError as error:
            raise usage.UsageError(
                f"--auth {description.partition(':')[0]}: "
                f"{str(error).removeprefix('Unexpected error: ')}; --help-auth lists what there "
                "is, such as passwd-file:PATH"
            ) from error

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
    portal = Portal(MaildropRealm(MaildirMaildrops(options["maildir"])))
    for checker in options["credCheckers"]:
        portal.registerChecker(checker)
    factory = POP3Factory(
        CommandTable(rfc1725.COMMANDS),
        portal,
        idle_timeout=options["timeout"],
        allow_plaintext=bool(options["allow-plaintext"]),
        max_connections=options["max-connections"] or _room(),
    )
    listeners = Listeners()
    for endpoint in options["listen"] or ["tcp:110"]:
        strports.service(endpoint, factory).setServiceParent(listeners)
    return listeners


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
