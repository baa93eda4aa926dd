"""The pictures of the documentation show what the code has."""

import ast
import re
from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from popserv.core.session import Session, State
from tests.docs.harness import DOCS, ROOT, tables

PACKAGE = ROOT / "popserv"
FOUNDATION = {"interfaces", "errors", "texts"}
"""The modules that every package may import; they have no arrows."""


def picture(name):
    """Return the text of a graphviz source without its comments."""
    return re.sub("//.*", "", (DOCS / "pictures" / f"{name}.dot").read_text("utf-8"))


def nodes(text):
    """Return the title of each node that has one, in bold."""
    return set(re.findall(r"^ *\w+ \[.*<b>(\w+)</b>", text, re.MULTILINE))


def arrows(text):
    """Return the visible arrows, each as (from, to)."""
    found = re.findall(r"^ *(\w+) -> (\w+)(?: \[(.*)\])?$", text, re.MULTILINE)
    return {(start, end) for start, end, options in found if "invis" not in options}


def imports():
    """Return the imports between packages, each as (importing, imported)."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        importing = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for name in imported_names(ast.parse(path.read_text("utf-8"))):
            root, _, rest = name.partition(".")
            imported = rest.partition(".")[0]
            if root == "popserv" and imported != importing and exists(imported):
                found.add((importing, imported))
    return {edge for edge in found if not FOUNDATION.intersection(edge)}


def imported_names(tree):
    """Yield the full name of all that is imported below a node, but for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported_names(node)


def exists(name):
    """Tell whether there is a package or a module of that name directly below popserv."""
    return (PACKAGE / name / "__init__.py").is_file() or (PACKAGE / f"{name}.py").is_file()


def transitive_reduction(edges):
    """Return the edges of an acyclic graph that do not follow from other edges."""

    def reachable(start, without):
        found, pending = set(), [end for first, end in edges if first == start and end != without]
        while pending:
            each = pending.pop()
            if each not in found:
                found.add(each)
                pending += [end for first, end in edges if first == each]
        return found

    return {(start, end) for start, end in edges if end not in reachable(start, without=end)}


class PackagesTests(SynchronousTestCase):
    """pictures/packages.dot shows the packages and what they import."""

    def test_nodes(self):
        """The nodes are the packages and the modules directly below popserv."""
        packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
        modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
        self.assertEqual(nodes(picture("packages")), packages | modules)

    def test_design(self):
        """The table of packages in design.rst has the same names."""
        rows = next(table for table in tables(DOCS / "design.rst") if len(table) > 10)
        self.assertEqual({row[0].strip("`") for row in rows}, nodes(picture("packages")))

    def test_arrows(self):
        """The arrows are the imports between packages, without those that follow from others."""
        self.assertEqual(arrows(picture("packages")), transitive_reduction(imports()))

    def test_twisted_internet(self):
        """The yellow packages import nothing of twisted.internet."""
        found = re.findall(r'^ *(\w+) \[fillcolor="#fdf1cf"', picture("packages"), re.MULTILINE)
        self.assertEqual(set(found), {"commands", "core", "messages"})
        for name in found:
            for path in (PACKAGE / name).rglob("*.py"):
                imported = imported_names(ast.parse(path.read_text("utf-8")))
                self.assertNotIn("twisted.internet", " ".join(imported), path)


class StatesTests(SynchronousTestCase):
    """pictures/states.dot shows the states of a session."""

    def test_states(self):
        """The states and the arrows between them are those of RFC 1725 section 3."""
        text = picture("states")
        names = [state.name for state in State]
        self.assertEqual(nodes(text), set(names))
        between = {(start, end) for start, end in arrows(text) if {start, end} <= set(names)}
        self.assertEqual(between, set(pairwise(names)))

    def test_methods(self):
        """Each method that the picture names is one of Session."""
        named = set(re.findall(r"Session\.(\w+)", picture("states")))
        self.assertEqual(named, {"login", "update", "end"})
        for name in named:
            self.assertTrue(callable(getattr(Session, name)))
