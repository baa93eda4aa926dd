"""``popserv config``: shows or checks the options with which a server would start."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Sequence

from twisted.python import usage

from popserv.commandline.logged_warnings import logged_warnings
from popserv.core.printable import one_line
from popserv.options.kinds import FLAG, NUMBER, REPEATABLE, Kind
from popserv.options.server import Options
from popserv.wiring.factories import warn_about_short_timeout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command, and the function that runs it."""
    parser.add_argument(
        "action",
        choices=("show", "check"),
        help="show: print each option with its value and where that comes from; check: print "
        "what is wrong with the options, and nothing else",
    )
    parser.add_argument(
        "options",
        metavar="OPTION",
        nargs=argparse.REMAINDER,
        help="the options of twistd pop3, such as --config FILE",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Parse the options as the server does; return the exit code.

    :raises ValueError: an option is invalid.
    """
    options = Options()
    with logged_warnings() as problems:
        try:
            options.parseOptions(arguments.options)
        except usage.UsageError as error:
            raise ValueError(one_line(str(error))) from error
        warn_about_short_timeout(options)
    lines = problems if arguments.action == "check" else list(shown(options))
    for line in lines:
        print(line)
    return 1 if problems and arguments.action == "check" else 0


def shown(options: Options) -> Iterator[str]:
    """Yield a line for each option: itself a line of a configuration file with these options.

    A comment says where the value comes from; an option without a value is a comment as a whole.
    """
    given = options.given_values()
    for name, kind in options.config_kinds().items():
        if name in given:
            # The last one counts, as on the command line.
            values = given[name] if kind is REPEATABLE else given[name][-1:]
            yield f"{name} = {_written(kind, values)}  # {options.origins[name]}"
            continue
        values = list(_default(options, name, kind))
        if values:
            yield f"{name} = {_written(kind, values)}  # default"
        else:
            yield f"# {name} is not set"


def _default(options: Options, name: str, kind: Kind) -> Iterable[str]:
    if name == "auth":
        return [":".join(options.default_auth())] if options.allows_login() else []
    if kind is REPEATABLE:
        return map(str, options[name])
    value = options.initial_values[name]
    return [] if value in (None, "") else [str(value)]


def _written(kind: Kind, values: Sequence[str]) -> str:
    if kind is FLAG:
        return "false" if values == ["0"] else "true"
    if kind is REPEATABLE:
        return f"[{', '.join(map(_quoted, values))}]"
    (value,) = values
    # TOML has no numbers such as 007.
    is_plain = kind is NUMBER and re.fullmatch("0|[1-9][0-9]*", value)
    return value if is_plain else _quoted(value)


def _quoted(text: str) -> str:
    # A string of JSON is one of TOML, except for DEL, which TOML escapes.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
