"""unique_id_file: the file of popserv uidl export."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.unique_ids.pinned_file import is_base_name
from popserv.migration.unique_id_file import decode, encode_line

names = st.binary(min_size=1).filter(is_base_name)


class FileTests(SynchronousTestCase):
    """What is exported can be imported."""

    @given(st.dictionaries(names, st.dictionaries(names, st.just(b"id"), min_size=1)))
    def test_round_trip(self, users):
        """Each line gives user, unique-id and base name, whatever octets these have."""
        lines = [
            encode_line(user, unique_id, name) + b"\n"
            for user, unique_ids in users.items()
            for name, unique_id in unique_ids.items()
        ]
        self.assertEqual(decode(lines), users)
        for line in lines:
            self.assertTrue(line.isascii())

    def test_ignored(self):
        """Comments, empty lines and carriage returns are ignored."""
        lines = [b"# text\n", b"\n", b"\r\n", b"ann\tid\t1.a\r\n"]
        self.assertEqual(decode(lines), {b"ann": {b"1.a": b"id"}})

    def test_invalid(self):
        """An invalid line is rejected with its number."""
        for line in (
            b"ann",
            b"ann\tid",
            b"ann\tid\t1.a\tx",
            b"\tid\t1.a",
            b"ann\tid\t",
            b"a\tb\tc/d",
        ):
            error = self.assertRaises(ValueError, decode, [b"ann\tid\t0.z", line])
            self.assertIn("line 2: it is not a user name", str(error))
        error = self.assertRaises(ValueError, decode, [b"ann\tx\t0.z", b"ann\ty\t0.z"])
        self.assertIn("line 2: this message has a line already", str(error))
