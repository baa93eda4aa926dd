"""What kind of value each option takes, found out from the options themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

from popserv.options.table import INHERITED_HELP, NUMBERS


class Kind(NamedTuple):
    """The values that a key of a configuration file can have.

    ``types`` are the types of a value, and ``expected`` describes them.
    """

    types: tuple[type, ...]
    expected: str
    is_repeatable: bool = False

    def arguments(self, name: str, value: Any) -> list[str]:
        """Return the arguments that a key and its value stand for.

        :raises ValueError: the value has another type.
        """
        values = value if self.is_repeatable and isinstance(value, list) else [value]
        # In Python, booleans are numbers as well.
        if not all(isinstance(each, self.types) for each in values) or (
            isinstance(value, bool) and self is not FLAG
        ):
            raise ValueError(f"{name} must be {self.expected}")
        if not values:
            # It does not mean "none": without the option, there may be a default.
            raise ValueError(f"{name} is an empty array; write values, or remove the line")
        if self is FLAG:
            return [f"--{name}"] if value else []
        if any("\0" in str(each) for each in values):
            raise ValueError(f"{name} must not contain NUL")
        return [f"--{name}={each}" for each in values]


FLAG = Kind((bool,), "true or false")
TEXT = Kind((str,), "a string")
NUMBER = Kind((str, int, float), "a number")
REPEATABLE = Kind((str,), "a string, or an array of strings", is_repeatable=True)


def option_kinds(options: Any) -> dict[str, Kind]:
    """Return the kind of each option by its long name, in the order of the help text.

    Options that only print something, and ``--config`` itself, are left out.

    :param options: an instance of :class:`popserv.options.session.SessionOptions`.
    """
    kinds = {}
    for form in options.longOpt:
        name = form.rstrip("=")
        if name in options.initial_values:
            kinds[name] = FLAG if form == name else NUMBER if name in NUMBERS else TEXT
        elif form != name and name not in INHERITED_HELP:
            kinds[name] = REPEATABLE
    del kinds["config"]
    return kinds
