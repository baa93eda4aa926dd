"""Parsers of option values.

Each function returns the value of an option, or raises ``usage.UsageError`` with a message that
names the option, the problem and the remedy.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from ipaddress import IPv4Network, IPv6Network, ip_network

from twisted.internet.endpoints import serverFromString
from twisted.python import usage

from popserv.auth.names import check_name
from popserv.auth.sasl.mechanisms import MECHANISMS, Mechanism
from popserv.commands.dialects import DIALECTS, Dialect
from popserv.core import user_settings
from popserv.core.languages import Languages
from popserv.listening.systemd import accept_unnamed_sockets, passed_sockets
from popserv.messages.workarounds import WORKAROUNDS
from popserv.options.table import (
    FOLDER_DELIMITERS,
    OPTIONAL_COMMANDS,
    TLS_PROFILES,
)
from popserv.runtime.extras import how_to_install
from popserv.runtime.permissions import describe

TLS_EXTRA = f"TLS requires the extra tls; run: {how_to_install('tls')}"


def parse_number(
    option: str,
    text: str,
    unit: str,
    *,
    minimum: int = 0,
    maximum: int = 999_999,
    alternative: str = "",
) -> int:
    """Return a whole number from ``minimum`` to ``maximum``, all of whose digits must be 9.

    ``unit`` and ``alternative`` are parts of the error message.
    """
    if re.fullmatch(rf"[0-9]{{1,{len(str(maximum))}}}", text) and int(text) >= minimum:
        return int(text)
    raise usage.UsageError(
        f"--{option} must be a whole number of {unit} from {minimum} to {maximum}{alternative}, "
        f"not {text!r}"
    )


def parse_positive(option: str, text: str, convert: Callable[[str], float], expected: str) -> float:
    """Return a finite number above 0; ``expected`` describes it in the error message."""
    try:
        value = convert(text)
        if 0 < value < math.inf:
            return value
    except ValueError:
        pass
    raise usage.UsageError(f"--{option} must be {expected}, not {text!r}")


def parse_age(option: str, text: str) -> float:
    """Return the seconds of a number of hours, days or weeks above 0, such as 30d."""
    try:
        return user_settings.parse_age(text)
    except ValueError as error:
        raise usage.UsageError(f"--{option} {error}") from None


def parse_network(option: str, text: str) -> IPv4Network | IPv6Network:
    """Return an address or a network such as 192.0.2.0/24."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise usage.UsageError(f"--{option}: {error}") from error


def split_proxy_prefix(endpoint: str) -> tuple[bool, str]:
    """Return whether an endpoint begins with ``haproxy:``, and the endpoint without it.

    Twisted's own wrapper of that name would believe a header from any client.
    """
    prefix, _, rest = endpoint.partition(":")
    return (True, rest) if prefix.lower() == "haproxy" else (False, endpoint)


def parse_dialect(name: str) -> Dialect:
    """Return the dialect of ``--dialect``."""
    return DIALECTS[one_of(DIALECTS, "dialect", name)]


def parse_mechanisms(
    names: str, *, is_relayed: bool = False
) -> tuple[tuple[Mechanism, ...], Sequence[bytes]]:
    """Return the mechanisms of ``--sasl`` that popserv has, and the names of all.

    Each occurs once, in the order of the option.  If ``is_relayed`` is true, a checker passes
    mechanisms on to another server, which may have some that popserv does not have.
    """
    by_name = {each.name.decode("ascii"): each for each in MECHANISMS}
    requested = dict.fromkeys(name.strip() for name in names.upper().split(","))
    for name in requested:
        if not (is_relayed and re.fullmatch("[A-Z0-9_-]{1,20}", name)):
            one_of(by_name, "sasl", name)
    return (
        tuple(by_name[name] for name in requested if name in by_name),
        [name.encode("ascii") for name in requested],
    )


