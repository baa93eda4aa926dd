"""The options that name the checkers: ``--auth``, ``--rhosts``, and the default users file."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from twisted.cred.checkers import (
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.strcred import AuthOptionMixin
from twisted.python import usage

from popserv.auth.client_names import tells_names
from popserv.auth.credentials import NAMED, is_named
from popserv.auth.passwords.file_checker import PasswdFileChecker
from popserv.auth.rhosts.checker import RhostsChecker
from popserv.auth.rhosts.file import RhostsFileError
from popserv.interfaces import (
    IPasswordCache,
    IRelayedCredentials,
    IRemoteUserCredentials,
    ITokenCredentials,
)
from popserv.options.values import parse_number
from popserv.runtime.config_files import FileError

_UNIX_WORKS = all(map(find_spec, ("crypt", "spwd")))
"""Whether Twisted's checker "unix" has the modules that it uses; Python 3.13 has removed them."""


AUTH_CACHE = 30
"""The default of ``--auth-cache``, in seconds: enough for a program that logs in several times."""


class CheckerOptions(usage.Options, AuthOptionMixin):
    """The options that name the checkers; after parsing, ``credCheckers`` are the checkers."""

    supportedInterfaces = (
        *PasswdFileChecker.credentialInterfaces,
        ITokenCredentials,
        IRemoteUserCredentials,
        IRelayedCredentials,
    )

    def __init__(self) -> None:
        super().__init__()
        self._auth_names: dict[int, str] = {}

    def opt_auth(self, description: str) -> None:
        """A checker that authenticates users: its name, a colon and its argument.

        Examples are passwd-file:PATH and oauth:PATH; --help-auth lists all. May be given more
        than once: the first checker that knows a name decides, and one that cannot tell which
        names it knows must be the last. The default is passwd-file with the file .users in the
        directory of --maildir, or sql-store with the file of --store sql; other stores have none.
        """
        if description.partition(":")[0] == "unix" and not _UNIX_WORKS:
            raise usage.UsageError(
                "--auth unix: this Python has no modules crypt and spwd; use pam:SERVICE"
            )
        try:
            super().opt_auth(description)
            self._auth_names[id(self["credCheckers"][-1])] = description.partition(":")[0]
        except usage.UsageError as error:
            problem = str(error)
            if problem.startswith("Unexpected error: "):
                problem = problem.removeprefix("Unexpected error: ")
            else:
                problem += "; use a checker that --help-auth lists, such as passwd-file:PATH"
            name = description.partition(":")[0]
            raise usage.UsageError(f"--auth {name}: {problem}") from error

    def _checkerFactoriesForOptHelpAuth(self) -> Iterator[Any]:
        for factory in super()._checkerFactoriesForOptHelpAuth():
            if factory.authType != "unix" or _UNIX_WORKS:
                yield factory

    def addChecker(self, checker: ICredentialsChecker) -> None:
        """Add a checker of ``--auth``."""
        if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
            # Twisted's "memory:" stores str, but clients send bytes.
            checker.users = {
                os.fsencode(name): os.fsencode(password) for name, password in checker.users.items()
            }
        super().addChecker(checker)

    @abstractmethod
    def allows_login(self) -> bool:
        """Return whether clients log in; otherwise they are preauthenticated."""

    @abstractmethod
    def default_auth(self) -> tuple[str, str]:
        """Return the name and the argument of the checker that is used without ``--auth``."""

    def add_file_checkers(self) -> None:
        """Add the default checker, and that of ``--rhosts``."""
        try:
            if self.get("credCheckers") is None and self.allows_login():
                self.addChecker(_make_checker(*self.default_auth()))
            if self["rhosts"] is not None:
                self.addChecker(RhostsChecker.from_file(self["rhosts"]))
        except (FileError, RhostsFileError) as error:
            raise usage.UsageError(str(error)) from error
        self._check_order()

    def set_auth_cache(self) -> None:
        """Convert ``--auth-cache``, and tell the checkers for how long they remember passwords.

        :raises UsageError: it is invalid, or no checker remembers any.
        """
        checkers = [
            each for each in self.get("credCheckers", ()) if IPasswordCache.providedBy(each)
        ]
        given = self["auth-cache"]
        if given is not None and not checkers:
            raise usage.UsageError(
                "--auth-cache requires --auth with dovecot, pam, checkpassword or ldap; remove it"
            )
        seconds = str(AUTH_CACHE) if given is None else given
        self["auth-cache"] = parse_number("auth-cache", seconds, "seconds")
        for checker in checkers:
            checker.cache_seconds = self["auth-cache"]

    def _check_order(self) -> None:
        """Check that several checkers can be asked in order."""
        named = [each for each in self.get("credCheckers") or () if is_named(each)]
        for checker in named[:-1]:
            if not tells_names(checker):
                raise usage.UsageError(
                    f"--auth {self._auth_names.get(id(checker), '')}: this checker cannot tell "
                    "which names it knows, so that those after it would never be asked; give it "
                    "last, and only one of its kind"
                )
        for interface, checkers in self.get("credInterfaces", {}).items():
            if len(checkers) > 1 and interface not in NAMED:
                raise usage.UsageError(
                    f"--auth: {len(checkers)} checkers support {interface.__name__}; give only one"
                )


def _make_checker(kind: str, argument: str) -> ICredentialsChecker:
    """Return a default checker, without the search for plugins.

    :raises FileError: the file cannot be used.
    """
    if kind == "passwd-file":
        return PasswdFileChecker.from_file(argument)
    # The store has the same extra.
    from popserv.auth.accounts.checker import AccountsChecker  # noqa: PLC0415

    return AccountsChecker.from_file(argument)
