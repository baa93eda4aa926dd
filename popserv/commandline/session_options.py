"""What a command line says of a session, and whatever of it can be checked before the start.

``twistd pop3`` and ``popserv session`` take all of this.
"""

from __future__ import annotations

import math
import os
import re
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from twisted.cred.checkers import (
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.strcred import AuthOptionMixin
from twisted.python import usage

from popserv import __version__
from popserv.auth.passwords.checker import PasswdFileChecker
from popserv.auth.passwords.users_file import UsersFileError, default_path
from popserv.auth.rhosts.checker import RhostsChecker
from popserv.auth.rhosts.file import RhostsFileError
from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS, MECHANISMS, Mechanism
from popserv.commands.dialects import DIALECTS, MODERN, Dialect
from popserv.core.languages import DEFAULT_LANGUAGE, Languages
from popserv.interfaces import IRemoteUserCredentials, ITokenCredentials
from popserv.maildrops.maildir.layout import Layout
from popserv.messages.workarounds import WORKAROUNDS
from popserv.server.idle import MINIMUM_TIMEOUT

if TYPE_CHECKING:
    from popserv.tls.certificates import Certificates

_OPTIONAL = (b"TOP", b"UIDL", b"APOP", b"CAPA", b"STLS", b"AUTH", b"UTF8", b"LANG")
"""The commands that a server may do without."""

_NEEDS = {
    "sasl": b"AUTH",
    "client-ca": b"AUTH",
    "expire": b"CAPA",
    "hide-version": b"CAPA",
    "language": b"LANG",
    "rhosts": b"RPOP",
}
"""The options that only a dialect with some command has a use for."""

_FOR_LOGINS = (
    *("sasl", "rhosts", "certificate", "private-key", "client-ca"),
    *("allow-plaintext", "require-tls"),
)
"""The options that only a client who has still to log in has a use for, beside --auth."""

TLS_EXTRA = "TLS needs the extra: pip install 'popserv[tls]'"


class SessionOptions(usage.Options, AuthOptionMixin):
    """What is said of a session, of whatever kind its transport is."""

    supportedInterfaces = (
        *PasswdFileChecker.credentialInterfaces,
        ITokenCredentials,
        IRemoteUserCredentials,
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
            "dialect",
            None,
            MODERN.name,
            f"The text whose commands are offered, and no others: {', '.join(DIALECTS)}.",
        ],
        [
            "timeout",
            "t",
            str(MINIMUM_TIMEOUT),
            "Seconds without a command after which a connection is closed.",
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
            "rhosts",
            None,
            None,
            "For RPOP: a file in the manner of hosts.equiv that says whose users are trusted, "
            "without a password, on which hosts.  In a dialect that has RPOP only.",
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
        ["language", None, DEFAULT_LANGUAGE, "The language that LANG * chooses."],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        [
            "mark-seen",
            None,
            "Note in the Maildir which messages were retrieved, by the flag S; a dialect that has "
            "LAST does so anyway.",
        ],
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
            "rhosts": usage.CompleteFiles(),
        }
    )
    certificates: Certificates | None = None
    instead_of_stls = ""
    """What to advise where TLS is required, and STLS is not offered."""

    def __init__(self) -> None:
        super().__init__()
        self["without"] = []

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
        """Check everything that can be checked before anything is made."""
        if not self["maildir"]:
            raise usage.UsageError(
                "--maildir ROOT is needed: a directory that holds one Maildir for each user"
            )
        if not self.allows_login():
            self._check_no_logins()
        root = self._root()
        self["dialect"] = self._dialect()
        self["timeout"] = self.positive("timeout", float, "seconds, such as 600")
        if self["expire"] is not None:
            self["expire"] = self.number("expire", "a whole number of days")
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
        self._check_require_tls()
        try:
            if self.get("credCheckers") is None and self.allows_login():
                self.addChecker(PasswdFileChecker.from_file(default_path(root)))
            if self["rhosts"] is not None:
                self.addChecker(RhostsChecker.from_file(self["rhosts"]))
        except (UsersFileError, RhostsFileError) as error:
            raise usage.UsageError(str(error)) from error
        for interface, several in self.get("credInterfaces", {}).items():
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

    def _dialect(self) -> Dialect:
        dialect = DIALECTS.get(self["dialect"])
        if dialect is None:
            raise usage.UsageError(f"--dialect {self['dialect']}: there are {', '.join(DIALECTS)}")
        for name, keyword in _NEEDS.items():
            if self[name] != self.defaults[name] and not dialect.has(keyword):
                raise usage.UsageError(
                    f"--{name} is for {keyword.decode()}, which --dialect {dialect.name} has not; "
                    f"these have it: {_those_with(keyword)}"
                )
        for keyword in self["without"]:
            if not dialect.has(keyword):
                raise usage.UsageError(
                    f"--without {keyword.decode()}: --dialect {dialect.name} has none"
                )
        if self["mark-seen"] and dialect.has(b"LAST"):
            raise usage.UsageError(
                f"--mark-seen: --dialect {dialect.name} does so anyway, for LAST"
            )
        return dialect

    def _mechanisms(self) -> Iterable[Mechanism]:
        if self["sasl"] is None:
            return DEFAULT_MECHANISMS
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
            for name in self.needs_certificate():
                if self[name]:
                    raise usage.UsageError(f"--{name} needs --certificate FILE")
            return
        try:
            from popserv.tls.certificates import Certificates
            from popserv.tls.files import CertificateError
        except ImportError as error:
            raise usage.UsageError(f"--certificate: {error}; {TLS_EXTRA}") from error
        try:
            self.certificates = Certificates(
                self["certificate"], self["private-key"], client_ca=self["client-ca"]
            )
        except CertificateError as error:
            raise usage.UsageError(
                f"{error} (--certificate, --private-key, --client-ca)"
            ) from error

    @abstractmethod
    def allows_login(self) -> bool:
        """Tell whether clients log in, or are known before they say a word."""

    def _check_no_logins(self) -> None:
        given = [name for name in _FOR_LOGINS if self[name] != self.defaults[name]]
        if "credCheckers" in self:
            given = ["auth"]
        if given:
            raise usage.UsageError(
                f"--{given[0]} is for logins, and here nobody logs in: "
                "it is known who the client is"
            )

    def needs_certificate(self) -> Iterable[str]:
        """Return the options that are nothing without --certificate."""
        return "private-key", "client-ca", "require-tls"

    def has_tls_from_the_start(self) -> bool:
        """Tell whether there is TLS without STLS."""
        return False

    def _check_require_tls(self) -> None:
        if not self["require-tls"]:
            return
        if self["allow-plaintext"]:
            raise usage.UsageError("--require-tls and --allow-plaintext: give one of them")
        if not self["dialect"].has(b"STLS"):
            lacks = f"--dialect {self['dialect'].name}"
        elif b"STLS" in self["without"]:
            lacks = "--without STLS"
        else:
            return
        if not self.has_tls_from_the_start():
            raise usage.UsageError(
                f"--require-tls and {lacks}: nobody could log in{self.instead_of_stls}"
            )

    def number(self, name: str, wanted: str, digits: int = 6) -> int:
        """Return an option that is a number of at most so many digits."""
        given = self[name]
        if not re.fullmatch(rf"[0-9]{{1,{digits}}}", given):
            raise usage.UsageError(f"--{name} takes {wanted}, not {given!r}")
        return int(given)

    def positive(self, name: str, kind: Callable[[str], float], wanted: str) -> float:
        """Return an option that is a number above 0."""
        given = self[name]
        try:
            value = kind(given)
            if 0 < value < math.inf:
                return value
        except ValueError:
            pass
        raise usage.UsageError(f"--{name} takes {wanted}, not {given!r}")


def _those_with(keyword: bytes) -> str:
    return ", ".join(name for name, dialect in DIALECTS.items() if dialect.has(keyword))
