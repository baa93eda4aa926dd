"""The dialects that a server can speak: the commands of each specification, from 1985 on.

===============  =================================================================
``modern``       RFC 1725, and the extensions after it
``rfc1725``      Post Office Protocol - Version 3, 1994
``rfc1460``      Post Office Protocol - Version 3, 1993: has LAST, and no UIDL
``rfc1225``      Post Office Protocol - Version 3, 1991: has RPOP, and no APOP
``pop-revised``  Post Office Protocol (revised), the draft of 1985, on port 109
===============  =================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from popserv.commands import capa, rfc1225, rfc1460, rfc1725, sasl, stls, utf8
from popserv.core.command import Command


class Dialect(NamedTuple):
    """The commands of one specification, its port, and its greeting.

    ``greeting`` returns the text of the greeting for the server's host name.
    """

    name: str
    commands: tuple[Command, ...]
    port: int = 110
    greeting: Callable[[bytes], bytes] = lambda host: b"POP3 server ready"

    def has(self, keyword: bytes) -> bool:
        """Return whether the dialect has a command with this keyword."""
        return any(command.keyword == keyword for command in self.commands)


MODERN = Dialect(
    "modern",
    (
        *rfc1725.COMMANDS,
        *(*capa.COMMANDS, *stls.COMMANDS, *sasl.COMMANDS, *utf8.COMMANDS),
    ),
)

RFC1725 = Dialect("rfc1725", rfc1725.COMMANDS)

RFC1460 = Dialect(
    "rfc1460",
    (
        *(rfc1725.user, rfc1725.pass_, rfc1725.quit_, rfc1725.stat, rfc1725.list_),
        *(rfc1460.retr, rfc1460.dele, rfc1725.noop, rfc1460.last, rfc1460.rset),
        *(rfc1725.apop, rfc1725.top),
    ),
)

RFC1225 = Dialect(
    "rfc1225",
    (
        *(rfc1225.user, rfc1725.pass_, rfc1225.quit_, rfc1725.stat, rfc1725.list_),
        *(rfc1460.retr, rfc1460.dele, rfc1725.noop, rfc1460.last, rfc1225.rset),
        *(rfc1225.rpop, rfc1725.top),
    ),
    greeting=partial(rfc1225.greeting, "POP3"),
)

POP_REVISED = Dialect(
    "pop-revised",
    (
        *(rfc1225.user, rfc1725.pass_, rfc1225.quit_command("POP"), rfc1725.stat, rfc1725.list_),
        *(rfc1725.retr, rfc1725.dele, rfc1725.noop, rfc1725.rset),
        *(rfc1225.rpop, rfc1725.top),
    ),
    port=109,
    greeting=partial(rfc1225.greeting, "POP"),
)

DIALECTS = {each.name: each for each in (MODERN, RFC1725, RFC1460, RFC1225, POP_REVISED)}
"""All dialects, by name."""
