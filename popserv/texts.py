"""Translatable texts of replies (RFC 6856 section 3).

A text is English, with placeholders.  When it is sent, it is translated first, and then its
arguments replace the placeholders.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from gettext import NullTranslations
from typing import Protocol


class Language(Hashable, Protocol):
    """A catalog of translations, with the interface of :mod:`gettext`."""

    def gettext(self, message: str, /) -> str:
        """Return the translation of a text, or the text itself if there is none."""

    def ngettext(self, singular: str, plural: str, n: int, /) -> str:
        """Return the translation of a text in the plural form for the number ``n``."""


ENGLISH: Language = NullTranslations()
"""The texts as written in the code: the language i-default (RFC 2277 section 4.5)."""


@lru_cache(1000)
def _translated(language: Language, english: str) -> bytes:
    return language.gettext(english).encode("utf-8")


class Text:
    """A text with its arguments: ``Text("message %d deleted", 3)``.

    An argument is a number, a str, or a Text itself.
    """

    __slots__ = ("_arguments", "_english")

    def __init__(self, english: str, *arguments: int | str | Text) -> None:
        self._english = english
        self._arguments = arguments

    def encoded(self, language: Language = ENGLISH) -> bytes:
        """Return the text in a language, in UTF-8."""
        template = self._template(language)
        arguments = self._arguments
        for argument in arguments:
            if type(argument) is not int:
                break
        else:
            return template % arguments
        return template % tuple(
            [
                argument
                if isinstance(argument, int)
                else argument.encoded(language)
                if isinstance(argument, Text)
                else argument.encode("utf-8")
                for argument in arguments
            ]
        )

    def filled(self, language: Language, *numbers: int) -> bytes:
        """Return the text, which has no arguments, with numbers in its placeholders.

        Equals ``Text(english, *numbers).encoded(language)``, for the replies of which there are
        most.
        """
        return _translated(language, self._english) % numbers

    def render(self, language: Language = ENGLISH) -> str:
        """Return the text in a language."""
        return self.encoded(language).decode("utf-8")

    def _template(self, language: Language) -> bytes:
        return _translated(language, self._english)

    def __str__(self) -> str:
        return self.render()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))


class Counted(Text):
    """A text with a singular and a plural form: ``Counted("%d message", "%d messages", 3)``."""

    __slots__ = ("_n", "_plural")

    def __init__(self, singular: str, plural: str, n: int) -> None:
        super().__init__(singular, n)
        self._plural = plural
        self._n = n

    def _template(self, language: Language) -> bytes:
        return language.ngettext(self._english, self._plural, self._n).encode("utf-8")
