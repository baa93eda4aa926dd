"""``popserv user check``: how each user can log in, or why not."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from popserv.auth.passwords.login_methods import methods_of
from popserv.auth.passwords.schemes import (
    SchemeUnavailable,
    UnknownScheme,
    has_password,
    is_apop,
    split_field,
)
from popserv.auth.passwords.secret_forms import check_form
from popserv.auth.passwords.users_file import Users, problems_of
from popserv.auth.users.extra_fields import PREFIX, utc_time
from popserv.auth.users.user import User
from popserv.core.printable import printable
from popserv.maildrops.layout import Layout


class UsersCheck:
    """The check of the users in a file, or in the database of one, at ``path``.

    ``layout`` is where the maildrops are, and ``domain`` the default domain or empty.
    ``has_problems`` tells whether :meth:`mistakes` or :meth:`rows` have found a problem.
    """

    def __init__(self, path: str, users: Users, layout: Layout, domain: bytes) -> None:
        self._path = path
        self._layout = layout
        self._domain = domain
        self._users = users
        self.has_problems = False

    def mistakes(self) -> Iterator[str]:
        """Yield a text for each line of the file that is ignored."""
        for problem in self._users.problems:
            if problem.is_ignored:
                self.has_problems = True
                yield f"{self._path}, line {problem.line}: {problem.text}"

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name, the ways to log in, and remarks, for each user."""
        for user in self._users.by_name.values():
            refusal = self._refusal_of(user)
            problems = [refusal] if refusal else problems_of(user)
            self.has_problems = self.has_problems or bool(problems)
            methods = ["refused"] if refusal else methods_of(self._users, user)
            remarks = problems if refusal else [*problems, *_conditions_of(user)]
            yield printable(user.name), ", ".join(methods), "; ".join(remarks)

    def _refusal_of(self, user: User) -> str:
        """Return why a user cannot log in at all, or an empty string."""
        if user.rules.refusal:
            return user.rules.refusal
        if self._domain and b"@" not in user.name:
            return "the name has no @, and --default-domain is added to such names"
        try:
            if not user.rules.settings.maildrop:
                self._layout.path_parts(user.maildrop)
        except ValueError:
            return "the name cannot be that of a maildrop"
        try:
            if is_apop(user.password_field):
                split_field(user.password_field)
            elif has_password(user.password_field):
                check_form(user.password_field)
        except (SchemeUnavailable, UnknownScheme) as error:
            return str(error)
        except ValueError:
            # The message of the error may quote the secret.
            return "malformed password field"
        return ""


def _conditions_of(user: User) -> Sequence[str]:
    """Return under which conditions a user can log in, and to which maildrop."""
    rules = user.rules
    conditions = [
        f"only from {', '.join(map(str, networks))} ({field})" for field, networks in rules.networks
    ]
    if rules.not_before > time.time():
        conditions.append(f"not before {utc_time(rules.not_before)} (delay_until)")
    if rules.requires_tls:
        conditions.append(f"only with TLS ({PREFIX}require_tls)")
    if rules.maildrop:
        conditions.append(f"maildrop {printable(rules.maildrop)} (user)")
    settings = rules.settings
    if settings.read_only:
        conditions.append(f"read-only ({PREFIX}read_only)")
    if settings.maildrop:
        conditions.append(f"maildrop {printable(settings.maildrop)} ({PREFIX}maildrop)")
    if settings.deleted is not None:
        shown = printable(settings.deleted.encode())
        conditions.append(f"deleted messages: {shown} ({PREFIX}deleted)")
    if settings.since is not None:
        hours = settings.since / 3600
        conditions.append(f"messages of the last {hours:g} hours ({PREFIX}since)")
    return conditions
