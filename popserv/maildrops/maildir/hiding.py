"""Maildirs in which deleted messages stay, and are no longer shown: ``--deleted keep``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zope.interface import implementer

from popserv.core.snapshot import Message, Snapshot
from popserv.errors import RemovalFailed
from popserv.interfaces import IMailbox, IMaildropFactory
from popserv.maildrops.maildir import hidden_file
from popserv.maildrops.maildir.folders import FOLDER_NAMES
from popserv.maildrops.maildir.hidden_file import digest_of
from popserv.maildrops.maildir.mailbox import MaildirMailbox
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.maildrops.path_problems import explain_change, explain_in_directory
from popserv.maildrops.recent import SelectedMailbox
from popserv.maildrops.refusals import refusal
from popserv.runtime.threads import RunInThread


@implementer(IMaildropFactory)
class HidingMaildrops:
    """Maildirs without the messages that sessions have removed, which stay for other programs."""

    def __init__(self, maildrops: MaildirMaildrops) -> None:
        self._maildrops = maildrops
        self.run = maildrops.run

    async def open_maildrop(self, user: bytes) -> IMailbox:
        """See IMaildropFactory."""
        mailbox = await self._maildrops.open_maildrop(user)
        if not isinstance(mailbox, MaildirMailbox):
            return mailbox
        try:
            hidden, messages, positions = await self.run(_select, mailbox)
        except BaseException as error:
            problem = (
                explain_in_directory(error, mailbox.maildir_fd, hidden_file.NAME)
                if isinstance(error, OSError)
                else None
            )
            await mailbox.release()
            if problem is not None:
                raise refusal(problem) from problem
            raise
        return IMailbox(_HidingMailbox(mailbox, messages, positions, hidden, self.run))


def _select(mailbox: MaildirMailbox) -> tuple[frozenset[bytes], Snapshot, Sequence[int]]:
    """Return the digests of what is hidden, and the other messages with their positions."""
    hidden = hidden_file.load(mailbox.maildir_fd)
    base_names = mailbox.base_names
    if not hidden:
        return hidden, mailbox.messages, range(len(base_names))
    positions = [at for at, name in enumerate(base_names) if digest_of(name) not in hidden]
    return hidden, mailbox.messages.updated((), (), positions), positions


class _HidingMailbox(SelectedMailbox):
    def __init__(
        self,
        mailbox: MaildirMailbox,
        messages: Snapshot,
        positions: Sequence[int],
        hidden: frozenset[bytes],
        run: RunInThread,
    ) -> None:
        super().__init__(mailbox, messages, positions)
        self._maildir = mailbox
        self._hidden = hidden
        self._run = run

    async def remove(self, messages: Iterable[Message]) -> None:
        """See IMailbox: the messages are not shown in later sessions."""
        positions = [self._positions[message.position] for message in messages]
        if positions:
            await self._run(self._hide, positions)

    def _hide(self, positions: list[int]) -> None:
        base_names = self._maildir.base_names
        hidden = self._still_hidden() | {digest_of(base_names[at]) for at in positions}
        try:
            hidden_file.save(self._maildir.maildir_fd, hidden)
        except OSError as error:
            fd = self._maildir.maildir_fd
            problem = explain_change(error, fd, error.filename or hidden_file.NAME)
            raise RemovalFailed(len(positions)) from problem
        self._hidden = hidden

    def _still_hidden(self) -> frozenset[bytes]:
        """Return the digests without those of messages that are gone, so that the file is small.

        A message that was skipped, was perhaps being renamed, or is in a folder that is away may
        come back: without its digest it would be shown again.
        """
        index = self._maildir.index
        times = index.all_times
        if not self._hidden or times is None or len(times) < len(FOLDER_NAMES):
            return self._hidden
        # Those of the index: sessions do not see a message that has no unique-id yet.
        return self._hidden & {digest_of(name) for name in index.base_names}
