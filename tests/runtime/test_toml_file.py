"""Tests of popserv.runtime.toml_file."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.config_files import FileError
from popserv.runtime.toml_file import TOMLFile

KEYS = ("text", "texts", "flag", "number", "table")


class TOMLFileTests(SynchronousTestCase):
    """A configuration file in TOML."""

    def read(self, text, mode=0o600):
        """Return the file with this text."""
        self.path = Path(self.mktemp()).absolute()
        self.path.write_bytes(text)
        self.path.chmod(mode)
        return TOMLFile(str(self.path), KEYS)

    def error(self, function, *arguments):
        """Return the message of an error, after the path of the file, which it names."""
        message = str(self.assertRaises(FileError, function, *arguments))
        path = str(self.path)
        self.assertIn(path, message)
        return message.partition(path)[2] or message

    def test_values(self):
        """Each kind of value is returned, and a byte order mark is ignored."""
        file = self.read(
            b"\xef\xbb\xbftext = 'a'\ntexts = ['a', 'b']\nflag = true\nnumber = 7\n"
            b"[table]\nx = 'y'\n"
        )
        self.assertEqual((file.text("text"), file.texts("texts")), ("a", ["a", "b"]))
        self.assertEqual((file.flag("flag", False), file.number("number", 1, 7)), (True, 7))
        self.assertEqual((file.number("number", 1, 9, 7), file.number("number", 8, 9)), (7, 7))
        self.assertEqual(file.table("table"), {"x": "y"})
        self.assertIn("text", file)

    def test_defaults(self):
        """A missing key has its default, or is an error."""
        file = self.read(b"")
        self.assertEqual((file.text("text", "a"), file.texts("texts", ("a",))), ("a", ["a"]))
        self.assertEqual((file.flag("flag", True), file.number("number", 5, 9)), (True, 5))
        self.assertEqual(file.table("table"), {})
        self.assertNotIn("text", file)
        for function in (file.text, file.texts):
            self.assertEqual(self.error(function, "text"), ": text: is missing")

    def test_invalid_values(self):
        """A value of another kind, an empty one and a number that is too large are errors."""
        listed = 'must be a list of texts, such as ["a", "b"]'
        numbered = "must be a whole number from 1 to 9"
        for text, function, arguments, problem in (
            (b"text = 1", "text", (), "must be a text in quotation marks"),
            (b"text = ''", "text", (), "is empty; set a value or remove the key"),
            (b"texts = 'a'", "texts", (), "must be a list of texts"),
            (b"texts = []", "texts", (), listed),
            (b"texts = ['']", "texts", (), listed),
            (b"texts = [1]", "texts", (), listed),
            (b"flag = 1", "flag", (True,), "must be true or false"),
            (b"number = '1'", "number", (1, 9), numbered),
            (b"number = true", "number", (1, 9), numbered),
            (b"number = 0", "number", (1, 9), numbered),
            (b"number = 10", "number", (1, 9), numbered),
            (b"table = 1", "table", (), "must be a table [table]"),
        ):
            file = self.read(text)
            message = self.error(getattr(file, function), function, *arguments)
            self.assertEqual(message, f": {function}: {problem}")
        for value in (b"1", b"''"):
            file = self.read(b"[table]\nx = " + value)
            problem = ": table.x: must be a text in quotation marks"
            self.assertEqual(self.error(file.table, "table"), problem)

    def test_unusable(self):
        """A file that others can read, that is no TOML or that has unknown keys is an error."""
        for text, mode, problem in (
            (b"text = 'a'", 0o644, "is accessible to users other than its owner"),
            (b"text = \xff", 0o600, ": is not UTF-8"),
            (b"text = 'a'\ntext = 'b'", 0o600, ": is not TOML: "),
            (b"\n\ntext = = 1", 0o600, "line 3"),
            (b"txt = 1", 0o600, ": txt: unknown key; the keys are flag, number, table, text, "),
        ):
            self.assertIn(problem, self.error(self.read, text, mode))
        error = self.assertRaises(FileError, TOMLFile, "/nonexistent", KEYS)
        self.assertEqual(str(error), "cannot read /nonexistent: No such file or directory")
