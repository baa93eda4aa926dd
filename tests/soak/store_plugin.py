"""Plugins for the tests of the model: a store in memory, and stores and a checker with faults.

A server finds them because this file is copied to a directory of plugins.  ``broken:FAULT:STORE``
is a store that breaks a promise once it has removed or shown a few messages, and
``broken:FAULT:CHECKER`` a checker that lets everybody in who uses SCRAM.
"""

import os
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import ICheckerFactory, makeChecker
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import deferLater
from twisted.plugin import IPlugin
from zope.interface import directlyProvides, implementer

from popserv.core.snapshot import Snapshot
from popserv.interfaces import IFinalDelivery, IMailbox, IStoreKind
from popserv.maildrops.kinds import make_store
from popserv.maildrops.memory import MemoryMaildrops


@implementer(IStoreKind, IPlugin)
class _MemoryKind:
    kind = "memory"
    argument = ""
    help = "Maildrops in memory, for tests."

    def make_store(self, argument, settings):
        return MemoryMaildrops(settings.downgrader)


memory = _MemoryKind()


@implementer(IStoreKind, IPlugin)
class _BrokenKind:
    kind = "broken"
    argument = "FAULT:STORE"
    help = "A store that breaks a promise, for tests."

    def make_store(self, argument, settings):
        fault, _, name = argument.partition(":")
        if fault == "utf8-ignored":
            settings = replace(settings, downgrader=None)
        if fault == "deleted-ignored":
            settings = replace(settings, deleted="remove")
        return _BrokenStore(fault, name, make_store(name, settings))


broken = _BrokenKind()


@implementer(ICheckerFactory, IPlugin)
class _BrokenCheckerFactory:
    authType = "broken"
    authHelp = "A checker that breaks a promise, for tests."
    argStringFormat = "FAULT:CHECKER"
    credentialInterfaces = (IUsernamePassword,)

    def generateChecker(self, argument):
        checker = makeChecker(argument.partition(":")[2])
        check = checker.requestAvatarId

        def check_or_not(credentials):
            def let_in(failure):
                failure.trap(UnauthorizedLogin)
                return credentials.username

            checked = maybeDeferred(check, credentials)
            return checked.addErrback(let_in) if hasattr(credentials, "check_keys") else checked

        checker.requestAvatarId = check_or_not
        return checker


broken_checker = _BrokenCheckerFactory()


@implementer(IFinalDelivery)
class _BrokenStore:
    """Another store, with mailboxes that break a promise."""

    def __init__(self, fault, name, store):
        self._fault = fault
        self._name = name
        self._serial = count()
        self._store = store
        self.removed = {}
        self.shown = 0
        self._leaked = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def open_maildrop(self, user):
        """Open a mailbox."""
        if self._fault == "leaks":
            self._leak()
        if self._fault == "process-ended" and self.shown == 100:
            os._exit(1)
        return _BrokenMailbox(self._fault, self, user, await self._store.open_maildrop(user))

    async def deliver_new(self, user, settings, message):
        """Deliver a message."""
        if self._fault != "delivery-in-part":
            return await self._store.deliver_new(user, settings, message)
        octets = message.read()
        name = f"{int(reactor.seconds())}.M{next(self._serial):06d}P{os.getpid()}.host"
        path = Path(self._name.partition(":")[2], os.fsdecode(user), "new", name)
        for folder in ("tmp", "new", "cur"):
            (path.parent.parent / folder).mkdir(parents=True, exist_ok=True)
        path.write_bytes(octets[: len(octets) // 2])
        await deferLater(reactor, 0.02)
        path.write_bytes(octets)
        return os.fsencode(name)

    def _leak(self):
        self._leaked.append(b"x" * 20_000)
        if self.shown % 10 == 0:
            self._leaked.append(os.dup(0))
            threading.Thread(target=threading.Event().wait, daemon=True).start()


class _BrokenMailbox:
    """Another mailbox that breaks a promise."""

    def __init__(self, fault, store, user, mailbox):
        self._fault = fault
        self._store = store
        self._mailbox = mailbox
        directlyProvides(self, IMailbox)
        octets, uids = list(mailbox.messages.octets), list(mailbox.messages.uids)
        self._removed = store.removed.setdefault(user, [])
        store.shown += 1
        if fault == "unique-id-reused" and self._removed and uids:
            uids[-1] = self._removed[0]
        if fault == "unique-id-changed" and uids and store.shown % 2:
            uids[-1] += b"x"
        if fault == "octets-wrong" and len(octets) > 1:
            octets[1] += 1
        if fault == "order-changed" and len(uids) > 2:
            octets[0], octets[1] = octets[1], octets[0]
            uids[0], uids[1] = uids[1], uids[0]
        self.messages = Snapshot(octets, uids)
        self._real = dict(zip(uids, mailbox.messages, strict=True))
        if fault == "order-changed" and len(uids) > 2:
            self._real[uids[0]], self._real[uids[1]] = mailbox.messages[1], mailbox.messages[0]

    async def open(self, message):
        """Open a message."""
        chunks = b"".join(list(await self._mailbox.open(self._real[message.uid])))
        if self._fault == "octet-changed":
            chunks = chunks.replace(b"e", b"f", 1)
        return [chunks]

    async def remove(self, messages):
        """Remove messages."""
        real = [self._real[message.uid] for message in messages]
        self._removed += [message.uid for message in real]
        if self._fault == "removal-dropped":
            real = real[1:]
        if self._fault == "too-much-removed" and real:
            real = list({*real, self._mailbox.messages[0]})
        await self._mailbox.remove(real)

    async def release(self):
        """Release the lock."""
        if self._fault == "lock-kept" and self._removed:
            return
        if self._fault == "removed-without-quit":
            await self._mailbox.remove(self._mailbox.messages[:1])
        await self._mailbox.release()