def parse_commands(names: str) -> list[bytes]:
    """Return the keywords of the commands of ``--without``, which must be optional."""
    return [
        one_of(OPTIONAL_COMMANDS, "without", name).encode("ascii")
        for name in names.upper().split(",")
    ]


def parse_workarounds(names: str) -> list[str]:
    """Return the workarounds of ``--workarounds``."""
    return [one_of(WORKAROUNDS, "workarounds", name) for name in names.split(",") if name]


def parse_hostname(name: str) -> bytes:
    """Return the host name of ``--hostname``."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", name):
        raise usage.UsageError(
            f"--hostname must be a host name such as pop.example.org, not {name!r}"
        )
    return name.encode("ascii")


def parse_tls_profile(name: str) -> str:
    """Return the name of the profile of ``--tls-profile``."""
    return one_of(TLS_PROFILES, "tls-profile", name)


def parse_domain(domain: str) -> bytes:
    """Return the domain of ``--default-domain``, or nothing."""
    octets = os.fsencode(domain)
    try:
        if b"@" in octets:
            raise ValueError
        check_name(b"user@" + octets)
    except ValueError as error:
        raise usage.UsageError(
            f"--default-domain must be a domain such as example.org, not {domain!r}"
        ) from error
    return octets


def parse_folder_delimiter(delimiter: str) -> bytes:
    """Return the character of ``--folder-delimiter``, or nothing."""
    if delimiter and delimiter not in tuple(FOLDER_DELIMITERS):
        raise usage.UsageError(
            f"--folder-delimiter must be one of {' '.join(FOLDER_DELIMITERS)}, not {delimiter!r}"
        )
    return delimiter.encode("ascii")


def parse_language(tag: str) -> Languages:
    """Return all languages, with that of ``--language`` as the one that ``LANG *`` selects."""
    try:
        return Languages(preferred=tag)
    except ValueError as error:
        tags = ", ".join(each for each, _ in Languages().listing())
        raise usage.UsageError(f"--language {tag}: must be one of {tags}") from error


def parse_endpoint(option: str, endpoint: str) -> str:
    """Return the description of a server endpoint if it is valid.

    :raises UsageError: it is invalid, or requires a package that is not installed.
    """
    from twisted.internet import reactor

    is_proxied, inner = split_proxy_prefix(endpoint)
    if is_proxied and split_proxy_prefix(inner)[0]:
        raise usage.UsageError(f"--{option} {endpoint}: write haproxy: once")
    if is_proxied and inner.startswith(("ssl:", "tls:")):
        raise usage.UsageError(
            f"--{option} {endpoint}: a proxy sends its header before TLS starts; "
            "use --listen-tls haproxy:tcp:995 with --certificate"
        )
    is_systemd = inner.startswith("systemd:")
    if is_systemd:
        accept_unnamed_sockets()
    try:
        serverFromString(reactor, inner)
        if inner.startswith(("ssl:", "tls:")):
            # Connections require it; later, the process may not be able to read Python's files.
            import_module("popserv.tls.state")
    except (ImportError, NameError) as error:
        raise usage.UsageError(f"--{option} {endpoint}: {error}; {TLS_EXTRA}") from error
    except OSError as error:
        raise usage.UsageError(f"--{option} {endpoint}: {describe(error)}") from error
    except Exception as error:
        if is_systemd and isinstance(error, LookupError):
            raise usage.UsageError(f"--{option} {endpoint}: {passed_sockets()}") from error
        raise usage.UsageError(
            f"--{option} {endpoint} is not a server endpoint ({error}); use one such as "
            "tcp:110, tcp:1110:interface=127.0.0.1 or unix:/run/pop3.sock"
        ) from error
    return endpoint


def one_of(names: Iterable[str], option: str, name: str) -> str:
    """Return the name if it is one of ``names``.

    :raises UsageError: it is not.
    """
    if name not in names:
        raise usage.UsageError(
            f"--{option} {name or repr(name)}: must be one of {', '.join(names)}"
        )
    return name
