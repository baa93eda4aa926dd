"""``--config``: a file of options, before which those of the command line take precedence."""

from __future__ import annotations

import getopt
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from twisted.python import usage

from popserv.options.config_file import ConfigError, ConfigFile
from popserv.options.kinds import Kind, option_kinds
from popserv.options.table import SHORT_STORE_OPTIONS

COMMAND_LINE = "the command line"

_STORE_OPTIONS = frozenset(("store", *SHORT_STORE_OPTIONS))


class ConfigOptions(usage.Options):
    """Options that a file can contain."""

    initial_values: Mapping[str, Any]
    """The defaults of all options that can be given once."""
    arguments: Sequence[str] = ()
    """The arguments that were parsed, with those of the file instead of ``--config``."""
    config: ConfigFile | None = None
    """The file of ``--config``."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[str, str] = {}
        """Where each option that is given comes from: COMMAND_LINE, or the line of the file."""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the arguments, and those of the file of ``--config``.

        :raises UsageError: an option, or the file, is invalid.
        """
        self.arguments = list(sys.argv[1:] if options is None else options)
        try:
            path = self._read_config()
        except ConfigError as error:
            raise usage.UsageError(str(error)) from error
        try:
            super().parseOptions(self.arguments)
        except usage.UsageError as error:
            raise usage.UsageError(self._place_of(str(error)) + str(error)) from error
        self["config"] = path

    def given_values(self) -> dict[str, list[str]]:
        """Return the values of all options that are given, by name; those of flags are empty."""
        values: dict[str, list[str]] = {}
        for name, value in self._named(self.arguments)[0]:
            values.setdefault(name, []).append(value)
        return values

    def config_kinds(self) -> Mapping[str, Kind]:
        """Return the kinds of the options that the file can contain."""
        return option_kinds(self)

    def uses_from_config(self, name: str, given: Collection[str]) -> bool:
        """Return whether an option of the file is used; ``given`` are those of the command line."""
        return True

    def _read_config(self) -> str | None:
        """Read the file, and put its options before the others; return its path."""
        if self.arguments[-2:-1] == ["--_shell-completion"]:
            return None
        try:
            named, rest = self._named(self.arguments)
        except getopt.error:
            return None  # Twisted reports it.
        given = {name for name, _ in named}
        self.origins.update(dict.fromkeys(given, COMMAND_LINE))
        if "config" not in given:
            return None
        path = [value for name, value in named if name == "config"][-1]
        self.config = ConfigFile(path, self.config_kinds())
        if not given.isdisjoint(_STORE_OPTIONS):
            given |= _STORE_OPTIONS
        arguments = []
        for entry in self.config.entries:
            if entry.name not in given and self.uses_from_config(entry.name, given):
                self.origins[entry.name] = entry.place
                arguments += entry.arguments
        for name, value in named:
            if name != "config":
                arguments.append(f"--{name}={value}" if f"{name}=" in self.longOpt else f"--{name}")
        self.arguments = [*arguments, *rest]
        return path

    def _named(self, arguments: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
        """Return the long name and the value of each option, and what is no option.

        :raises getopt.error: the arguments are invalid.
        """
        options, rest = getopt.getopt(arguments, self.shortOpt, self.longOpt)
        return [(self.synonyms[option.lstrip("-")], value) for option, value in options], list(rest)

    def _place_of(self, message: str) -> str:
        """Return the line of the file with the option that an error message names first."""
        found = re.search(r"--([a-z0-9-]+)", message)
        place = self.origins.get(found[1], COMMAND_LINE) if found else COMMAND_LINE
        return "" if place == COMMAND_LINE else f"{place}: "
