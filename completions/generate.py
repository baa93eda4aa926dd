"""Writes the completions for bash and zsh, from the options themselves: ``make completions``.

They are files and not programs that the shell calls, because starting Python and Twisted for each
tab takes too long.  zsh itself has a completion of twistd, which asks twistd.
"""

import argparse
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from twisted.python import usage
from twisted.python._shellcomp import ZshArgumentsGenerator
from twisted.scripts.twistd import ServerOptions

from popserv.commandline import parsing, session
from popserv.commandline.doctor_options import DoctorOptions
from popserv.options.completions import STORES, CompletePrefixed
from popserv.options.server import Options

DIRECTORY = Path(__file__).parent
_TEXT = usage.Completer()
_STORE = CompletePrefixed(STORES, "store")
_BY_METAVAR = {
    "FILE": usage.CompleteFiles(),
    "PATH": usage.CompleteDirs(),
    "SRC": _STORE,
    "DST": _STORE,
    "STORE": _STORE,
}
"""What follows the options and arguments of argparse that these words stand for."""


class Option(NamedTuple):
    """An option; ``value`` completes its value, and is None if it has none."""

    names: tuple[str, ...]
    help: str
    value: usage.Completer | None
    is_repeatable: bool


class Argument(NamedTuple):
    """A positional argument."""

    name: str
    value: usage.Completer
    is_repeatable: bool


class Command(NamedTuple):
    """A command or a subcommand, and what can follow it."""

    name: str
    help: str
    options: list[Option]
    arguments: list[Argument]
    commands: list["Command"]


def popserv() -> Command:
    """Return the ``popserv`` command."""
    found = _of_argparse("popserv", "", parsing.parser())
    parsed = {"session": session.Options(), "doctor": DoctorOptions()}
    commands = [
        each._replace(options=_of_usage(each.name, "", parsed[each.name]).options)
        if each.name in parsed
        else each
        for each in found.commands
    ]
    return found._replace(commands=commands)


def twistd() -> Command:
    """Return ``twistd`` with the command ``pop3``."""
    found = _of_usage("twistd", "", ServerOptions())
    return found._replace(commands=[_of_usage("pop3", "serve maildrops by POP3", Options())])


def _of_usage(name: str, help_text: str, options: usage.Options) -> Command:
    """Return the command whose options Twisted parses."""
    found = ZshArgumentsGenerator(options, name, io.BytesIO())
    listed = []
    for long, (letter, *_) in found.allOptionsNameToDefinition.items():
        value = None
        if long in found.paramNameToDefinition:
            value = found.optActions.get(long, usage.CompleteFiles())
            value = value() if callable(value) else value
        names = (f"--{long}", f"-{letter}") if letter else (f"--{long}",)
        text = options.docs.get(long) or found.getDescription(long)
        listed.append(Option(names, _summary(text), value, long in found.multiUse))
    return Command(name, help_text, sorted(listed), [], [])


def _of_argparse(name: str, help_text: str, parser: argparse.ArgumentParser) -> Command:
    """Return the command that argparse parses."""
    command = Command(name, _summary(help_text), [], [], [])
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {each.dest: each.help or "" for each in action._choices_actions}
            command.commands.extend(
                _of_argparse(child, texts[child], parsed)
                for child, parsed in action.choices.items()
            )
        elif action.nargs == argparse.REMAINDER:
            # These are the options of the server, and come after the words before.
            server = _of_usage("", "", Options())
            if command.arguments:
                words = command.arguments.pop().value._items
                command.commands.extend(server._replace(name=word) for word in words)
            else:
                command.options.extend(server.options)
        elif action.option_strings:
            value = None if action.nargs == 0 else _value(action)
            is_repeatable = isinstance(action, argparse._AppendAction)
            names = tuple(sorted(action.option_strings, key=len, reverse=True))
            command.options.append(Option(names, _summary(action.help), value, is_repeatable))
        else:
            name = (action.metavar or action.dest).lower()
            command.arguments.append(Argument(name, _value(action), action.nargs in ("*", "+")))
    command.options.sort()
    return command


def _value(action: argparse.Action) -> usage.Completer:
    if action.choices is not None:
        return usage.CompleteList(list(action.choices))
    return _BY_METAVAR.get(action.metavar, _TEXT)


def _summary(text: str) -> str:
    """Return the first sentence of a help text."""
    first = re.split(r"(?<=\.) |; ", text, maxsplit=1)[0]
    return first.rstrip(".")


