"""The extra fields of a user, as in Dovecot's passwd-file, and what each of them means here.

In a users file they are the eighth column and what follows it: words separated by white space,
each ``name=value`` or ``name``.  There is no quoting, and a value may contain colons.  What a field
restricts must not be ignored, so a user with a field that popserv does not know cannot log in.
Dovecot ignores the fields of popserv, whose names start with ``popserv_``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from popserv.auth.names import check_name
from popserv.core.connection_details import ConnectionDetails
from popserv.core.printable import printable
from popserv.core.user_settings import (
    NO_SETTINGS,
    UserSettings,
    check_deleted,
    parse_age,
    parse_sessions,
)

Network = IPv4Network | IPv6Network

EVALUATED = (
    *("allow_nets", "allow_real_nets", "delay_until", "user"),
    *("popserv_nologin", "popserv_require_tls"),
    *("popserv_read_only", "popserv_maildrop", "popserv_deleted", "popserv_since"),
    "popserv_max_user_sessions",
)
"""The fields whose value decides about a login, or about what it opens."""

REFUSING = {
    "nologin": "",
    "noauthenticate": "",
    "fail": "",
    "nopassword": ", with which Dovecot accepts every password; remove it and set a password",
    "proxy": ", the mail is on another server",
    "proxy_maybe": ", the mail is on another server",
    "host": ", the mail is on another server",
    "login_user": ", which names another user; for another maildrop, use user=NAME",
    "username": ", which changes the name; use user=NAME",
    "domain": ", which changes the name; use user=NAME",
    "password": "; the secret must be in the second field of the line",
    "password_noscheme": "; the secret must be in the second field of the line",
}
"""The fields with which nobody can log in, whatever their value, and the reasons for the log."""

HARMLESS = frozenset(
    # The text of a refusal, and how long a refusal takes.
    "reason code nodelay"
    # The connection to another server: without proxy these have no effect.
    " hostip port protocol ssl starttls pass master destuser source_ip"
    " proxy_mech proxy_timeout proxy_nopipelining proxy_not_trusted proxy_noauth proxy_always"
    # Kerberos, which popserv does not offer.
    " k5principals".split()
)
"""The fields that do not restrict logins, and are ignored."""

HARMLESS_PREFIXES = ("userdb_", "event_", "forward_")
"""The fields that start like this are harmless, too: for delivery, for events, for a proxy."""


def is_field(name: str) -> bool:
    """Return whether a name is that of an extra field."""
    return name in EVALUATED or name in REFUSING or _is_harmless(name)


def _is_harmless(name: str) -> bool:
    return name in HARMLESS or name.startswith(HARMLESS_PREFIXES)


class Rules(NamedTuple):
    """The rules by which a user may log in, and what the login opens.

    ``refusal`` is the reason why nobody can, or empty.  The client's address must be in each of
    ``networks``, which are pairs of a field's name and its networks; ``local`` is a client without
    an address.  Nobody can log in before ``not_before``, in seconds since the epoch, and with
    ``requires_tls`` nobody without TLS.  ``maildrop`` is the user whose maildrop is opened, or
    empty for the user's own, and ``settings`` are those of the session.  ``warnings`` are
    mistakes in fields that do not refuse the user.
    """

    refusal: str = ""
    networks: tuple[tuple[str, tuple[Network | str, ...]], ...] = ()
    not_before: int = 0
    requires_tls: bool = False
    maildrop: bytes = b""
    settings: UserSettings = NO_SETTINGS
    warnings: tuple[str, ...] = ()

    def refusal_of(self, details: Callable[[], ConnectionDetails], now: float) -> str:
        """Return the reason for the log why a client is refused, or an empty string.

        ``details`` returns those of its connection; ``now`` is seconds since the epoch.
        """
        if self.refusal:
            return self.refusal
        for field, networks in self.networks:
            if not _is_in(details().address, networks):
                return f"{field} does not have the client's address"
        if self.requires_tls and not details().uses_tls:
            return "popserv_require_tls is set, and the client does not use TLS"
        if now < self.not_before:
            return f"delay_until is {utc_time(self.not_before)}"
        return ""

    def take_time(self, details: Callable[[], ConnectionDetails]) -> None:
        """Take the time that rules of the kinds take of which there is none.

        Each kind is thus evaluated once, whoever logs in, and the processor has the code of each.
        """
        if not self.networks:
            _SOME_NETWORKS.refusal_of(details, 0)
        if not self.requires_tls:
            _SOME_TLS.refusal_of(details, 0)
        if not self.not_before:
            _SOME_TIME.refusal_of(details, 0)


NO_RULES = Rules()

_SOME_NETWORKS = Rules(networks=(("allow_nets", (ip_network("198.51.100.0/24"),)),))
_SOME_TLS = Rules(requires_tls=True)
_SOME_TIME = Rules(not_before=1)


# Otherwise each refusal before delay_until would take longer than others.
@lru_cache(64)
def utc_time(seconds: int) -> str:
    """Return a time, in seconds since the epoch, as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def split_columns(columns: bytes) -> tuple[list[bytes], bytes]:
    """Split the columns after the secret, from the third one on, into the extra fields and others.

    In an older format the eighth column is empty, and the ninth is the location of the mail; it is
    then the last of the others.
    """
    *others, extra = columns.split(b":", 5) if columns.count(b":") >= 5 else (columns, b"")
    return ([*others, extra], b"") if extra.startswith(b":") else (others, extra)


