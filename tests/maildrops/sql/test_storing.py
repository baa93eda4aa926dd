"""popserv.maildrops.sql.storing: where the octets of a message go."""

from io import BytesIO

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.sql import storing
from popserv.maildrops.sql.storing import store_octets
from tests.maildrops.maildir.harness import result


class StoringTests(SynchronousTestCase):
    """A message for the database."""

    def test_thread(self):
        """One that is in memory is read at once; a longer one, which is on disk, in a thread."""
        self.patch(storing, "MAX_IN_MEMORY", 4)
        ran = []

        async def run(function, *args):
            ran.append(function)
            return function(*args)

        for message in (b"1\n2\n", b"1\n2\n3"):
            file = BytesIO(message)
            self.assertEqual(result(store_octets(file, run, None)).body, message)
        self.assertEqual(ran, [file.read])
