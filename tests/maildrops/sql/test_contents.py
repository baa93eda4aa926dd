"""popserv.maildrops.sql.contents: what is recorded of a message."""

from hashlib import sha256

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.sql import contents
from popserv.maildrops.sql.contents import examine
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.messages.sizes import measure
from popserv.testing import SAMPLE_MESSAGES
from tests.maildrops.maildir.harness import result


class ContentsTests(SynchronousTestCase):
    """The sizes and the digest of messages."""

    def test_samples(self):
        """They are those of the message, whether a thread examines it or not."""
        ran = []

        async def run(function, *args):
            ran.append(args)
            return function(*args)

        for most in (contents._CHUNK, 8):
            self.patch(contents, "_CHUNK", most)
            for message in (*SAMPLE_MESSAGES, b"1234567\n"):
                ran.clear()
                found = result(examine(message, run))
                sizes = measure([message], Downgrader)
                self.assertEqual(found[:2], (sizes.octets, sizes.downgraded))
                self.assertEqual(found.header_ends, sizes.has_blank_line)
                self.assertEqual(found.stored, len(message))
                digest = sha256(message).digest()
                self.assertEqual(found.digest, digest)
                self.assertEqual(ran, [(message,)] if len(message) > most else [])
