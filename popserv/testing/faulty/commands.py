"""The commands of a server for tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any, cast

from popserv.commands import capa, rfc1725, sasl, stls, utf8
from popserv.core.command import UNKNOWN_COMMAND, Command, CommandTable, Outcome
from popserv.core.replies import After, Reply, ok_line
from popserv.core.session import Session
from popserv.errors import BadCommand, TryLater
from popserv.messages.framing import Framer, ListingFramer, MessageFramer
from popserv.testing.faulty.faults import ActiveFaults
from popserv.testing.faulty.store import FaultyMailbox


class FaultyCommands(CommandTable):
    """All commands of popserv, with the faults that concern commands.

    The faults are ``unknown_commands``, ``wrong_sizes``, ``changing_unique_ids``, ``fail_retr``,
    ``drop_retr`` and ``unterminated_retr``.  The store must be
    :class:`~popserv.testing.faulty.store.FaultyMaildrops`.
    """

    def __init__(self, faults: ActiveFaults) -> None:
        self._faults = faults
        run = {b"STAT": self._stat, b"LIST": self._list, b"UIDL": self._uidl, b"RETR": self._retr}
        super().__init__(
            replace(each, run=run[each.keyword]) if each.keyword in run else each
            for group in (rfc1725, capa, stls, sasl, utf8)
            for each in group.COMMANDS
        )

    def __iter__(self) -> Iterator[Command]:
        return (each for each in super().__iter__() if not self._faults.is_unknown(each.keyword))

    def __contains__(self, keyword: object) -> bool:
        return any(each.keyword == keyword for each in self)

    def find(self, session: Session, keyword: bytes) -> Command:
        """See CommandTable."""
        if self._faults.is_unknown(keyword):
            raise BadCommand(UNKNOWN_COMMAND)
        return super().find(session, keyword)

    def _stat(self, session: Session) -> bytes:
        maildrop = session.maildrop
        wrong = maildrop.octets + maildrop.count * self._faults.current.wrong_sizes
        return ok_line(b"%d %d" % (maildrop.count, max(0, wrong)))

    def _list(self, session: Session, n: int | None = None) -> Outcome:
        added = self._faults.current.wrong_sizes
        if not added:
            return rfc1725.list_.run(session, n)
        if n is not None:
            return ok_line(b"%d %d" % (n, max(0, session.maildrop[n].octets + added)))
        lines = b"".join(session.maildrop.scan_listing())
        return _changed(lines, lambda octets: b"%d" % max(0, int(octets) + added))

    def _uidl(self, session: Session, n: int | None = None) -> Outcome:
        if not self._faults.current.changing_unique_ids:
            return rfc1725.uidl.run(session, n)
        suffix = b".%d" % cast(FaultyMailbox, session.mailbox).session
        if n is not None:
            return ok_line(b"%d %b%b" % (n, session.maildrop[n].uid, suffix))
        lines = b"".join(session.maildrop.unique_id_listing())
        return _changed(lines, lambda uid: uid + suffix)

    async def _retr(self, session: Session, n: int) -> Reply:
        number, faults = self._faults.count_retrieval(), self._faults.current
        if number == faults.fail_retr:
            raise TryLater
        # A coroutine, because nothing of this store is cached.
        reply = await cast(Coroutine[Any, Any, Reply], rfc1725.retr.run(session, n))
        framer = reply.framer or MessageFramer()
        if number == faults.unterminated_retr:
            return reply._replace(framer=UnterminatedFramer(framer))
        if faults.drop_retr is not None and number == faults.drop_retr[0]:
            cut = CutFramer(framer, faults.drop_retr[1])
            return reply._replace(framer=cut, after=After.CLOSE, sent=None)
        return reply


def _changed(lines: bytes, change: Callable[[bytes], bytes]) -> Reply:
    """Return the reply with a listing, with the second word of each line changed."""
    changed = re.sub(rb"(?<= )\S+", lambda word: change(word[0]), lines)
    return Reply(b"listing follows", [changed], ListingFramer())


class UnterminatedFramer:
    """A framer whose response has no terminator."""

    def __init__(self, framer: Framer) -> None:
        self._framer = framer

    @property
    def done(self) -> bool:
        """See Framer."""
        return self._framer.done

    def feed(self, chunk: bytes) -> bytes:
        """See Framer."""
        return self._framer.feed(chunk)

    def finish(self) -> bytes:
        """See Framer."""
        return self._framer.finish().removesuffix(b".\r\n")


class CutFramer(UnterminatedFramer):
    """A framer whose response has no more than ``octets``."""

    def __init__(self, framer: Framer, octets: int) -> None:
        super().__init__(framer)
        self._left = octets

    def feed(self, chunk: bytes) -> bytes:
        """See Framer."""
        return self._cut(super().feed(chunk))

    def finish(self) -> bytes:
        """See Framer."""
        return self._cut(self._framer.finish())

    def _cut(self, octets: bytes) -> bytes:
        kept = octets[: self._left]
        self._left -= len(kept)
        return kept
