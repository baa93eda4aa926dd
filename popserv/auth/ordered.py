"""Several checkers in order: the first that knows a name decides about it.

A checker that cannot tell whether it knows a name decides about all that come to it, so it can only
be the last.  One name therefore belongs to one checker, whatever the way to log in: no user can log
in by PASS through one of them and by APOP through another (RFC 1725 section 12), and a user who is
disabled in one cannot log in through the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from inspect import isawaitable
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, DeferredList, maybeDeferred
from zope.interface import Interface, implementer

from popserv.auth.credentials import FOR_ALL, FOR_SOME, NAMED, is_named
from popserv.auth.passwords.decoys import Decoys, machine_secret
from popserv.auth.users.refusals import EvenRefusals
from popserv.interfaces import (
    IAPOPCredentials,
    IAPOPTimestamps,
    ICertificateCredentials,
    ICredentialsSupport,
    IDecoyMaker,
    IRelayedCredentials,
    IScramCredentials,
    IUserLookup,
)
from popserv.runtime.coroutines import run_eagerly

PATIENCE = 1.0
"""Seconds for which an exchange waits for the checkers after the one that knows the name."""


def in_order(
    checkers: Iterable[ICredentialsChecker], clock: Any = None
) -> Sequence[ICredentialsChecker]:
    """Return checkers for a portal, which asks each of those with names as described above."""
    checkers = list(checkers)
    named = [each for each in checkers if is_named(each)]
    # The portal asks the last one that is registered for a kind of credentials.
    return checkers if len(named) < 2 else [*checkers, OrderedCheckers(named, clock)]


@implementer(ICredentialsChecker, ICredentialsSupport, IAPOPTimestamps, IDecoyMaker)
class OrderedCheckers:
    """Asks the first of several checkers that knows a name.

    A refusal takes as long as the slowest refusal of late, so that the time does not tell which of
    the checkers knows the name.  ``clock`` is the reactor unless it is given.
    """

    credentialInterfaces = (*NAMED, IRelayedCredentials)

    def __init__(self, checkers: Sequence[Any], clock: Any = None) -> None:
        self._checkers = tuple(checkers)
        self._clock = clock
        self._refusals = EvenRefusals(clock)
        self._decoys = Decoys(machine_secret())

    def use_decoys(self, decoys: Decoys) -> None:
        """See :class:`popserv.interfaces.IDecoyMaker`."""
        self._decoys = decoys

    def supports(self, credentials: type[Interface]) -> bool:
        """See :class:`popserv.interfaces.ICredentialsSupport`.

        No mechanism is relayed: it shows the name after a checker has been chosen.
        """
        if credentials in FOR_SOME:
            return any(_supports(each, credentials) for each in self._checkers)
        passwords = [each for each in self._checkers if _accepts(each, IUsernamePassword)]
        return (
            credentials in FOR_ALL
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
        if IScramCredentials.providedBy(credentials):
            # An exchange takes as long as the client likes.
            return await self._decide(credentials, await self._find_for_exchange(credentials))
        return await self._refusals.watch(self._find_and_decide(credentials))

    async def _find_and_decide(self, credentials: Any) -> Any:
        return await self._decide(credentials, await self._find(credentials))

    async def _decide(self, credentials: Any, checker: Any) -> Any:
        kinds = checker.credentialInterfaces
        if not any(kind in NAMED and kind.providedBy(credentials) for kind in kinds):
            raise UnauthorizedLogin("this user must log in in another way")
        return await _result(checker.requestAvatarId(credentials))

    async def _find(self, credentials: Any) -> Any:
        is_certificate = ICertificateCredentials.providedBy(credentials)
        names = list(credentials.names) if is_certificate else [credentials.username]
        *others, last = self._checkers
        for checker in others:
            for name in names:
                if await _result(checker.knows(name)):
                    return checker
        return last

    async def _find_for_exchange(self, credentials: Any) -> Any:
        """Return the checker that knows a name, or whose decoys stand for an unknown name.

        All checkers are asked, and the decoys are those of any of them, so that neither the time
        until the salt comes, nor the number of iterations, tells which names one of them knows.
        """
        await self._decoys.prepare()
        name = credentials.username
        kinds = [kind for kind in NAMED if kind.providedBy(credentials)]
        able = [each for each in self._checkers if any(_supports(each, kind) for kind in kinds)]
        tellers = [each for each in self._checkers if IUserLookup.providedBy(each)]
        asking = DeferredList(
            [maybeDeferred(each.knows, name) for each in tellers], consumeErrors=True
        )
        timeout = self._clock_now().callLater(PATIENCE, asking.cancel)
        answers: Any = await asking
        if timeout.active():
            timeout.cancel()
        for checker, (is_answer, answer) in zip(tellers, answers, strict=True):
            if not is_answer and answer.check(CancelledError):
                answer = await _result(checker.knows(name))
            elif not is_answer:
                answer.raiseException()
            if answer:
                return checker
        last = self._checkers[-1]
        return self._decoys.choose(_stem(name), able) if last in tellers and able else last

    def _clock_now(self) -> Any:
        if self._clock is None:
            # twistd chooses the reactor after everything is imported.
            from twisted.internet import reactor

            self._clock = reactor
        return self._clock


def _stem(name: bytes) -> bytes:
    """Return the part of a name that it has in common with those of folders and domains."""
    return re.sub(rb"(?s)[-+_=~!#@].*", b"", name)


def _accepts(checker: Any, kind: type[Interface]) -> bool:
    return kind in checker.credentialInterfaces


def _supports(checker: Any, kind: type[Interface]) -> bool:
    if ICredentialsSupport.providedBy(checker):
        return _accepts(checker, kind) and bool(checker.supports(kind))
    return _accepts(checker, kind)


async def _result(outcome: Any) -> Any:
    return await maybeDeferred(lambda: outcome) if isawaitable(outcome) else outcome
