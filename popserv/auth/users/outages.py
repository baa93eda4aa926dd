"""Servers and programs that checkers ask, and that cannot be asked for some time."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.cred.error import UnauthorizedLogin
from twisted.logger import Logger

from popserv.core.printable import one_line
from popserv.errors import TryLater

_log = Logger()

T = TypeVar("T")

_MAX_PROBLEM = 300


class ServerUnavailable(Exception):
    """A server or a program cannot be asked now; the message says why, for the log."""


class NotAsked(UnauthorizedLogin):
    """A login is refused without asking anybody; the message says why, for the log."""


class Outages:
    """The outages of what a checker asks: one line in the log when each begins, and one after it.

    Every client could cause a line otherwise.  ``server`` says what is asked, for the log.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._is_available = True

    async def watch(self, asking: Awaitable[T]) -> T:
        """Return what was answered.

        :raises UnauthorizedLogin: that was the answer, or nobody was asked.
        :raises popserv.errors.TryLater: nobody answers.
        """
        try:
            answer = await asking
        except ServerUnavailable as error:
            self._begin(str(error))
            raise TryLater from None
        except NotAsked:
            raise
        except UnauthorizedLogin:
            self._end()
            raise
        self._end()
        return answer

    def _begin(self, problem: str) -> None:
        if self._is_available:
            self._is_available = False
            _log.critical(
                "{server} cannot be asked, and logins are refused until it can: {problem}",
                server=self._server,
                problem=one_line(problem)[:_MAX_PROBLEM],
            )

    def _end(self) -> None:
        if not self._is_available:
            self._is_available = True
            _log.info("{server} answers again", server=self._server)
