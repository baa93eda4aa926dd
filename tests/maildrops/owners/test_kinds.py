"""The stores of files are made to access maildrops as their owners, if the settings say so."""

import os

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.kinds import make_store
from popserv.maildrops.owners.store import OwnersStore
from popserv.maildrops.settings import StoreSettings


class KindTests(SynchronousTestCase):
    """Each kind honours the setting."""

    def test_setting(self):
        """With as_owners, and not without it."""
        os.makedirs(root := os.path.abspath(self.mktemp()))
        for kind in ("maildir", "mbox", "mh"):
            for as_owners in (False, True):
                store = make_store(f"{kind}:{root}", StoreSettings(7, as_owners=as_owners))
                self.assertEqual(isinstance(store, OwnersStore), as_owners)