def parse_rules(columns: bytes) -> Rules:
    """Return the rules in the columns after the secret, from the third one on."""
    others, extra = split_columns(columns)
    misplaced = _MISPLACED.search(b":".join(others))
    if misplaced is not None:
        name = misplaced[1].decode()
        return Rules(f"{name} must be in the eighth field of the line, after seven colons")
    rules = NO_RULES
    # Dovecot splits at spaces alone, and regards a tab and what follows it as part of the value.
    for word in extra.split():
        rules = add_field(rules, name_of(word), word.partition(b"=")[2])
    return rules


def name_of(word: bytes) -> str:
    """Return the name of the field in a word ``name=value`` or ``name``."""
    return word.partition(b"=")[0].removesuffix(b":protected").decode("latin-1")


def add_field(rules: Rules, name: str, value: bytes) -> Rules:
    """Return the rules with those of one more field; the first reason to refuse stays."""
    if _is_harmless(name) or rules.refusal:
        return rules
    if name in REFUSING:
        return rules._replace(refusal=f"{name} is set{REFUSING[name]}")
    if name not in EVALUATED:
        # A word that is not like a name may be part of a secret.
        is_name = _NAME.fullmatch(name) or name.lower() in (*EVALUATED, *REFUSING)
        shown = f"field {name}" if is_name else "field"
        return rules._replace(refusal=f"unknown extra {shown}; remove it, or correct its name")
    if b"%" in value:
        return rules._replace(refusal=f"{name} has a variable of Dovecot; write the value itself")
    try:
        if name == "delay_until":
            return rules._replace(not_before=max(rules.not_before, _parse_time(value)))
        if name == "user":
            check_name(value)
            return rules._replace(maildrop=value)
        if name.startswith(PREFIX):
            return _add_own_field(rules, name.removeprefix(PREFIX), value)
    except ValueError as error:
        return rules._replace(refusal=f"{name}: {error}")
    networks, warnings = _parse_networks(name, value)
    if not networks:
        reason = warnings[0] if warnings else f"{name} has no network, no client is in it"
        return rules._replace(refusal=reason)
    return rules._replace(
        networks=(*rules.networks, (name, networks)), warnings=(*rules.warnings, *warnings)
    )


PREFIX = "popserv_"
"""How the names of popserv's own fields start."""

_BOOLEANS = {b"": True, b"yes": True, b"no": False}


def _add_own_field(rules: Rules, name: str, value: bytes) -> Rules:
    """Return the rules with those of a field of popserv, whose name is without the prefix.

    :raises ValueError: the value is invalid.
    """
    if name in ("nologin", "require_tls", "read_only"):
        if value not in _BOOLEANS:
            raise ValueError("must be yes or no")
        is_set = _BOOLEANS[value]
        if name == "require_tls":
            return rules._replace(requires_tls=is_set)
        if name == "nologin":
            return rules._replace(refusal=f"{PREFIX}nologin is set") if is_set else rules
        settings = replace(rules.settings, read_only=is_set)
    elif name == "maildrop":
        _check_path(value)
        settings = replace(rules.settings, maildrop=value)
    else:
        settings = _with_text(rules.settings, name, value.decode("utf-8", "backslashreplace"))
    return rules._replace(settings=settings)


def _with_text(settings: UserSettings, name: str, text: str) -> UserSettings:
    if name == "deleted":
        check_deleted(text)
        return replace(settings, deleted=text)
    if name == "since":
        return replace(settings, since=parse_age(text))
    return replace(settings, max_user_sessions=parse_sessions(text))


def _check_path(path: bytes) -> None:
    if not re.fullmatch(rb"(?:/(?!\.\.?(?:/|$))[^/\0]+)+", path):
        raise ValueError("must be an absolute path without //, /./ and /../, or / at its end")


_NAME = re.compile("[a-z0-9_:]{1,40}")

_MISPLACED = re.compile(
    rb"(?:^|[\s:])(nologin|noauthenticate|fail|delay_until|allow_nets|allow_real_nets|popserv_\w+)"
    rb"(?=[=\s:]|$)"
)
"""A field in another column, where Dovecot ignores it: nobody writes it there on purpose."""


_TIME = re.compile(rb"([0-9]{1,11})(?:\+([0-9]{1,9}))?")


def _parse_time(value: bytes) -> int:
    """Return the time of ``delay_until``, with all of the seconds that Dovecot adds at random."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise ValueError("it must be a time in seconds since the epoch")
    return int(match[1]) + int(match[2] or 0)


_NETWORK = re.compile("[0-9a-fA-F.:]+(/[0-9]{1,3})?")


def _parse_networks(name: str, value: bytes) -> tuple[tuple[Network | str, ...], list[str]]:
    """Return the networks of a list that is separated by commas, and warnings of invalid ones."""
    networks: list[Network | str] = []
    warnings = []
    for item in filter(None, value.decode("latin-1").split(",")):
        try:
            if item != "local" and not _NETWORK.fullmatch(item):
                raise ValueError
            networks.append(item if item == "local" else ip_network(item, strict=False))
        except ValueError:
            shown = printable(item.encode("latin-1"))
            warnings.append(f"{name}: {shown} is not a network, no client is in it")
    return tuple(networks), warnings


def _is_in(address: str | None, networks: tuple[Network | str, ...]) -> bool:
    if address is None:
        return "local" in networks
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(parsed in network for network in networks if not isinstance(network, str))
