"""What is wrong with a users file, or with the users in a database, for ``popserv doctor``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from popserv.auth.passwords.schemes import (
    CLEARTEXT_SCHEMES,
    SchemeUnavailable,
    UnknownScheme,
    has_password,
    is_apop,
    scheme_of,
    split_field,
)
from popserv.auth.passwords.secret_forms import check_form, weakness_of
from popserv.auth.passwords.users_file import Users, UsersFile, UsersFileError, problems_of
from popserv.auth.passwords.users_file_editing import abandoned_copy
from popserv.auth.users.user import User
from popserv.core.findings import Finding, error, hint, some_names, warning
from popserv.core.printable import printable
from popserv.runtime.permissions import reason_of, this_user

MIN_PASSWORD = 8
"""Octets below which a password is weak."""

_ON_PURPOSE = tuple(
    f" {field} is set" for field in ("nologin", "popserv_nologin", "noauthenticate", "fail")
)

_EDIT = "correct the line, or use popserv user set"


def diagnose_users_file(file: UsersFile) -> list[Finding]:
    """Return what is wrong with a users file that was read before; it waits for the disk."""
    try:
        # Whoever has read it may have been root.
        with open(file.path, "rb"):
            users = file.read()
    except FileNotFoundError:
        return list(_copies(file.path))
    except UsersFileError as problem:
        return [error("users-file", file.path, str(problem), "correct it")]
    except OSError as problem:
        remedy = f"let {this_user()} read it"
        return [error("users-file", file.path, reason_of(problem), remedy)]
    lines = [_line(f"{file.path}, line {each.line}", each.text) for each in users.problems]
    return [
        *lines,
        *_secrets(file.path, users),
        *_login_methods(file.path, users),
        *_copies(file.path),
    ]


def _copies(path: str) -> Iterator[Finding]:
    copy = abandoned_copy(path)
    if copy is not None:
        yield hint(
            "users-file-copy",
            copy,
            f"a command that changed {path} was killed, and has left this copy with all secrets",
            "remove it; the next change of a user does so as well",
        )


def diagnose_users(path: str, users: Users) -> list[Finding]:
    """Return what is wrong with users who are in no file, but in the database of one."""
    lines = [
        _line(f"{path}, {printable(user.name)}", f"{printable(user.name)} {text}")
        for user in users.by_name.values()
        for text in problems_of(user)
    ]
    return [*lines, *_secrets(path, users), *_login_methods(path, users)]


def _line(where: str, problem: str) -> Finding:
    make = warning
    if problem.endswith(_ON_PURPOSE):
        make = hint
    elif " cannot log in" in problem:
        make = error
    return make("users-line", where, problem, _EDIT)


def _secrets(path: str, users: Users) -> Iterator[Finding]:
    weak: dict[str, list[User]] = defaultdict(list)
    cleartext = []
    for name, field in users.password_fields.items():
        user = users.by_name[name]
        where = f"{path}, {printable(name)}"
        try:
            check_form(field)
        except UnknownScheme as problem:
            # An unknown name of a scheme is a problem of the line.
            if has_password(user.password_field):
                yield error("user-secret", where, str(problem), "run: popserv user passwd")
            continue
        except SchemeUnavailable as problem:
            what, _, remedy = str(problem).partition("; ")
            yield error("user-secret", where, what, remedy or "install the library")
            continue
        except ValueError:
            # The message of the error may quote the secret.
            what = "the secret is malformed, so that no password matches"
            yield error("user-secret", where, what, "run: popserv user passwd")
            continue
        weakness = weakness_of(field) if has_password(user.password_field) else ""
        if scheme_of(field) in CLEARTEXT_SCHEMES or is_apop(field):
            cleartext.append(user)
        elif weakness:
            weak[weakness].append(user)
    for scheme, found in weak.items():
        yield warning(
            "weak-scheme",
            path,
            f"{_count(found, 'secret')} of the scheme {scheme}, from which whoever gets the file "
            f"finds the passwords: {_names(found)}",
            "run: popserv user passwd",
        )
    guessed = [user for user in cleartext if _is_weak(user)]
    if guessed:
        yield warning(
            "weak-password",
            path,
            f"{_count(guessed, 'password')} of less than {MIN_PASSWORD} octets, or like the name: "
            f"{_names(guessed)}",
            "run: popserv user passwd",
        )
    passwords = [user for user in cleartext if not is_apop(user.password_field)]
    if passwords:
        yield hint(
            "cleartext-secret",
            path,
            f"{_count(passwords, 'password')} in cleartext: {_names(passwords)}",
            "run: popserv user passwd, unless clients need CRAM-MD5",
        )


def _login_methods(path: str, users: Users) -> Iterator[Finding]:
    apop = [user for user in users.by_name.values() if is_apop(user.password_field)]
    if not users.has_apop:
        return
    yield hint(
        "apop-users",
        path,
        f"{_count(apop, 'user')} with APOP secrets, with which Outlook, Apple Mail and Gmail "
        f"cannot log in: {_names(apop)}",
        "run popserv user passwd for users of such clients",
    )
    if users.has_passwords:
        yield warning(
            "apop-and-passwords",
            path,
            "because some users have APOP secrets, the greeting has a timestamp, and clients such "
            "as MailKit, Mail::Box and Twisted's then use APOP for users with passwords, too, and "
            "fail",
            "use either APOP secrets or passwords for all users, or --without APOP",
        )


def _is_weak(user: User) -> bool:
    secret = split_field(user.password_field)[1].lower()
    name = user.name.lower()
    return len(secret) < MIN_PASSWORD or secret in (name, name.partition(b"@")[0])


def _count(users: list[User], what: str) -> str:
    return f"{len(users)} {what}{'' if len(users) == 1 else 's'}"


def _names(users: Iterable[User]) -> str:
    names = [printable(user.name) for user in users]
    return some_names(iter(names), len(names))
