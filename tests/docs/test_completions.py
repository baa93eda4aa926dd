"""The files in the directory completions have every command and every option."""

import os
import re
import runpy
import shutil
import subprocess

from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from popserv.commandline import parsing as command
from popserv.commandline import session
from popserv.commandline.doctor_options import DoctorOptions
from popserv.options.server import Options
from tests.docs.harness import ROOT
from tests.docs.test_man import options_of, parsers

COMPLETIONS = ROOT / "completions"


def expected():
    """Return the words of each command with its long options."""
    server = options_of(Options())
    found = {
        words: {name for action in parser._actions for name in action.option_strings}
        for words, parser in parsers(command.parser(), "popserv")
    }
    found["popserv session"] = options_of(session.Options())
    found["popserv doctor"] = options_of(DoctorOptions())
    for word in ("show", "check"):
        found[f"popserv config {word}"] = server
    found |= {"twistd": options_of(ServerOptions()), "twistd pop3": server}
    return {
        words: {name for name in names if name.startswith("--")} for words, names in found.items()
    }


class CompletionsTests(SynchronousTestCase):
    """What the files complete is what the programs have."""

    def test_made(self):
        """The files are those that make completions writes now."""
        files = runpy.run_path(str(COMPLETIONS / "generate.py"))["files"]()
        present = {
            str(path.relative_to(COMPLETIONS)): path.read_text("utf-8")
            for path in COMPLETIONS.glob("*/*")
            if path.suffix != ".pyc"
        }
        self.assertEqual(set(files), set(present))
        for name, text in files.items():
            self.assertTrue(text == present[name], f"{name} is out of date: run make completions")

    def test_bash(self):
        """Bash has each command and each of its long options, and no other."""
        if shutil.which("bash") is None:
            (self.fail if "CI" in os.environ else self.skipTest)("bash is not installed")
        for words, options in expected().items():
            name = words.split()[0]
            shown = self.bash(name, f'_{name}_contents "{words}"; echo $options')
            self.assertEqual(set(shown.split()), options, words)
        shown = self.bash("popserv", "_popserv_contents popserv; echo $commands")
        commands = {words.split()[1] for words in expected() if words.startswith("popserv ")}
        self.assertEqual(set(shown.split()), commands)

    def bash(self, name, script):
        """Run a script that knows the functions of a file; return its output."""
        code = f". {COMPLETIONS}/bash/{name}; {script}"
        return subprocess.run(
            ["bash", "--norc", "-c", code], capture_output=True, check=True, text=True
        ).stdout

    def test_zsh(self):
        """Zsh has each command of popserv and each of its long options, and no other."""
        text = (COMPLETIONS / "zsh/_popserv").read_text("utf-8")
        functions = dict(re.findall(r"^_(\S+)\(\) {\n(.*?)^}", text, re.MULTILINE | re.DOTALL))
        there = {words: names for words, names in expected().items() if words[:7] == "popserv"}
        self.assertEqual(set(functions), {words.replace(" ", "_") for words in there})
        for words, options in there.items():
            body = functions[words.replace(" ", "_")]
            shown = set(re.findall(r"^        '[*(][^']*?(--[a-z0-9-]+)=?\[", body, re.MULTILINE))
            self.assertEqual(shown, options, words)
            for child in (other for other in there if other.rpartition(" ")[0] == words):
                self.assertIn(f"'{child.rpartition(' ')[2]}", body)
