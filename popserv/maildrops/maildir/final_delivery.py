"""Delivery of new mail into Maildirs, one message for one user, without a lock."""

from __future__ import annotations

from typing import BinaryIO

from popserv.core.snapshot import valid_unique_id
from popserv.core.user_settings import UserSettings
from popserv.maildrops.maildir.delivery import Delivery
from popserv.maildrops.maildir.folder_names import FolderLayout
from popserv.runtime.threads import RunInThread


class FinalDelivery:
    """The methods of IFinalDelivery for the Maildirs of a layout.

    :param run: calls functions in threads.
    :param is_plain: whether unique-ids are base names.
    """

    def __init__(self, layout: FolderLayout, run: RunInThread, *, is_plain: bool) -> None:
        self._layout = layout
        self._run = run
        self._is_plain = is_plain

    async def deliver_new(
        self, user: bytes, settings: UserSettings, message: BinaryIO
    ) -> bytes | None:
        """See IFinalDelivery."""
        name: bytes = await self._run(_deliver, self._layout_for(settings), user, message)
        return valid_unique_id(name) if self._is_plain else None

    async def has_maildrop(self, user: bytes, settings: UserSettings) -> bool:
        """See IFinalDelivery."""
        exists: bool = await self._run(self._layout_for(settings).has, user)
        return exists

    def _layout_for(self, settings: UserSettings) -> FolderLayout:
        return self._layout.at(settings.maildrop) if settings.maildrop else self._layout


def _deliver(layout: FolderLayout, user: bytes, message: BinaryIO) -> bytes:
    delivery = Delivery(layout)
    try:
        delivery.write(message, [user])
        delivery.commit()
        return delivery.names[0]
    finally:
        delivery.close()
