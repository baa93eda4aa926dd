"""The command, with a module of which each mutant is found, and with too few tests for it."""

import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from cosmic_ray.exceptions import CosmicRayTestingException
from twisted.trial.unittest import SynchronousTestCase

from tests.mutation import mutants
from tests.mutation.__main__ import main
from tests.mutation.covering import tests_of
from tests.mutation.mutants import CHECKOUT, changed_lines, changed_modules, mutants_of
from tests.mutation.results import read_equivalents
from tests.mutation.running import in_child, name_of

MODULE = "popserv/core/user_folder.py"
ALL_TESTS = "tests.core.test_user_folder"
OTHER_TESTS = "tests.core.test_findings"


class CommandTests(SynchronousTestCase):
    """``make mutation``, with results in a directory of the test."""

    def setUp(self):
        """Create the directory."""
        self.directory = os.path.abspath(self.mktemp())

    def run_command(self, *arguments):
        """Run the command; return its exit code and its output."""
        command = (sys.executable, *"-bb -W error -m tests.mutation --module".split(), MODULE)
        command += ("--directory", self.directory, *arguments)
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    def test_found(self):
        """Each mutant is found, and is not run again while nothing changes."""
        for is_run in (True, False):
            code, output = self.run_command("--tests", ALL_TESTS)
            self.assertEqual(code, 0, output)
            self.assertRegex(output, r"\n9 of 9 are found: 100.0 %\n\Z")
            self.assertEqual("without a mutant" in output, is_run)

    def test_survivors(self):
        """With tests of something else each mutant survives, and is printed with its line."""
        code, output = self.run_command("--tests", OTHER_TESTS)
        self.assertEqual(code, 1, output)
        self.assertIn(f"{MODULE}:26 UserFolder.__new__\n  - return self\n  + return None\n", output)
        self.assertRegex(output, r"\n0 of 9 are found: 0.0 %\n\Z")
        code, output = self.run_command("--tests", ALL_TESTS, "--survivors")
        self.assertEqual(code, 0, output)

    def test_nothing(self):
        """A module without code has no mutants."""
        with redirect_stdout(StringIO()) as output:
            code = main(["--module", "popserv/maildrops/owners/__init__.py"])
        self.assertEqual((code, output.getvalue()), (0, "these lines have no mutants\n"))


class ChildTests(SynchronousTestCase):
    """A process for a part of the command."""

    def test_signal(self):
        """A signal that ends it is told."""
        with redirect_stderr(StringIO()) as output:
            self.assertFalse(in_child(lambda: os.kill(os.getpid(), signal.SIGKILL)))
        self.assertEqual(output.getvalue(), "ended by SIGKILL\n")


class CoveringTests(SynchronousTestCase):
    """The run of tests without a mutant."""

    def test_exit(self):
        """What tests start for the time of their process is stopped at its end."""
        script = (
            "import atexit\n"
            "from tests.mutation.running import in_child\n"
            "atexit.register(print, 'stopped', flush=True)\n"
            f"in_child(measure, [{ALL_TESTS!r}], 'popserv/core', directory)\n"
            "print('ended')"
        )
        self.assertEqual(self.run_script(script)[-3:], ["stopped", "ended", "stopped"])

    def test_late_import(self):
        """A line that runs when a test imports its module is tried with all tests."""
        script = (
            "from tests.mutation.covering import CHECKOUT, Covering\n"
            "path = 'popserv/maildrops/mbox/kind.py'\n"
            "head, _, _ = (CHECKOUT / path).read_text().partition('Format()')\n"
            "line = head.count('\\n') + 1\n"
            "measure(['tests.maildrops.mbox.test_kind'], 'popserv/maildrops/mbox', directory)\n"
            "covering = Covering(directory)\n"
            "print(len(covering.tests(path, [line])), len(covering.seconds))\n"
        )
        tried, tests = self.run_script(script)[-2:]
        self.assertEqual(tried, tests)

    def run_script(self, script):
        """Run a script with a directory, and return the words of its output."""
        head = (
            "import sys\n"
            "from pathlib import Path\n"
            "from tests.mutation.covering import measure\n"
            "directory = Path(sys.argv[1])\n"
        )
        command = (sys.executable, "-bb", "-W", "error", "-c", head + script)
        command += (os.path.abspath(self.mktemp()),)
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
        return done.stdout.split()


class JudgeTests(SynchronousTestCase):
    """What becomes of a process with a mutant."""

    def judge(self, code):
        """Return the outcome of a module whose text is replaced with code."""
        script = (
            "from tests.mutation import running\n"
            "from tests.mutation.mutants import Change, Mutant\n"
            "running.PATIENCE = 1\n"
            f"mutant = Mutant(Change({MODULE!r}, '', '', ''), range(1, 2), {code!r})\n"
            f"print(*running.judge(mutant, {name_of(MODULE)!r}, [{ALL_TESTS!r}], 0))\n"
        )
        command = (sys.executable, "-bb", "-W", "error", "-c", script)
        return subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True).stdout

    def test_same(self):
        """The module itself survives."""
        self.assertEqual(self.judge((CHECKOUT / MODULE).read_text("utf-8")), b"survived \n")

    def test_failure(self):
        """The first test that fails is told."""
        test = f"{ALL_TESTS}.UserFolderTests.test_distinct"
        module = "UserFolder, avatar_id_of = bytes, None"
        self.assertEqual(self.judge(module), f"killed {test}\n".encode())

    def test_import(self):
        """A module that cannot be imported is found."""
        self.assertRegex(self.judge("1 / 0"), rb"\Akilled")

    def test_temporary(self):
        """What the tests of a mutant leave in the directory for temporary files is removed."""
        path = os.path.abspath(self.mktemp())
        code = f"import os, tempfile\nos.symlink(tempfile.mkdtemp(), {path!r})\n1 / 0"
        self.assertRegex(self.judge(code), rb"\Akilled")
        self.assertTrue(os.path.islink(path))
        self.assertFalse(os.path.exists(path))

    def test_bounds(self):
        """A mutant that does not end is stopped, and one has no more memory than is permitted."""
        self.assertEqual(self.judge("while True: pass"), b"timed out \n")
        self.assertRegex(self.judge("all = bytearray(5 << 30)"), rb"\Akilled")


