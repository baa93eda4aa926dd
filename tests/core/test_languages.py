"""The languages of replies, and that their catalogs are whole."""

import gettext
import io
import re
from pathlib import Path

from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from twisted.trial.unittest import SynchronousTestCase

from popserv import errors
from popserv.core.languages import DEFAULT, Languages
from popserv.texts import ENGLISH, Counted, Text

PACKAGE = Path(__file__).parents[2] / "popserv"
CATALOGS = sorted(PACKAGE.glob("core/locale/*/LC_MESSAGES/popserv.po"))

KEYWORDS = {"Text": None, "Counted": (1, 2)} | {
    name: None
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.POPError)
}
"""What a text stands in; the errors take one, too."""


def texts_of_the_code():
    """Every text that a reply can have, as gettext's ids: one, or singular and plural."""
    return {
        found[2] if isinstance(found[2], str) else tuple(found[2])
        for found in extract_from_dir(PACKAGE, keywords=KEYWORDS)
    }


class TextTests(SynchronousTestCase):
    """Texts, with their arguments."""

    def test_render(self):
        """A text has its arguments filled in, texts among them, and percent signs kept."""
        inner = Counted("%d message", "%d messages", 2)
        self.assertEqual(Text("%s (%d octets)", inner, 320).render(), "2 messages (320 octets)")
        self.assertEqual(str(Text("100 %%")), "100 %")
        self.assertEqual(str(Counted("%d message", "%d messages", 1)), "1 message")

    def test_translated(self):
        """Each part is translated by itself, numbers by the language's own rule."""
        languages = Languages()
        text = Text("maildrop has %s", Counted("%d message", "%d messages", 0))
        self.assertEqual(text.render(languages["de"]), "das Postfach hat 0 Nachrichten")
        self.assertEqual(text.render(languages["fr"]), "la boîte contient 0 message")

    def test_equal(self):
        """Texts that read the same are the same."""
        self.assertEqual(Text("%d", 1), Text("1"))
        self.assertEqual(hash(Text("%d", 1)), hash(Text("1")))
        self.assertNotEqual(Text("1"), Text("2"))
        self.assertNotEqual(Text("1"), "1")


class MatchTests(SynchronousTestCase):
    """Languages.match: RFC 4647 section 3.4, lookup."""

    def test_match(self):
        """Subtags fall off the end until a tag is found; letter case is no matter."""
        languages = Languages()
        for wanted, tag in [
            (b"de", "de"),
            (b"DE-at", "de"),
            (b"de-x", "de"),
            (b"fr-FR-u-co-phonebk", "fr"),
            (b"en-GB", "en"),
            (b"i-default", DEFAULT),
            (b"I-Default", DEFAULT),
            (b"*", DEFAULT),
            (b"i", None),
            (b"tlh", None),
            (b"d", None),
            (b"-", None),
            (b"\xff", None),
            (b"../de", None),
        ]:
            self.assertEqual(languages.match(wanted), tag, wanted)

    def test_preferred(self):
        """``*`` is the language that the server prefers."""
        self.assertEqual(Languages(preferred="fr").match(b"*"), "fr")
        error = self.assertRaises(ValueError, Languages, preferred="tlh")
        self.assertEqual(str(error), "no language tlh; there are i-default, en, de, fr")

    def test_listing(self):
        """Each language is called as it calls itself."""
        self.assertEqual(
            list(Languages().listing()),
            [("i-default", "English"), ("en", "English"), ("de", "Deutsch"), ("fr", "Français")],
        )
        self.assertIs(Languages()[DEFAULT], ENGLISH)

    def test_elsewhere(self):
        """Catalogs can be kept in another directory, or in none."""
        self.assertEqual([tag for tag, _ in Languages(self.mktemp()).listing()], [DEFAULT, "en"])


class CatalogTests(SynchronousTestCase):
    """The catalogs in popserv/core/locale."""

    def catalogs(self):
        """Yield (path, catalog) of each .po file."""
        self.assertEqual([path.parts[-3] for path in CATALOGS], ["de", "fr"])
        for path in CATALOGS:
            with path.open("rb") as file:
                yield path, read_po(file)

    def test_whole(self):
        """Each has every text of the code, and no other."""
        wanted = texts_of_the_code()
        self.assertIn("send PASS", wanted)
        self.assertIn("temporary failure, try again later", wanted)
        for path, catalog in self.catalogs():
            there = {
                message.id if isinstance(message.id, str) else tuple(message.id)
                for message in catalog
                if message.id and all([message.string] if message.id is str else message.string)
            }
            self.assertEqual(wanted - there, set(), f"{path} lacks these")
            self.assertEqual(there - wanted, set(), f"{path} has these in vain")

    def test_placeholders(self):
        """A translation has the placeholders of the text, in its order."""
        for path, catalog in self.catalogs():
            for message in catalog:
                ids = [message.id] if isinstance(message.id, str) else message.id
                strings = [message.string] if isinstance(message.string, str) else message.string
                placeholders = {tuple(re.findall(r"%.", text)) for text in (*ids, *strings)}
                if message.id:
                    self.assertEqual(len(placeholders), 1, f"{path}: {message.id}")

    def test_one_line(self):
        """No translation breaks a status line, or makes it longer than RFC 2449 allows."""
        for path, catalog in self.catalogs():
            for message in catalog:
                strings = [message.string] if isinstance(message.string, str) else message.string
                for text in strings if message.id else ():
                    self.assertNotRegex(text, r"[\x00-\x1f\x7f]", path)
                    self.assertLess(len(text.encode()), 300, path)

    def test_compiled(self):
        """The .mo beside it is what it compiles to: ``make translations``."""
        for path, catalog in self.catalogs():
            compiled = io.BytesIO()
            write_mo(compiled, catalog)
            compiled.seek(0)
            with path.with_suffix(".mo").open("rb") as file:
                there = gettext.GNUTranslations(file)
            fresh = gettext.GNUTranslations(compiled)
            # Its header has the time of day.
            self.assertEqual(there._catalog | {"": ""}, fresh._catalog | {"": ""}, path)
