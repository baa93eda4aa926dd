"""Tests of popserv.core.languages, and of the catalogs in popserv/core/locale."""

import gettext
import io
import re
from pathlib import Path

from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from twisted.trial.unittest import SynchronousTestCase

from popserv import errors
from popserv.core.languages import DEFAULT_LANGUAGE, Languages
from popserv.texts import ENGLISH

PACKAGE = Path(__file__).parents[2] / "popserv"
CATALOGS = sorted(PACKAGE.glob("core/locale/*/LC_MESSAGES/popserv.po"))

KEYWORDS = {"Text": None, "Counted": (1, 2)} | {
    name: None
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.POPError)
}
"""The calls whose arguments are texts: Text, Counted and the errors."""


def texts_in_code():
    """Return every text of a reply as a gettext id: one, or singular and plural."""
    return {
        extracted[2] if isinstance(extracted[2], str) else tuple(extracted[2])
        for extracted in extract_from_dir(PACKAGE, keywords=KEYWORDS)
    }


class MatchTests(SynchronousTestCase):
    """The lookup of RFC 4647 section 3.4."""

    def test_match(self):
        """Subtags are removed from the end until a tag matches; case is ignored."""
        languages = Languages()
        for language_range, tag in [
            (b"de", "de"),
            (b"DE-at", "de"),
            (b"de-x", "de"),
            (b"fr-FR-u-co-phonebk", "fr"),
            (b"en-GB", "en"),
            (b"i-default", DEFAULT_LANGUAGE),
            (b"I-Default", DEFAULT_LANGUAGE),
            (b"*", DEFAULT_LANGUAGE),
            (b"i", None),
            (b"tlh", None),
            (b"d", None),
            (b"-", None),
            (b"\xff", None),
            (b"../de", None),
        ]:
            self.assertEqual(languages.match(language_range), tag, language_range)

    def test_preferred(self):
        """The range * selects the preferred language."""
        for preferred, tag in (("fr", "fr"), ("FR-ca", "fr"), ("*", DEFAULT_LANGUAGE)):
            self.assertEqual(Languages(preferred=preferred).match(b"*"), tag)
        error = self.assertRaises(ValueError, Languages, preferred="tlh")
        self.assertEqual(str(error), "unknown language tlh; use one of i-default, en, de, fr")

    def test_listing(self):
        """The listing has the name of each language in that language."""
        self.assertEqual(
            list(Languages().listing()),
            [("i-default", "English"), ("en", "English"), ("de", "Deutsch"), ("fr", "Français")],
        )
        self.assertIs(Languages()[DEFAULT_LANGUAGE], ENGLISH)

    def test_directory(self):
        """A directory without catalogs has English only."""
        self.assertEqual(
            [tag for tag, _ in Languages(self.mktemp()).listing()], [DEFAULT_LANGUAGE, "en"]
        )


class CatalogTests(SynchronousTestCase):
    """The catalogs have all texts, and agree with them."""

    def catalogs(self):
        """Yield the path and the catalog of each .po file."""
        self.assertEqual([path.parts[-3] for path in CATALOGS], ["de", "fr"])
        for path in CATALOGS:
            with path.open("rb") as file:
                yield path, read_po(file)

    def test_complete(self):
        """Each catalog has every text in the code, and no others."""
        texts = texts_in_code()
        self.assertIn("send PASS", texts)
        self.assertIn("temporary failure, try again later", texts)
        for path, catalog in self.catalogs():
            translated = {
                message.id if isinstance(message.id, str) else tuple(message.id)
                for message in catalog
                if message.id and all([message.string] if message.id is str else message.string)
            }
            self.assertEqual(texts - translated, set(), f"{path}: missing")
            self.assertEqual(translated - texts, set(), f"{path}: not in the code")

    def test_placeholders(self):
        """A translation has the placeholders of the text, in the same order."""
        for path, catalog in self.catalogs():
            for message in catalog:
                ids = [message.id] if isinstance(message.id, str) else message.id
                strings = [message.string] if isinstance(message.string, str) else message.string
                placeholders = {tuple(re.findall(r"%.", text)) for text in (*ids, *strings)}
                if message.id:
                    self.assertEqual(len(placeholders), 1, f"{path}: {message.id}")

    def test_one_line(self):
        """A translation has no control characters, and fits into a reply (RFC 2449 section 4)."""
        for path, catalog in self.catalogs():
            for message in catalog:
                strings = [message.string] if isinstance(message.string, str) else message.string
                for text in strings if message.id else ():
                    self.assertNotRegex(text, r"[\x00-\x1f\x7f]", path)
                    self.assertLess(len(text.encode()), 300, path)

    def test_compiled(self):
        """Each .mo file is compiled from its .po file: run ``make translations``."""
        for path, catalog in self.catalogs():
            compiled = io.BytesIO()
            write_mo(compiled, catalog)
            compiled.seek(0)
            with path.with_suffix(".mo").open("rb") as file:
                committed = gettext.GNUTranslations(file)
            fresh = gettext.GNUTranslations(compiled)
            # The header contains the time of compilation.
            self.assertEqual(committed._catalog | {"": ""}, fresh._catalog | {"": ""}, path)
