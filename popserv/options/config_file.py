"""The file of ``--config``: TOML whose keys are the options of ``twistd pop3``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple

from twisted.logger import Logger
from zope.interface import implementer

from popserv.interfaces import IReloadable
from popserv.options.kinds import Kind
from popserv.runtime.extras import how_to_install
from popserv.runtime.permissions import describe

_log = Logger()

MAX_OCTETS = 1 << 18
"""The maximum length of the file."""


class Entry(NamedTuple):
    """A key of the file, where it is, and the arguments that it stands for."""

    name: str
    place: str
    arguments: list[str]


class ConfigError(ValueError):
    """The file cannot be used; the message names the file, the line and the remedy."""


@implementer(IReloadable)
class ConfigFile:
    """The configuration file of a process, as it was at the start.

    :param path: the file.
    :param kinds: the kinds of the options that are its keys.
    :raises ConfigError: it cannot be read, or has a mistake.
    """

    def __init__(self, path: str, kinds: Mapping[str, Kind]) -> None:
        self.path = os.path.abspath(path)
        try:
            with open(self.path, "rb") as file:
                self._stamp = _stamp(os.fstat(file.fileno()))
                octets = file.read(MAX_OCTETS + 1)
            if len(octets) > MAX_OCTETS:
                raise ConfigError(
                    f"--config: {self.path} has more than {MAX_OCTETS} octets; name a file of "
                    "options"
                )
            text = octets.decode("utf-8-sig")
            self.entries = list(self._entries(text, kinds))
        except OSError as error:
            raise ConfigError(f"--config: {describe(error)}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.path}: it is not UTF-8: {error}") from error

    def reload(self) -> None:
        """Log that a changed file needs a restart; see :class:`popserv.interfaces.IReloadable`."""
        # The user of --uid need not be able to find it, and --chroot may hide it.
        with suppress(OSError):
            if _stamp(os.stat(self.path)) != self._stamp:
                _log.warn(
                    "{path} has changed; restart the server to use its options", path=self.path
                )

    def _entries(self, text: str, kinds: Mapping[str, Kind]) -> Iterator[Entry]:
        for name, line, value in self._statements(text):
            place = f"{self.path}, line {line}"
            if isinstance(value, dict):
                raise ConfigError(f"{place}: {name} is a table; write the options without tables")
            if name not in kinds:
                raise ConfigError(f"{place}: {name} is not an option of twistd pop3")
            try:
                yield Entry(name, place, kinds[name].arguments(name, value))
            except ValueError as error:
                raise ConfigError(f"{place}: {error}") from error

    def _statements(self, text: str) -> Iterator[tuple[str, int, Any]]:
        """Yield the name, the number of the first line, and the value of each key.

        :raises ConfigError: it is not TOML.
        """
        toml = _toml()
        try:
            toml.loads(f"{text}\n")
        except (ValueError, RecursionError) as error:
            # Besides what is no TOML, it may be a number of very many digits, or deeply nested.
            raise ConfigError(f"{self.path}: {error}") from error
        # The parser does not tell the lines of keys: a statement is the fewest lines that it
        # accepts.
        start, statement = 1, ""
        for number, line in enumerate(text.split("\n"), 1):
            statement += f"{line}\n"
            try:
                found = toml.loads(statement)
            except toml.TOMLDecodeError:
                continue
            for name, value in found.items():
                yield name, start, value
            start, statement = number + 1, ""


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _toml() -> Any:
    """Return the module that parses TOML.

    :raises ConfigError: it is not installed.
    """
    try:
        return import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError as error:
        raise ConfigError(f"--config: {error}; run: {how_to_install('config')}") from error
