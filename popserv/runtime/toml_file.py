"""Configuration files in TOML with secrets: only their owner and group may have access to them."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any, TypeVar

from popserv.runtime.config_files import FileError, check_private
from popserv.runtime.permissions import reason_of

# Python 3.10 has none; tomli is the same.
tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

T = TypeVar("T")


class TOMLFile:
    """The keys of a file, which are all known.

    :raises FileError: the file cannot be read, others can read it, it is not TOML, or a key is
        unknown; the message names the file and what is wrong with it.
    """

    def __init__(self, path: str, keys: Collection[str]) -> None:
        self.path = os.path.abspath(path)
        self._values = self._read()
        for key in self._values:
            if key not in keys:
                raise self.error(key, f"unknown key; the keys are {', '.join(sorted(keys))}")

    def _read(self) -> Mapping[str, Any]:
        try:
            with open(self.path, "rb") as file:
                check_private(self.path, os.fstat(file.fileno()).st_mode)
                values: Mapping[str, Any] = tomllib.loads(file.read().decode("utf-8-sig"))
                return values
        except OSError as error:
            raise FileError(f"cannot read {self.path}: {reason_of(error)}") from None
        except UnicodeDecodeError:
            raise FileError(f"{self.path}: is not UTF-8; save the file as UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            raise FileError(f"{self.path}: is not TOML: {error}") from None

    def error(self, key: str, problem: str) -> FileError:
        """Return an error that names the file and the key."""
        return FileError(f"{self.path}: {key}: {problem}")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        """Return a value that is a text; without a default it is required.

        :raises FileError: it is missing, empty or no text.
        """
        value = self._get(key, default, str, "a text in quotation marks")
        if not value:
            raise self.error(key, "is empty; set a value or remove the key")
        return value

    def texts(self, key: str, default: Collection[str] | None = None) -> list[str]:
        """Return a value that is a list of texts, not empty.

        :raises FileError: it is missing, empty, or no list of texts.
        """
        values: list[Any] = self._get(
            key, None if default is None else list(default), list, "a list of texts"
        )
        if not (values and all(isinstance(value, str) and value for value in values)):
            raise self.error(key, 'must be a list of texts, such as ["a", "b"]')
        return values

    def flag(self, key: str, default: bool) -> bool:
        """Return a value that is true or false.

        :raises FileError: it is neither.
        """
        return self._get(key, default, bool, "true or false")

    def number(self, key: str, default: int, maximum: int, minimum: int = 1) -> int:
        """Return a whole number from ``minimum`` to ``maximum``.

        :raises FileError: it is not one.
        """
        expected = f"a whole number from {minimum} to {maximum}"
        value = self._get(key, default, int, expected)
        if isinstance(value, bool) or not minimum <= value <= maximum:
            raise self.error(key, f"must be {expected}")
        return value

    def table(self, key: str) -> Mapping[str, str]:
        """Return a table of texts, empty if it is missing.

        :raises FileError: it is not one.
        """
        values: dict[str, Any] = self._get(key, {}, dict, f"a table [{key}]")
        for name, value in values.items():
            if not (isinstance(value, str) and value):
                raise self.error(f"{key}.{name}", "must be a text in quotation marks")
        return values

    def _get(self, key: str, default: T | None, kind: type[T], expected: str) -> T:
        value = self._values.get(key, default)
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, kind):
            raise self.error(key, f"must be {expected}")
        return value
