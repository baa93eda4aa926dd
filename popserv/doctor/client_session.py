"""A session as a mail program has it: commands, and what the program does with the replies.

The module has more than 300 lines, because what is right in a reply depends on those before it.
"""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from popserv.core.printable import printable
from popserv.doctor.conversation import (
    MAX_CAPABILITIES,
    MAX_OCTETS,
    Conversation,
    Refused,
    ServerFailed,
)


class Trip(Exception):
    """A program cannot go on; ``what`` says why, and ``remedy`` what to do about it."""

    def __init__(self, code: str, what: str, remedy: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.remedy = remedy


class LoginRefused(Exception):
    """The server has refused the password; the text is its reply, ``code`` the response code."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(str(refused))
        self.code = refused.code


class TLS(NamedTuple):
    """How a session gets TLS: with STLS if the server offers it, unless it has it from the start.

    ``context`` verifies the server, whose name is ``name``.  Without TLS a password is sent only if
    ``allows_cleartext``; and not by a program that does not use STLS, if the server offers it.
    """

    context: ssl.SSLContext
    name: str
    allows_cleartext: bool
    is_offered: bool


# Python converts no number of any length.
_NUMBER = rb"([0-9]{1,18})"

_LIST_REMEDY = "correct the server; RFC 1725 section 5 has the form of a scan listing"
_UIDL_REMEDY = "correct the server; RFC 1725 section 7 has the form of a unique-id listing"


class ClientSession:
    """The session of a mail program, after the greeting.

    ``capabilities`` are the capabilities and ``mechanisms`` those of SASL, in upper case, as the
    last CAPA has listed them.  Only the first and the last message are retrieved.

    Methods raise :exc:`Trip`, :exc:`LoginRefused`, and :exc:`ServerFailed`.
    """

    def __init__(self, conversation: Conversation, tls: TLS, user: bytes, password: bytes) -> None:
        self._conversation = conversation
        self._tls = tls
        self._user = user
        self._password = password
        self.capabilities: set[str] = set()
        self.mechanisms: set[str] = set()
        self._count = self._octets = 0
        self._sizes: dict[int, int] = {}

    def secure(self) -> None:
        """Start TLS by STLS if the server offers it, and TLS has not started."""
        self.capa()
        if self._conversation.uses_tls or "STLS" not in self.capabilities:
            return
        self._must(b"STLS", "client-stls", "announce STLS only if it works")
        self._conversation.start_tls(self._tls.context, self._tls.name)

    def capa(self) -> None:
        """Read the capabilities; a server without CAPA has none."""
        self.capabilities, self.mechanisms = set(), set()
        for line in self.try_listing(b"CAPA"):
            name, *rest = line.upper().split()
            self.capabilities.add(name.decode("ascii", "replace"))
            if name == b"SASL":
                self.mechanisms.update(each.decode("ascii", "replace") for each in rest)

    def try_listing(self, line: bytes) -> list[bytes]:
        """Send a command with a multi-line response, which the server need not have."""
        try:
            self._conversation.ask(line)
        except Refused:
            return []
        lines = self._conversation.lines(_keyword(line), MAX_CAPABILITIES)
        return [each for each in lines if each.strip()]

    def try_command(self, line: bytes) -> None:
        """Send a command that the server need not have."""
        with suppress(Refused):
            self._conversation.ask(line)

    def user_pass(self) -> None:
        """Log in by USER and PASS."""
        self._login(lambda: (self._ask(b"USER " + self._user), self._ask_secret(b"PASS ")))

    def auth_plain(self, *, initial: bool) -> None:
        """Log in by AUTH PLAIN, with the response on the same line or on one of its own."""
        response = b64encode(b"\0%b\0%b" % (self._user, self._password))
        if initial:
            self._login(lambda: self._conversation.ask(b"AUTH PLAIN " + response, "AUTH PLAIN"))
        else:
            self._login(
                lambda: (self._ask(b"AUTH PLAIN"), self._conversation.ask(response, "AUTH PLAIN"))
            )

    def auth_login(self) -> None:
        """Log in by AUTH LOGIN."""
        parts = (b64encode(self._user), b64encode(self._password))
        self._login(
            lambda: [
                self._ask(b"AUTH LOGIN"),
                *(self._conversation.ask(each, "AUTH LOGIN") for each in parts),
            ]
        )

    def _ask(self, line: bytes) -> bytes:
        return self._conversation.ask(line)

    def _ask_secret(self, start: bytes) -> bytes:
        return self._conversation.ask(start + self._password)

    def _login(self, steps: Callable[[], object]) -> None:
        if not self._conversation.uses_tls and (
            self._tls.is_offered or not self._tls.allows_cleartext
        ):
            raise Trip(
                "client-tls",
                "it does not use STLS, and would send the password in cleartext"
                if self._tls.is_offered
                else "without TLS the password would be sent in cleartext",
                "let it use a port on which TLS starts at once: --listen-tls, usually 995"
                if self._tls.is_offered
                else "let the server offer TLS, or use --insecure in a network that you trust",
            )
        try:
            steps()
        except Refused as refused:
            raise LoginRefused(refused) from refused

    def stat(self) -> None:
        """Read the number of messages, and their octets."""
        text = self._must(b"STAT", "client-stat", "correct the server; every server has STAT")
        found = re.match(rb"%b %b(?![0-9])" % (_NUMBER, _NUMBER), text)
        if found is None:
            what = f'STAT has the reply "{printable(text)}" instead of two numbers'
            raise Trip("client-stat", what, "correct the server; see RFC 1725 section 5")
        self._count, self._octets = int(found[1]), int(found[2])

    def scan_listing(
        self, *, separator: bytes = b" +", in_order: bool = False, complete: bool = False
    ) -> None:
        """Read the sizes of messages (LIST)."""
        self._must(b"LIST", "client-list", "correct the server; every server has LIST")
        form = re.compile(rb"%b%b%b(?: .*)?" % (_NUMBER, separator, _NUMBER))
        self._sizes = {
            number: int(size)
            for number, size in self._numbered("LIST", form, "client-list", _LIST_REMEDY)
        }
        self._check_numbers("LIST", "client-list", list(self._sizes), in_order, complete)
        self._count = len(self._sizes)

    def unique_ids(
        self, *, separator: bytes = b" +", in_order: bool = False, complete: bool = False
    ) -> None:
        """Read the unique-ids (UIDL)."""
        self._must(
            b"UIDL",
            "client-uidl",
            'have UIDL, without which "leave messages on the server" does not work; popserv has it '
            "unless --without or --dialect removes it",
        )
        form = re.compile(rb"%b%b([\x21-\x7e]+)" % (_NUMBER, separator))
        listed = list(self._numbered("UIDL", form, "client-uidl", _UIDL_REMEDY))
        numbers = [number for number, _ in listed]
        self._check_numbers("UIDL", "client-uidl", numbers, in_order, complete)
        if len({unique_id for _, unique_id in listed}) != len(listed):
            what = "two messages have the same unique-id, so that one of them is not fetched"
            raise Trip("client-uidl", what, "let the server give each message another unique-id")

    def _numbered(
        self, keyword: str, form: re.Pattern[bytes], code: str, remedy: str
    ) -> list[tuple[int, bytes]]:
        numbered = []
        for line in self._conversation.lines(keyword):
            found = form.fullmatch(line.rstrip(b" "))
            if found is None:
                what = f'{keyword} has the line "{printable(line, 80)}"'
                raise Trip(code, what, remedy)
            numbered.append((int(found[1]), found[2]))
        return numbered

    def _check_numbers(
        self, keyword: str, code: str, numbers: list[int], in_order: bool, complete: bool
    ) -> None:
        if in_order and numbers != sorted(numbers):
            what = f"{keyword} does not list the messages in the order of their numbers"
            raise Trip(code, what, "let the server list them in order")
        # The server may have any number in STAT.
        is_complete = len(numbers) == self._count and sorted(numbers) == [
            *range(1, len(numbers) + 1)
        ]
        if complete and not is_complete:
            what = f"STAT has {self._count} messages, and {keyword} lists {len(numbers)}"
            raise Trip(code, what, "let the server list each message once")

    def uidl_of_last(self) -> None:
        """Read the unique-id of one message."""
        if self._count:
            text = self._must(
                b"UIDL %d" % self._count, "client-uidl", "correct the server; see RFC 1725"
            )
            if not re.match(rb"%d [\x21-\x7e]+" % self._count, text):
                what = f'UIDL {self._count} has the reply "{printable(text, 80)}"'
                raise Trip("client-uidl", what, _UIDL_REMEDY)

    def top(self, *, lines: int, whole: bool = False) -> None:
        """Read the header and some lines of the first and the last message (TOP)."""
        for number in self._ends():
            self._must(
                b"TOP %d %d" % (number, lines),
                "client-top",
                "have TOP, which shows headers and leaves messages unread; popserv has it unless "
                "--without or --dialect removes it",
            )
            self._read("TOP", number, whole)

    def retrieve(
        self, *, hangs_on_nul: bool = False, needs_contents: bool = False, pipelined: bool = False
    ) -> None:
        """Read the first and the last message (RETR)."""
        numbers = self._ends()
        if pipelined and numbers:
            self._conversation.send(b"\r\n".join(b"RETR %d" % number for number in numbers))
        for number in numbers:
            command = f"RETR {number}"
            if not pipelined:
                self._conversation.send(command.encode("ascii"))
            try:
                self._conversation.status(command)
            except Refused as refused:
                raise Trip("client-retr", str(refused), "see the log of the server") from refused
            has_nul, octets = self._read("RETR", number, True)
            if hangs_on_nul and has_nul:
                what = f"message {number} has a NUL, on which Outlook hangs"
                raise Trip("client-nul", what, "use --workarounds outlook-no-nuls")
            if needs_contents and not octets:
                what = f"message {number} is empty, which the fetcher takes for an error"
                raise Trip("client-empty", what, "remove the message")

    def _read(self, keyword: str, number: int, whole: bool) -> tuple[bool, int]:
        """Read a message; return whether it has a NUL, and its octets."""
        octets, has_nul = 0, False
        # No more than the server has told, and the dots; nothing of it is kept.
        maximum = max(MAX_OCTETS, 2 * self._sizes.get(number, self._octets))
        for line in self._conversation.lines(f"{keyword} {number}", maximum):
            octets += len(line) + 2
            has_nul = has_nul or b"\0" in line
        announced = self._sizes.get(number, octets)
        if whole and octets != announced:
            raise Trip(
                "client-size",
                f"message {number} has {octets} octets, and LIST says {announced}",
                "let the server count the octets that it sends; clients show wrong progress, or "
                "discard the message",
            )
        return has_nul, octets

    def _ends(self) -> list[int]:
        """Return the numbers of the first and the last message."""
        return sorted({1, self._count}) if self._count else []

    def _must(self, line: bytes, code: str, remedy: str) -> bytes:
        try:
            return self._conversation.ask(line)
        except Refused as refused:
            raise Trip(code, str(refused), remedy) from refused

    def quit(self) -> None:
        """End the session by QUIT; nothing was retrieved, nor marked."""
        self._must(b"QUIT", "client-quit", "see the log of the server")

    def end(self) -> None:
        """End the session, so that the server records nothing."""
        with suppress(ServerFailed):
            self._conversation.ask(b"RSET")


def _keyword(line: bytes) -> str:
    return line.split(b" ")[0].decode("ascii")
