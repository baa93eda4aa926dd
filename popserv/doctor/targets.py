"""The servers that a doctor connects to, and what is found out about them without a login."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from popserv.core.printable import printable
from popserv.doctor.conversation import (
    MAX_CAPABILITIES,
    REPLY_TIMEOUT,
    Address,
    Conversation,
    Refused,
    ServerFailed,
)

PROXY_HEADER = b"PROXY UNKNOWN\r\n"
"""The header of the PROXY protocol, version 1, without an address."""

PROBE_TIMEOUT = 6.0
"""Seconds to wait for a greeting: more than popserv waits for a header of the PROXY protocol."""


def trusting_context() -> ssl.SSLContext:
    """Return a context for TLS that verifies nothing, for connections to this machine."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Target(NamedTuple):
    """A server: its ``address``, and how it is ``shown``.

    If ``starts_tls``, TLS starts with the first octet; before it, ``header`` is sent.  ``context``
    verifies the server, whose name is ``name``.
    """

    address: Address
    shown: str
    name: str
    context: ssl.SSLContext
    starts_tls: bool = False
    header: bytes = b""

    def connect(self, reply_timeout: float = REPLY_TIMEOUT) -> Conversation:
        """Return a conversation after the greeting.

        :raises ServerFailed: there is no greeting.
        """
        conversation = Conversation(self.address, header=self.header, reply_timeout=reply_timeout)
        try:
            if self.starts_tls:
                conversation.start_tls(self.context, self.name)
            conversation.greeting = conversation.status("the greeting")
        except BaseException:
            conversation.abandon()
            raise
        return conversation


class Answer(NamedTuple):
    """What a server says before a login: its greeting, and its capabilities in upper case."""

    greeting: bytes
    capabilities: tuple[bytes, ...]

    @property
    def is_popserv(self) -> bool:
        """Whether it is popserv, which may hide its name."""
        names = [each for each in self.capabilities if each.startswith(b"IMPLEMENTATION ")]
        if names:
            return names[0].startswith(b"IMPLEMENTATION POPSERV")
        return self.greeting.startswith(b"POP3 server ready")

    def parameter_of(self, name: bytes) -> bytes | None:
        """Return the first parameter of a capability, empty if it has none; None without it."""
        for words in map(bytes.split, self.capabilities):
            if words[:1] == [name]:
                return words[1] if len(words) > 1 else b""
        return None

    def __str__(self) -> str:
        return f'"{printable(self.greeting, 60)}"'


def ask(target: Target, reply_timeout: float = PROBE_TIMEOUT) -> Answer:
    """Return what a server says before a login.

    :raises ServerFailed: it is no POP3 server, or does not answer.
    """
    conversation = target.connect(reply_timeout)
    try:
        try:
            conversation.ask(b"CAPA")
            lines = conversation.lines("CAPA", MAX_CAPABILITIES)
            capabilities = tuple(line.upper() for line in lines)
        except Refused:
            capabilities = ()
        return Answer(conversation.greeting, capabilities)
    finally:
        conversation.abandon()


def explain_silence(
    target: Target, problem: ServerFailed, reply_timeout: float = PROBE_TIMEOUT
) -> tuple[str, str]:
    """Return why a server does not greet, and the remedy, after attempts in other ways."""
    others: list[tuple[Target, str, str]] = []
    if target.starts_tls:
        others = [
            (
                target._replace(starts_tls=False),
                "TLS does not start with the first octet on this port",
                "use pop3:// in --address",
            )
        ]
    elif not target.header:
        others = [
            (
                target._replace(header=PROXY_HEADER),
                "the server waits for a header of the PROXY protocol",
                "connect to the proxy; or remove haproxy: from the endpoint",
            ),
            (
                target._replace(starts_tls=True, context=trusting_context()),
                "TLS starts with the first octet on this port",
                "use pop3s:// in --address",
            ),
        ]

    def answers(other: tuple[Target, str, str]) -> bool:
        try:
            ask(other[0], reply_timeout)
        except ServerFailed:
            return False
        return True

    # At the same time, because each of them may be waited for.
    with ThreadPoolExecutor() as threads:
        for (_, what, remedy), is_answer in zip(others, threads.map(answers, others), strict=True):
            if is_answer:
                return what, remedy
    return str(problem), "start the server, or correct the address"