def bash(command: Command) -> str:
    """Return the completion file of a command for bash; it needs the package bash-completion."""
    contents, values = [], []
    for path, each in _all_commands(command):
        names = [name for option in each.options for name in option.names if name[1] == "-"]
        words = [child.name for child in each.commands]
        contents.append(f"{_quoted(path)}) commands={_quoted(words)} options={_quoted(names)} ;;")
        for option in each.options:
            if option.value is not None:
                patterns = " | ".join(_quoted(f"{path} {name}") for name in option.names)
                values.append(f"{patterns}) {_bash_value(option.value)} ;;")
        for number, argument in enumerate(each.arguments, 1):
            values.append(f"{_quoted(f'{path} {number}')}) {_bash_value(argument.value)} ;;")
    template = (DIRECTORY / "template.bash").read_text("utf-8")
    replaced = {"CONTENTS": contents, "VALUES": values}
    for word, lines in replaced.items():
        template = template.replace(f"    # {word}\n", "".join(f"    {line}\n" for line in lines))
    return template.replace("NAME", command.name)


def _bash_value(completer: usage.Completer) -> str:
    if isinstance(completer, CompletePrefixed):
        return f"kind=prefixed values={_quoted(completer.words)}"
    if isinstance(completer, usage.CompleteList | usage.CompleteMultiList):
        kind = "words" if isinstance(completer, usage.CompleteList) else "list"
        values = [item.replace("\\", "") for item in completer._items]
        return f"kind={kind} values={_quoted(values)}"
    return f"kind={_BASH_KINDS[type(completer)]}"


_BASH_KINDS = {
    usage.Completer: "text",
    usage.CompleteFiles: "files",
    usage.CompleteDirs: "directories",
    usage.CompleteUsernames: "users",
    usage.CompleteGroups: "groups",
}


def zsh(command: Command) -> str:
    """Return the completion file of a command for zsh."""
    lines = [f"#compdef {command.name}", "# Made by make completions from the options."]
    for path, each in _all_commands(command):
        function = "_" + path.replace(" ", "_")
        specs = [_quoted(spec) for option in each.options for spec in _zsh_specs(option)]
        for number, argument in enumerate(each.arguments, 1):
            place = "*" if argument.is_repeatable else number
            specs.append(_quoted(f"{place}{argument.value._shellCode(argument.name, usage._ZSH)}"))
        lines += ["", f"{function}() {{"]
        if not each.commands:
            lines += [_joined("_arguments", specs), "}"]
            continue
        specs += ["'1:command:->command'", "'*::argument:->rest'"]
        described = [_quoted(f"{child.name}:{child.help}".rstrip(":")) for child in each.commands]
        lines += [
            "    local curcontext=$curcontext state line ret=1",
            "    typeset -A opt_args",
            _joined("_arguments -C -A '-*'", specs) + " && ret=0",
            "    case $state in",
            "    command)",
            "        local -a commands",
            "        commands=(",
            *(f"            {text}" for text in described),
            "        )",
            "        _describe command commands && ret=0",
            "        ;;",
            f"    rest) _call_function ret {function}_$line[1] ;;",
            "    esac",
            "    return ret",
            "}",
        ]
    return "\n".join([*lines, "", f'_{command.name} "$@"', ""])


def _joined(command: str, specs: list[str]) -> str:
    return " \\\n        ".join([f"    {command}", *specs])


def _zsh_specs(option: Option) -> Iterator[str]:
    """Yield the specification of each name of an option, for _arguments of zsh."""
    text = re.sub(r"([\[\]])", r"\\\1", option.help)
    others = "*" if option.is_repeatable else f"({' '.join(option.names)})"
    value = ""
    if option.value is not None:
        value = option.value._shellCode(option.names[0].lstrip("-"), usage._ZSH)
    for name in option.names:
        equals = "=" if value and name.startswith("--") else ""
        yield f"{others}{name}{equals}[{text}]{value}"


def _all_commands(command: Command, before: str = "") -> Iterator[tuple[str, Command]]:
    """Yield the words and the contents of a command, and of all below it."""
    path = f"{before} {command.name}".lstrip()
    yield path, command
    for child in command.commands:
        yield from _all_commands(child, path)


def _quoted(text: str | Sequence[str]) -> str:
    """Return a text, or words, as one word of a shell in single quotation marks."""
    joined = text if isinstance(text, str) else " ".join(text)
    return "'" + joined.replace("'", "'\\''") + "'"


def files() -> dict[str, str]:
    """Return the contents of the completion files, by their names in this directory."""
    return {
        "bash/popserv": bash(popserv()),
        "bash/twistd": bash(twistd()),
        "zsh/_popserv": zsh(popserv()),
    }


if __name__ == "__main__":
    for name, text in files().items():
        path = DIRECTORY / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