class MutantTests(SynchronousTestCase):
    """What is changed."""

    def mutants(self, source):
        """Return the mutants of a text."""
        self.patch(mutants, "CHECKOUT", Path())
        Path("module.py").write_text(source)
        return [*mutants_of("module.py")]

    def changes(self, source):
        """Return the changed lines of the mutants of a text."""
        return {(each.change.was, each.change.becomes) for each in self.mutants(source)}

    def test_statements(self):
        """Calls, raises and assignments to attributes are removed, and what is returned."""
        statements = ("x.a = 1.5", "x.b()", "del x.c", "y += x", "raise ValueError", "await x")
        source = "async def f(x):\n    y = x\n    " + "\n    ".join((*statements, "return y\n"))
        changes = self.changes(source)
        self.assertTrue(changes >= {*((each, "pass") for each in statements)}, changes)
        self.assertIn(("return y", "return None"), changes)
        self.assertFalse({was for was, _ in changes} & {"y = x", "async def f(x):"})

    def test_octets(self):
        """An octet is added to octets, and nothing to texts."""
        self.assertEqual(
            self.changes("""x = b'a', "b", rb\"\"\"c\"\"\"\n"""),
            {
                ("""x = b'a', "b", rb\"\"\"c\"\"\"""", f"x = {rest}")
                for rest in ("""b'aX', "b", rb\"\"\"c\"\"\"""", """b'a', "b", rb\"\"\"cX\"\"\"""")
            },
        )

    def test_types(self):
        """What is for type checkers is not changed."""
        source = (
            "def f(x: int | None, *, y: 'int | str' = a) -> int | bytes: ...\n"
            "z: int | None\n"
            "if TYPE_CHECKING:\n    g()\n"
            "@overload\ndef h() -> int: ...\n"
        )
        self.assertEqual(self.changes(source), set())

    def test_exceptions(self):
        """Each exception that is caught is replaced, also one whose name has a dot."""
        clauses = "except a.B as c:", "except (D, e.F):", "except (g.H):"
        source = "try:\n    x = y\n" + "".join(f"{each}\n    x = z\n" for each in clauses)
        other = CosmicRayTestingException.__name__
        self.assertTrue(
            self.changes(source)
            >= {
                (clauses[0], f"except a.{other} as c:"),
                (clauses[1], f"except ({other}, e.F):"),
                (clauses[1], f"except (D, e.{other}):"),
                (clauses[2], f"except (g.{other}):"),
            }
        )

    def test_negations(self):
        """A negation is one mutant, however it is written."""
        for condition, changed in (
            ("a == b", {"a != b"}),
            ("not a", {" a"}),
            ("a is None", {"a is not None"}),
            ("a in b", {"not a in b"}),
        ):
            changes = self.changes(f"if {condition}:\n    x = y\n")
            self.assertEqual(changes, {(f"if {condition}:", f"if {each}:") for each in changed})

    def test_places(self):
        """A mutant is known by its function and its lines; equal ones are counted."""
        source = "class A:\n    def f():\n        g()\n        g()\n\n\n@b\ndef h():\n    x = y\n"
        self.assertEqual(
            sorted((*each.change[1:], each.lines.start) for each in self.mutants(source)),
            [("A.f", "g()", "pass", 0, 3), ("A.f", "g()", "pass", 1, 4), ("h", "@b", "", 0, 7)],
        )

    def test_changed(self):
        """The modules and lines that have changed since a revision are those that git tells."""
        self.patch(mutants, "CHECKOUT", Path(self.mktemp()))
        paths = [mutants.CHECKOUT / f"popserv/core/{name}.py" for name in "abc"]
        paths[0].parent.mkdir(parents=True)
        for path in paths:
            path.write_text("a\nb\nc\nd\n")
        git = ("git", "-C", mutants.CHECKOUT, "-c", "user.name=a", "-c", "user.email=a@example.org")
        for command in ("init -q", "add popserv", "commit -qm a"):
            subprocess.run((*git, *command.split()), check=True)
        self.assertEqual(changed_modules("HEAD"), [])
        paths[0].write_text("a\nB\nd\ne\nf\n")
        paths[1].unlink()
        self.assertEqual(changed_modules("HEAD"), ["popserv/core/a.py"])
        self.assertEqual(changed_lines("popserv/core/a.py", "HEAD"), {2, 4, 5})
        self.assertEqual(changed_lines("popserv/core/c.py", "HEAD"), set())

    def test_tests(self):
        """The tests of a module are those in its place."""
        self.assertIn("tests.auth.passwords.test_schemes", tests_of("popserv/auth/passwords/x.py"))
        self.assertIn("tests.commands", tests_of("popserv/core/x.py"))

    def test_equivalents(self):
        """Each line of an equivalent mutant is in its module, and each has a reason."""
        for change, reason in read_equivalents().items():
            lines = {*map(str.strip, (CHECKOUT / change.module).read_text("utf-8").splitlines())}
            self.assertTrue(lines.issuperset(change.was.splitlines()), change)
            self.assertGreater(len(reason), 10)
