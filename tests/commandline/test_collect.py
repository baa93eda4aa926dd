"""``popserv collect``; tests.live has a real store."""

import sys

from zope.interface import implementer

from popserv.commandline import collect
from popserv.errors import TryLater
from popserv.interfaces import ICollectingStore
from tests.commandline.harness import CommandCase
from tests.maildrops.maildir.harness import result


@implementer(ICollectingStore)
class Store:
    """A store with objects."""

    error = None

    async def collect(self, show):
        """Remove a number of objects."""
        show(500)
        if self.error is not None:
            raise self.error
        return 501

    async def find_unknown(self, show):
        """Find an object."""
        show(1000)
        return 1


class CollectTests(CommandCase):
    """Objects are removed without a reactor."""

    def setUp(self):
        """Make the store."""
        super().setUp()
        self.store = Store()
        self.patch(collect, "run_in_reactor", result)
        self.patch(collect, "make_store", lambda description, settings: self.store)

    def collect(self, *arguments):
        """Run the command; return the exit code, standard output and standard error."""
        return self.run_command(["collect", "--store", "sql:FILE", *arguments])

    def test_collected(self):
        """It says how many objects were removed."""
        self.assertEqual(self.collect(), (0, "501 objects removed\n", ""))

    def test_full(self):
        """With --full, it says before how many objects the database does not know."""
        code, out, err = self.collect("--full")
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(
            out.splitlines(),
            ["1 object without a message found, to be removed later", "501 objects removed"],
        )

    def test_progress(self):
        """On a terminal, the last line shows the progress."""
        self.patch(sys.modules["popserv.commandline.user_lines"].ProgressLine, "write", self.note)
        self.shown = []
        self.collect("--full")
        self.assertEqual(self.shown, ["1000 compared", "", "500 removed", ""])

    def note(self, text):
        """Record the line."""
        self.shown.append(text)

    def test_failures(self):
        """What cannot be done now is told with its reason, and continued by the next collection."""
        unavailable = TryLater()
        unavailable.__cause__ = OSError("connection\nrefused")
        for error, said in (
            (unavailable, "popserv: connection\\nrefused\n"),
            (KeyboardInterrupt(), "popserv: interrupted; the next collection continues\n"),
        ):
            self.store.error = error
            self.assertEqual(self.collect(), (1, "", said))

    def test_usage(self):
        """A store without objects, or that cannot be opened, is an error."""
        self.store = object()
        code, out, err = self.collect()
        self.assertEqual((code, out), (2, ""))
        self.assertIn("--store: this kind of store has no objects; use sql:FILE", err)
