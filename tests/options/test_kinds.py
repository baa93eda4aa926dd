"""Tests of popserv.options.kinds."""

import re

from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline.session import Options as SessionCommandOptions
from popserv.options.kinds import FLAG, NUMBER, REPEATABLE, TEXT, option_kinds
from popserv.options.server import Options


class KindTests(SynchronousTestCase):
    """The kinds of the options."""

    def test_all(self):
        """Every option that does more than print something has a kind, but for --config."""
        for options in (Options(), SessionCommandOptions()):
            names = {name.rstrip("=") for name in options.longOpt}
            printing = {name for name in names if name.startswith(("help", "version"))}
            self.assertEqual(set(option_kinds(options)), names - printing - {"config"})

    def test_kinds(self):
        """Flags, text, numbers, and what can be given more than once are told apart."""
        kinds = option_kinds(Options())
        self.assertIs(kinds["utf8"], FLAG)
        self.assertIs(kinds["maildir"], TEXT)
        self.assertIs(kinds["timeout"], NUMBER)
        self.assertIs(kinds["listen"], REPEATABLE)

    def test_numbers(self):
        """The numbers are the options whose help text begins so."""
        options = Options()
        for name, kind in option_kinds(options).items():
            is_number = re.match(r"The ((max|min)imum )?number of", options.docs[name])
            self.assertEqual(kind is NUMBER, is_number is not None, name)

    def test_repeatable(self):
        """What can be given more than once says so."""
        options = Options()
        for name, kind in option_kinds(options).items():
            self.assertEqual(kind is REPEATABLE, "more than" in options.docs[name], name)


class ArgumentsTests(SynchronousTestCase):
    """The arguments that a value stands for."""

    def test_arguments(self):
        """A value becomes one argument, an array one for each, and false none."""
        for kind, value, arguments in (
            (FLAG, True, ["--x"]),
            (FLAG, False, []),
            (TEXT, "", ["--x="]),
            (TEXT, "--y", ["--x=--y"]),
            (NUMBER, 600, ["--x=600"]),
            (NUMBER, 0.5, ["--x=0.5"]),
            (NUMBER, "auto", ["--x=auto"]),
            (REPEATABLE, "a", ["--x=a"]),
            (REPEATABLE, ["a", "b"], ["--x=a", "--x=b"]),
        ):
            self.assertEqual(kind.arguments("x", value), arguments)

    def test_wrong(self):
        """A value of another type is refused, and so is NUL, which no argument can contain."""
        for kind, value, message in (
            (FLAG, 1, "x must be true or false"),
            (FLAG, "true", "x must be true or false"),
            (FLAG, [True], "x must be true or false"),
            (TEXT, 1, "x must be a string"),
            (TEXT, True, "x must be a string"),
            (TEXT, ["a"], "x must be a string"),
            (NUMBER, True, "x must be a number"),
            (NUMBER, [1], "x must be a number"),
            (REPEATABLE, 1, "x must be a string, or an array of strings"),
            (REPEATABLE, [1], "x must be a string, or an array of strings"),
            (REPEATABLE, ["a", True], "x must be a string, or an array of strings"),
            (REPEATABLE, [], "x is an empty array; write values, or remove the line"),
            (TEXT, "a\0b", "x must not contain NUL"),
            (REPEATABLE, ["a", "\0"], "x must not contain NUL"),
        ):
            error = self.assertRaises(ValueError, kind.arguments, "x", value)
            self.assertEqual(str(error), message)
