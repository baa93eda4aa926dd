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
