"""unique_id_sources: where unique-ids come from, and what each source cannot tell."""

from contextlib import contextmanager

from popserv.maildrops.maildir.unique_ids import dovecot_uidlist
from popserv.maildrops.maildir.unique_ids.format import UniqueIdFormat
from popserv.migration.maildir_side import Maildirs
from popserv.migration.unique_id_sources import FileSource, ListSource, ServerSource
from tests.maildrops.maildir.harness import MaildirCase
from tests.migration.test_matching import Messages, message, plain


class SourcesTests(MaildirCase):
    """Each source finds unique-ids by base name."""

    def setUp(self):
        """Deliver three messages."""
        super().setUp()
        for number in range(3):
            self.put(b"new/%d.a" % number, message(number))

    def found(self, source):
        """Return what a source finds."""
        with Maildirs(self.root).opened(b"ann") as side:
            return source.find(b"ann", side)

    def test_list(self):
        """A list in the Maildir is read."""
        source = ListSource(UniqueIdFormat("dovecot"))
        self.assertRaises(OSError, self.found, source)
        self.put(dovecot_uidlist.NAME, b"3 V1 N2\n1 :0.a\n")
        self.assertEqual(self.found(source), ({b"0.a": b"0000000100000001"}, ()))

    def test_file(self):
        """A file has unique-ids by user, and what is no message is told."""
        listed = {b"0.a": b"x", b"9.z": b"y"}
        found = self.found(FileSource({b"ann": listed}))
        self.assertEqual(found.unique_ids, listed)
        self.assertEqual(found.unmatched, ["9.z: no message in the Maildir has this base name"])
        self.assertEqual(self.found(FileSource({})), ({}, []))

    def test_server(self):
        """The messages of a server are matched in any order, and what does not match is told."""
        self.put(b"new/5.a", plain(b"other"))
        remote = Messages([plain(b"body"), message(2), message(9), message(0)])
        remote.unique_ids = [b"a", b"b", b"c", b"d"]
        users = []

        @contextmanager
        def connect(user):
            users.append(user)
            yield remote

        found = self.found(ServerSource(connect))
        self.assertEqual(users, [b"ann"])
        self.assertEqual(found.unique_ids, {b"2.a": b"b", b"0.a": b"d"})
        self.assertEqual(
            found.unmatched,
            [
                "message 1 of the other server, unique-id a: the messages in the Maildir with "
                "this header differ from it",
                "message 3 of the other server, unique-id c: no message in the Maildir has this "
                "header",
            ],
        )
