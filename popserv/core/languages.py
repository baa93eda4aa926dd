"""The languages of replies (RFC 6856 section 3): gettext catalogs, by language tag."""

from __future__ import annotations

import gettext
import os
from collections.abc import Iterable
from glob import glob

from popserv.texts import ENGLISH, Language, Text

_CATALOG = "popserv.mo"
_DIRECTORY = os.path.join(os.path.dirname(__file__), "locale")

_LANGUAGE_NAME = Text("English")
"""The name of the language in that language: each catalog translates "English" to its own."""

DEFAULT_LANGUAGE = "i-default"
"""English, for sessions that have not chosen a language (RFC 2277 section 4.5)."""


class Languages:
    """English, and the languages of the catalogs below a directory.

    A catalog is a file ``TAG/LC_MESSAGES/popserv.mo``.  ``preferred`` is the language for the
    command ``LANG *``.

    :raises ValueError: there is no catalog for the preferred language.
    """

    def __init__(self, directory: str = _DIRECTORY, *, preferred: str = DEFAULT_LANGUAGE) -> None:
        self._languages: dict[str, Language] = {DEFAULT_LANGUAGE: ENGLISH, "en": ENGLISH}
        for path in sorted(glob(os.path.join(directory, "*", "LC_MESSAGES", _CATALOG))):
            with open(path, "rb") as file:
                catalog = gettext.GNUTranslations(file)
            tag = path.split(os.sep)[-3].replace("_", "-")
            self._languages[tag] = catalog
        self._preferred = DEFAULT_LANGUAGE
        found = self.match(preferred.encode("utf-8"))
        if found is None:
            raise ValueError(
                f"unknown language {preferred}; use one of {', '.join(self._languages)}"
            )
        self._preferred = found

    def __getitem__(self, tag: str) -> Language:
        return self._languages[tag]

    def listing(self) -> Iterable[tuple[str, str]]:
        """Return each tag, and the name of the language in that language."""
        return [(tag, _LANGUAGE_NAME.render(language)) for tag, language in self._languages.items()]

    def match(self, language_range: bytes) -> str | None:
        """Return the tag that matches a basic language range, or None (RFC 4647 section 3.4).

        Subtags are removed from the end of the range until it is the tag of a language.
        """
        subtags = language_range.decode("ascii", "replace").lower()
        if subtags == "*":
            return self._preferred
        tags = {tag.lower(): tag for tag in self._languages}
        while subtags:
            if subtags in tags:
                return tags[subtags]
            # RFC 4647 also removes a single letter or digit before the next look-up, which would
            # find nothing: no tag ends with one.
            subtags = subtags.rpartition("-")[0]
        return None
