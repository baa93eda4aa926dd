"""The maildrops that recipients mean, found as those of logins are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from twisted.internet.defer import maybeDeferred

from popserv.auth.client_names import listed_name, tells_names
from popserv.auth.names import check_name, readings, with_domain
from popserv.auth.users.user import UserDirectory
from popserv.core.user_folder import INBOX, avatar_id_of
from popserv.core.user_settings import NO_SETTINGS, UserSettings
from popserv.delivery.addresses import Address
from popserv.errors import UnknownRecipient
from popserv.interfaces import IFinalDelivery, IUserLookup


class Recipient(NamedTuple):
    """A maildrop as :meth:`popserv.interfaces.IFinalDelivery.deliver_new` is given it."""

    user: bytes
    settings: UserSettings


class Recipients:
    """Finds the maildrops of recipients.

    The name of a recipient is the whole address, or its local part with ``local_part_only``; a name
    without a domain gets ``domain``, unless that is empty, as names of logins do.  A checker that
    can look users up decides whether there is a user of that name.  If one cannot, there is a user
    if there is a maildrop.

    With a ``delimiter``, a name that is no user's stands for the user before its first or last
    delimiter; with ``to_folders`` the mail goes to the folder of that user which follows, if that
    exists.  ``folder`` is the folder of names that name none.
    """

    def __init__(
        self,
        store: IFinalDelivery,
        checkers: Iterable[Any],
        *,
        domain: bytes = b"",
        local_part_only: bool = False,
        delimiter: bytes = b"",
        to_folders: bool = False,
        folder: bytes = INBOX,
    ) -> None:
        self._store: Any = store
        self._checkers = list(checkers)
        self._domain = domain
        self._local_part_only = local_part_only
        self._delimiter = delimiter
        self._to_folders = to_folders
        self._folder = folder

    async def find(self, address: Address) -> Recipient:
        """Return the maildrop that an address means.

        :raises UnknownRecipient: there is none.
        :raises Exception: that cannot be found out now.
        """
        name = address.local_part
        if address.domain and not self._local_part_only:
            name += b"@" + address.domain
        for user, folder in self._readings(with_domain(name, self._domain)):
            recipient = await self._find(user)
            if recipient is not None:
                return await self._with_folder(recipient, folder)
        raise UnknownRecipient("no checker knows the user")

    def _readings(self, name: bytes) -> Iterator[tuple[bytes, bytes]]:
        for user, folder in readings(name, self._delimiter):
            try:
                check_name(user)
            except ValueError:
                continue
            yield user, folder

    async def _find(self, name: bytes) -> Recipient | None:
        cannot_tell = not self._checkers
        for checker in self._checkers:
            if isinstance(checker, UserDirectory):
                user = await checker.find(name)
                if user is not None:
                    return Recipient(user.maildrop, user.rules.settings)
            elif IUserLookup.providedBy(checker):
                if await maybeDeferred(checker.knows, name):
                    return Recipient(name, NO_SETTINGS)
            elif tells_names(checker):
                listed = listed_name(checker, name)
                if listed is not None:
                    return Recipient(listed, NO_SETTINGS)
            else:
                cannot_tell = True
        if cannot_tell and await self._store.has_maildrop(name, NO_SETTINGS):
            return Recipient(name, NO_SETTINGS)
        return None

    async def _with_folder(self, recipient: Recipient, folder: bytes) -> Recipient:
        if folder and self._to_folders:
            user = avatar_id_of(recipient.user, folder, self._folder)
            if await self._store.has_maildrop(user, recipient.settings):
                return Recipient(user, recipient.settings)
        return recipient
