"""The class of the options that ``twistd pop3`` and ``popserv session`` have in common.

It checks the command line as far as possible before the server or the session starts.
"""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from twisted.python import usage

from popserv import __version__
from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS
from popserv.interfaces import (
    ISASLRelay,
)
from popserv.maildrops.settings import StoreSettings
from popserv.options import completions
from popserv.options.checkers import CheckerOptions
from popserv.options.config import ConfigOptions
from popserv.options.store import StoreOptions
from popserv.options.table import (
    CACHE_MESSAGES,
    FLAGS,
    INHERITED_HELP,
    LOGIN_OPTIONS,
    PARAMETERS,
    REQUIRED_COMMANDS,
    dialects_with,
)
from popserv.options.values import (
    TLS_EXTRA,
    parse_commands,
    parse_dialect,
    parse_domain,
    parse_hostname,
    parse_language,
    parse_mechanisms,
    parse_number,
    parse_positive,
    parse_tls_profile,
    parse_workarounds,
)

if TYPE_CHECKING:
    from popserv.messages.sizes import MakeDowngrader
    from popserv.tls.certificates import Certificates


class SessionOptions(ConfigOptions, StoreOptions, CheckerOptions):
    """The options of a POP3 session on any kind of transport.

    After parsing, ``dialect`` is a Dialect, ``timeout`` seconds, ``expire`` days or None,
    ``since`` seconds or None, ``hostname`` octets or None, ``default-domain`` and
    ``folder-delimiter`` octets, ``sasl`` mechanisms, ``without`` keywords, ``workarounds`` names,
    ``language`` Languages, and ``credCheckers`` the checkers.
    """

    optParameters: ClassVar[list[list[str | None]]] = PARAMETERS
    optFlags: ClassVar[list[list[str | None]]] = FLAGS
    compData = completions.SESSION
    certificates: Certificates | None = None
    """The server certificates; None without ``--certificate``."""
    downgrader: MakeDowngrader | None = None
    """Downgrades messages for clients that have not sent UTF8; None without ``--utf8``."""
    relayed: Sequence[bytes] | None = None
    """The names of the mechanisms that may be passed on to another server; None allows all."""
    login_remedy = ""
    """How to let clients log in, as a part of an error message."""
    tls_remedy = "remove one of them"
    """How to provide TLS without STLS, as a part of an error message."""

    def __init__(self) -> None:
        super().__init__()
        # The help texts name the defaults; Twisted would append them a second time.
        self.initial_values, self.defaults = self.defaults, {}
        # Docstrings, which may have several lines, are the help texts of some options.
        self.docs = {name: " ".join(text.split()) for name, text in self.docs.items()}
        self.docs.update(INHERITED_HELP)
        self["without"] = []

    def opt_without(self, keywords: str) -> None:
        """Commands to remove from the dialect, separated by commas, such as CAPA,LANG.

        May be given more than once. The default is to remove none.
        """
        self["without"] += parse_commands(keywords)

    def opt_version(self) -> None:
        """Print the version of popserv and exit."""
        print(f"popserv {__version__}")
        sys.exit(0)

    def postOptions(self) -> None:
        """Convert the values, and check those that depend on each other.

        :raises UsageError: an option is invalid.
        """
        if not self.allows_login():
            self._check_no_login_options()
        self["dialect"] = parse_dialect(self["dialect"])
        self._check_dialect()
        self["timeout"] = parse_positive(
            "timeout", self["timeout"], float, "a number of seconds above 0, such as 600"
        )
        if self["expire"] is not None:
            self["expire"] = parse_number("expire", self["expire"], "days")
        self.parse_store_values()
        if self["hostname"] is not None:
            self["hostname"] = parse_hostname(self["hostname"])
        self["default-domain"] = parse_domain(self["default-domain"])
        self._parse_sasl()
        self["workarounds"] = parse_workarounds(self["workarounds"])
        self["language"] = parse_language(self["language"])
        parse_tls_profile(self["tls-profile"])
        self._load_downgrader()
        self.load_store(self._store_settings())
        self._load_certificates()
        self._check_require_tls()
        self.add_file_checkers()

    def _parse_sasl(self) -> None:
        if self["sasl"] is None:
            self["sasl"], self.relayed = DEFAULT_MECHANISMS, None
            return
        relays = any(map(ISASLRelay.providedBy, self.get("credCheckers") or ()))
        self["sasl"], self.relayed = parse_mechanisms(self["sasl"], is_relayed=relays)

    def _is_given(self, name: str) -> bool:
        """Return whether an option has another value than its default."""
        # The options that may be given more than once have no default there.
        return bool(self[name] != self.initial_values.get(name, []))

    def _check_dialect(self) -> None:
        """Check that the dialect has the commands that other options require or remove."""
        dialect = self["dialect"]
        for name, command in REQUIRED_COMMANDS.items():
            if self._is_given(name) and not dialect.has(command):
                raise usage.UsageError(
                    f"--{name} requires {command.decode()}, which --dialect {dialect.name} does "
                    f"not have; use one of these dialects: {dialects_with(command)}"
                )
        for command in self["without"]:
            if not dialect.has(command):
                raise usage.UsageError(
                    f"--without {command.decode()}: --dialect {dialect.name} does not have this "
                    "command; remove it from --without"
                )
        if self["mark-seen"] and dialect.has(b"LAST"):
            raise usage.UsageError(
                f"--mark-seen cannot be combined with --dialect {dialect.name}, which always sets "
                "the flag; remove --mark-seen"
            )

    @abstractmethod
    def allows_login(self) -> bool:
        """Return whether clients log in; otherwise they are preauthenticated."""

    def _check_no_login_options(self) -> None:
        given = [name for name in LOGIN_OPTIONS if self._is_given(name)]
        if "credCheckers" in self:
            given = ["auth"]
        if given:
            raise usage.UsageError(
                f"--{given[0]} requires that clients log in; {self.login_remedy}, "
                f"or remove --{given[0]}"
            )

    def options_requiring_certificate(self) -> Iterable[str]:
        """Return the names of the options that require ``--certificate``."""
        return "private-key", "client-ca", "tls-profile", "require-tls"

    def _load_downgrader(self) -> None:
        if self["utf8"]:
            # Few servers need it, and each ``popserv session`` would load it.
            from popserv.messages.downgrade import Downgrader  # noqa: PLC0415

            self.downgrader = Downgrader

    def _store_settings(self) -> StoreSettings:
        processes = self.get("workers", 1)
        return StoreSettings(
            cache_messages=self.get("cache-messages", CACHE_MESSAGES) // processes,
            processes=processes,
            downgrader=self.downgrader,
            uidl=self["uidl"],
            folder=self["folder"],
            folder_delimiter=self["folder-delimiter"].decode("ascii"),
            deleted=self["deleted"],
            since=self["since"],
            as_owners=True,
        )

    def _load_certificates(self) -> None:
        if self["certificate"] is None:
            for name in self.options_requiring_certificate():
                if self._is_given(name):
                    raise usage.UsageError(f"--{name} requires --certificate")
            return
        try:
            # TLS is an extra.
            from popserv.tls.certificates import Certificates  # noqa: PLC0415
            from popserv.tls.files import CertificateError  # noqa: PLC0415
        except ImportError as error:
            raise usage.UsageError(f"--certificate: {error}; {TLS_EXTRA}") from error
        names = ("certificate", "private-key", "client-ca")
        for name in filter(self.get, names):
            self[name] = os.path.abspath(self[name])
        try:
            self.certificates = Certificates(
                self["certificate"],
                self["private-key"],
                client_ca=self["client-ca"],
                profile=self["tls-profile"],
            )
        except CertificateError as error:
            given = ", ".join(f"--{name}" for name in names if self[name])
            raise usage.UsageError(f"{given}: {error}") from error

    def has_implicit_tls(self) -> bool:
        """Return whether TLS starts with the first octet on some port (RFC 8314 section 3)."""
        return False

    def _check_require_tls(self) -> None:
        """Check that clients can start TLS if it is required."""
        if not self["require-tls"]:
            return
        if self["allow-plaintext"]:
            raise usage.UsageError(
                "--require-tls and --allow-plaintext cannot be combined; remove one of them"
            )
        if not self["dialect"].has(b"STLS"):
            reason = f"--dialect {self['dialect'].name}"
        elif b"STLS" in self["without"]:
            reason = "--without STLS"
        else:
            return
        if not self.has_implicit_tls():
            raise usage.UsageError(
                f"--require-tls and {reason} cannot be combined, because no client could start "
                f"TLS; {self.tls_remedy}"
            )

    def parseArgs(self, *arguments: str) -> None:
        """Accept no arguments besides options.

        :raises UsageError: there is one.
        """
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r} is not an option")
