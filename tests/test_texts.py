"""Tests of popserv.texts."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.core.languages import Languages
from popserv.texts import Counted, Text


class TextTests(SynchronousTestCase):
    """Texts are rendered in a language, with their arguments."""

    def test_render(self):
        """Arguments replace the placeholders; an argument may be a text itself."""
        inner = Counted("%d message", "%d messages", 2)
        self.assertEqual(Text("%s (%d octets)", inner, 320).render(), "2 messages (320 octets)")
        self.assertEqual(str(Text("100 %%")), "100 %")
        self.assertEqual(str(Counted("%d message", "%d messages", 1)), "1 message")

    def test_translated(self):
        """A text and its arguments are translated; the plural follows the language's rule."""
        languages = Languages()
        text = Text("maildrop has %s", Counted("%d message", "%d messages", 0))
        self.assertEqual(text.render(languages["de"]), "das Postfach hat 0 Nachrichten")
        self.assertEqual(text.render(languages["fr"]), "la boîte contient 0 message")

    def test_filled(self):
        """A text that is filled with numbers is the one that has them as arguments."""
        languages = Languages()
        for english, numbers in (("message %d deleted", (3,)), ("%d octets", (1 << 40,))):
            for tag in ("en", "de", "fr"):
                language = languages[tag]
                expected = Text(english, *numbers).encoded(language)
                self.assertEqual(Text(english).filled(language, *numbers), expected)

    def test_equal(self):
        """Texts with the same English are equal."""
        self.assertEqual(Text("%d", 1), Text("1"))
        self.assertEqual(hash(Text("%d", 1)), hash(Text("1")))
        self.assertNotEqual(Text("1"), Text("2"))
        self.assertNotEqual(Text("1"), "1")
