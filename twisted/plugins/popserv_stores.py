"""The kinds of stores of popserv, which ``--store`` finds.

Twisted imports this module to list all plugins, so it imports the stores only where needed.
"""

from twisted.plugin import IPlugin
from zope.interface import implementer

from popserv.interfaces import IStoreKind


@implementer(IStoreKind, IPlugin)
class _MaildirKind:
    kind = "maildir"
    argument = "PATH"
    help = (
        "Maildirs, in a directory that contains one for each user, or at a path with the "
        "variables %u, %n and %d. --maildir PATH is the short form."
    )

    def make_store(self, argument, settings):
        from popserv.maildrops.maildir.kind import make_store

        return make_store(argument, settings)


maildir = _MaildirKind()


@implementer(IStoreKind, IPlugin)
class _MboxKind:
    argument = "PATH"

    def __init__(self, kind, help):  # noqa: A002
        self.kind = kind
        self.help = help

    def make_store(self, argument, settings):
        from popserv.maildrops.mbox.kind import make_store

        return make_store(self.kind, argument, settings)


mbox = _MboxKind(
    "mbox",
    "Mbox files, as /var/mail has them, in a directory that contains one for each user, or at a "
    "path with the variables %u, %n and %d. Content-Length is believed if it leads to a From_ "
    "line. --mbox PATH is the short form.",
)
mboxo = _MboxKind("mboxo", "Mbox files in which Content-Length is ignored.")
mboxrd = _MboxKind(
    "mboxrd",
    'Mbox files in which Content-Length is ignored, and in which one ">" of each line such as '
    '">From " is removed again, which the program that delivered the mail has added.',
)


@implementer(IStoreKind, IPlugin)
class _MHKind:
    kind = "mh"
    argument = "PATH"
    help = (
        "MH folders, as nmh keeps them: numbered files and .mh_sequences. The path has the "
        "variables %u, %n and %d, as in mh:/home/%u/Mail/inbox."
    )

    def make_store(self, argument, settings):
        from popserv.maildrops.mh.kind import make_store

        return make_store(argument, settings)


mh = _MHKind()


@implementer(IStoreKind, IPlugin)
class _SQLKind:
    kind = "sql"
    argument = "FILE"
    help = (
        "Maildrops in a PostgreSQL database that servers on several machines share, with large "
        "messages in an object store. FILE names the database. Requires the extra sql."
    )

    def make_store(self, argument, settings):
        from popserv.maildrops.sql.kind import make_store

        return make_store(argument, settings)


sql = _SQLKind()
