"""The languages that replies can be in (RFC 6856 section 3): gettext catalogs, by their tags."""

from __future__ import annotations

import gettext
import os
from collections.abc import Iterable
from glob import glob

from popserv.texts import ENGLISH, Language, Text

_CATALOG = "popserv.mo"
_BUNDLED = os.path.join(os.path.dirname(__file__), "locale")

_NAME = Text("English")
"""Each catalog has its own language's name for itself in this one's place."""

DEFAULT = "i-default"
"""English for everybody, before a language is chosen (RFC 2277 section 4.5)."""


class Languages:
    """English, and what is found below a directory ``TAG/LC_MESSAGES/popserv.mo``.

    ``preferred`` is the language that ``LANG *`` chooses.
    """

    def __init__(self, directory: str = _BUNDLED, *, preferred: str = DEFAULT) -> None:
        self._languages: dict[str, Language] = {DEFAULT: ENGLISH, "en": ENGLISH}
        for path in sorted(glob(os.path.join(directory, "*", "LC_MESSAGES", _CATALOG))):
            with open(path, "rb") as file:
                catalog = gettext.GNUTranslations(file)
            tag = path.split(os.sep)[-3].replace("_", "-")
            self._languages[tag] = catalog
        self._preferred = DEFAULT
        found = self.match(preferred.encode("utf-8"))
        if found is None:
            raise ValueError(f"no language {preferred}; there are {', '.join(self._languages)}")
        self._preferred = found

    def __getitem__(self, tag: str) -> Language:
        return self._languages[tag]

    def listing(self) -> Iterable[tuple[str, str]]:
        """Return each tag and the language's name for itself."""
        return [(tag, _NAME.render(language)) for tag, language in self._languages.items()]

    def match(self, wanted: bytes) -> str | None:
        """Return the tag for a basic language range by RFC 4647's lookup, or None.

        Subtags are taken off its end until a tag is found (section 3.4).
        """
        language_range = wanted.decode("ascii", "replace").lower()
        if language_range == "*":
            return self._preferred
        known = {tag.lower(): tag for tag in self._languages}
        while language_range:
            if language_range in known:
                return known[language_range]
            language_range = language_range.rpartition("-")[0]
            if language_range[-2:-1] == "-":
                # A single letter or digit opens an extension, and falls with it.
                language_range = language_range[:-2]
        return None
