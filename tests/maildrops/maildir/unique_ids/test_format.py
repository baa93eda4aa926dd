"""format: the templates and names of --uidl."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.maildrops.maildir.unique_ids.dovecot_uidlist import Record
from popserv.maildrops.maildir.unique_ids.format import Source, UniqueIdFormat

NAME = b"1700000001.M1P1.host"
VALIDITY = 0x6B0BAFFE

# What Dovecot 2.3 sends for the first message; tests/live compares with Dovecot itself.
BY_TEMPLATE = {
    "dovecot": b"000000016b0baffe",
    "%08Xu%08Xv": b"000000016b0baffe",
    "%f": NAME,
    "%g": NAME,
    "%Mf": b"eb6321585bfba6c4a564dcacae365d5c",
    "%LXv-%u": b"6b0baffe-1",
    "%v.%u": b"1795928062.1",
    "%05u": b"00001",
    "%Uf": b"1700000001.M1P1.HOST",
    "%%%u": b"%1",
    # Dovecot 2.4
    "%{uid | hex(8)}%{uidvalidity | hex(8)}": b"000000016b0baffe",
    "%{uid|hex}-%{filename|upper|lower}": b"1-1700000001.m1p1.host",
    "%{guid}": NAME,
}


class FormatTests(SynchronousTestCase):
    """The unique-id of a message in each format."""

    def of(self, text, record=None):
        """Return the unique-id that a format gives the first message of Dovecot's list."""
        return UniqueIdFormat(text).of_record(record or Record(1), VALIDITY, NAME)

    def test_templates(self):
        """A template gives the unique-id that Dovecot gives."""
        for text, unique_id in BY_TEMPLATE.items():
            with self.subTest(text=text):
                self.assertEqual(self.of(text), unique_id)

    def test_sources(self):
        """A format needs Dovecot's list if it has a variable that only the list has."""
        sources = {
            "filename": Source.NONE,
            "%f": Source.NONE,
            "x%Mf": Source.NONE,
            "dovecot": Source.DOVECOT,
            "%u": Source.DOVECOT,
            "%f%v": Source.DOVECOT,
            "%g": Source.DOVECOT,
            "courier": Source.COURIER,
        }
        for text, source in sources.items():
            self.assertIs(UniqueIdFormat(text).source, source, text)
        self.assertTrue(UniqueIdFormat().is_plain)
        self.assertFalse(any(UniqueIdFormat(text).is_plain for text in list(sources)[1:]))

    def test_stored(self):
        """The field P counts more than any template; if it is empty, it is the base name."""
        for text in ("dovecot", "%f", "%v.%u"):
            self.assertEqual(self.of(text, Record(1, b"stored")), b"stored")
            self.assertEqual(self.of(text, Record(1, b"")), NAME)
            self.assertIsNone(self.of(text, Record(1, b"\xe9")))

    def test_guid(self):
        """The GUID is the field G, or the base name."""
        self.assertEqual(self.of("%g", Record(1, guid=b"abc")), b"abc")

    def test_invalid_result(self):
        """A unique-id that no client can be sent is not used; one beyond 70 characters is."""
        long = UniqueIdFormat("%f").of_record(Record(1), 1, b"x" * 200)
        self.assertEqual(long, b"x" * 200)
        self.assertIsNone(UniqueIdFormat("%f").of_record(Record(1), 1, b"x" * 256))
        self.assertIsNone(UniqueIdFormat("%f").of_record(Record(1), 1, b"x y"))

    def test_own(self):
        """Messages that no list has get base names, or what a template makes of them."""
        names = (NAME, b"x" * 71, b"a b")
        plain = UniqueIdFormat().own(names)
        self.assertEqual(plain[0], NAME)
        self.assertEqual([len(each) for each in plain[1:]], [40, 40])
        self.assertEqual(UniqueIdFormat("dovecot").own(names), plain)
        self.assertEqual(UniqueIdFormat("courier").own(names), plain)
        self.assertEqual(UniqueIdFormat("%f").own(names), (NAME, b"x" * 71, plain[2]))
        self.assertEqual(UniqueIdFormat("x%Mf").own(names[:1]), (b"x" + BY_TEMPLATE["%Mf"],))

    def test_invalid_templates(self):
        """An invalid template is rejected with a message that says what is valid."""
        for text, message in {
            "maildir": "use filename, dovecot, courier, or a template",
            "": "use filename, dovecot, courier",
            "%v": "all messages would have one unique-id",
            "%m": "only an mbox file has MD5 sums",
            "%{md5}": "only an mbox file",
            "%x": "%x is not known: use %u, %v, %f, %g, or %%",
            "%{subject}": "is not known",
            "%u %v": "neither spaces nor characters beyond ASCII",
            "%u\xe9": "neither spaces",
            "%Xf": "the modifiers are X for %u and %v",
            "%Ru": "the modifiers are X",
            "%5u": "'%5u' is not a variable",
            "%u%": "'%' is not a variable",
            "%{uid | hex(8)": "is not a variable",
            "%{uid | base64}": "the filters are hex(8) for uid and uidvalidity",
            "%{guid | hex(8)}": "the filters are",
            "%{uid | lower(2)}": "the filters are",
        }.items():
            with self.subTest(text=text):
                error = self.assertRaises(ValueError, UniqueIdFormat, text)
                self.assertIn(message, str(error))
