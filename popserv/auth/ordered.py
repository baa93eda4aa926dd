"""Several checkers in order: the first that knows a name decides about it.

A checker that cannot tell whether it knows a name decides about all that come to it, so it can only
be the last.  One name therefore belongs to one checker, whatever the way to log in: no user can log
in by PASS through one of them and by APOP through another (RFC 1725 section 12), and a user who is
disabled in one cannot log in through the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import isawaitable
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import (
    ICredentials,
    IUsernameHashedPassword,
    IUsernamePassword,
)
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import deferLater
from zope.interface import Interface, implementer

from popserv.interfaces import (
    IAPOPCredentials,
    IAPOPTimestamps,
    ICertificateCredentials,
    ICredentialsSupport,
    IRelayedCredentials,
    IScramCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
)
from popserv.runtime.coroutines import run_eagerly

_FOR_SOME = (IUsernamePassword, IAPOPCredentials, ICertificateCredentials)
_FOR_ALL = (IScramSHA256Credentials, IScramSHA1Credentials, IUsernameHashedPassword)
NAMED = (*_FOR_SOME, *_FOR_ALL)
"""The kinds of credentials that come with the name of a user; those for all only if all checkers of
passwords support them, because clients try no other mechanism after one that has failed."""

PERIOD = 600.0
"""Seconds for which a slow refusal delays the others, at least."""

MAX_DELAY = 20.0
"""Seconds that a refusal is delayed at most, which is more than Dovecot's own delay."""


def is_named(checker: ICredentialsChecker) -> bool:
    """Return whether a checker accepts a kind of credentials with a name."""
    return any(kind in NAMED for kind in checker.credentialInterfaces)


def in_order(
    checkers: Iterable[ICredentialsChecker], clock: Any = None
) -> Sequence[ICredentialsChecker]:
    """Return checkers for a portal, which asks each of those with names as described above."""
    checkers = list(checkers)
    named = [each for each in checkers if is_named(each)]
    # The portal asks the last one that is registered for a kind of credentials.
    return checkers if len(named) < 2 else [*checkers, OrderedCheckers(named, clock)]


@implementer(ICredentialsChecker, ICredentialsSupport, IAPOPTimestamps)
class OrderedCheckers:
    """Asks the first of several checkers that knows a name.

    A refusal takes as long as the slowest refusal of late, so that the time does not tell which of
    the checkers knows the name.  ``clock`` is the reactor unless it is given.
    """

    credentialInterfaces = (*NAMED, IRelayedCredentials)

    def __init__(self, checkers: Sequence[Any], clock: Any = None) -> None:
        self._checkers = tuple(checkers)
        self._clock = clock
        self._refusals = SlowestRefusal()

    def supports(self, credentials: type[Interface]) -> bool:
        """See :class:`popserv.interfaces.ICredentialsSupport`.

        No mechanism is relayed: it shows the name after a checker has been chosen.
        """
        if credentials in _FOR_SOME:
            return any(_supports(each, credentials) for each in self._checkers)
        passwords = [each for each in self._checkers if _accepts(each, IUsernamePassword)]
        return (
            credentials in _FOR_ALL
            and bool(passwords)
            and all(_supports(each, credentials) for each in passwords)
        )

    def make_timestamp(self, host: bytes) -> bytes | None:
        """See :class:`popserv.interfaces.IAPOPTimestamps`."""
        for checker in self._checkers:
            if IAPOPTimestamps.providedBy(checker) and _supports(checker, IAPOPCredentials):
                timestamp: bytes | None = checker.make_timestamp(host)
                return timestamp
        return None

    def requestAvatarId(self, credentials: ICredentials) -> Any:
        """Return what the checker returns that knows the name; see ICredentialsChecker.

        :raises UnauthorizedLogin: it refuses, or does not accept this kind of credentials.
        """
        return run_eagerly(self._check(credentials))

    async def _check(self, credentials: Any) -> Any:
        if self._clock is None:
            # twistd chooses the reactor after everything is imported.
            from twisted.internet import reactor

            self._clock = reactor
        started = self._clock.seconds()
        try:
            checker = await self._find(credentials)
            kinds = checker.credentialInterfaces
            if not any(kind in NAMED and kind.providedBy(credentials) for kind in kinds):
                raise UnauthorizedLogin("this user must log in in another way")
            return await _result(checker.requestAvatarId(credentials))
        except UnauthorizedLogin:
            # An exchange takes as long as the client likes.
            if not IScramCredentials.providedBy(credentials):
                now = self._clock.seconds()
                taken = now - started
                delay = self._refusals.record(taken, now) - taken
                if delay > 0:
                    await deferLater(self._clock, delay)
            raise

    async def _find(self, credentials: Any) -> Any:
        is_certificate = ICertificateCredentials.providedBy(credentials)
        names = list(credentials.names) if is_certificate else [credentials.username]
        *others, last = self._checkers
        for checker in others:
            for name in names:
                if await _result(checker.knows(name)):
                    return checker
        return last


class SlowestRefusal:
    """How long the slowest refusal of late has taken, up to ``MAX_DELAY``."""

    def __init__(self) -> None:
        self._began = 0.0
        self._present = self._previous = 0.0

    def record(self, seconds: float, now: float) -> float:
        """Record how long a refusal has taken, and return how long it is to take."""
        if now - self._began >= PERIOD:
            is_recent = now - self._began < 2 * PERIOD
            self._previous = self._present if is_recent else 0.0
            self._present, self._began = 0.0, now
        self._present = max(self._present, min(seconds, MAX_DELAY))
        return max(self._present, self._previous)


def _accepts(checker: Any, kind: type[Interface]) -> bool:
    return kind in checker.credentialInterfaces


def _supports(checker: Any, kind: type[Interface]) -> bool:
    if ICredentialsSupport.providedBy(checker):
        return _accepts(checker, kind) and bool(checker.supports(kind))
    return _accepts(checker, kind)


async def _result(outcome: Any) -> Any:
    return await maybeDeferred(lambda: outcome) if isawaitable(outcome) else outcome
