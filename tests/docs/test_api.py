"""The public names, and the page that lists them."""

import ast
import importlib
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.docs.harness import DOCS, ROOT, blocks

PAGE = (DOCS / "reference" / "api.rst").read_text("utf-8")
WHOLE_MODULES = {"popserv.errors", "popserv.texts"}
"""Modules whose names are all public."""


def listed():
    """Return the public names of the page, each as (package or module, name)."""
    found, module = set(), ""
    for line in PAGE.splitlines():
        directive = re.match(r"\.\. (\w+:?\w+):: ([\w.]+)$", line)
        if directive is None:
            continue
        kind, name = directive.groups()
        if kind == "automodule":
            module = name
        elif kind == "py:class":
            found.add((module, name))
        else:
            found.add(tuple(name.rsplit(".", 1)))
    return found


def imported(text):
    """Yield the names that a program imports from popserv, each as (module, name)."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("popserv."):
            for alias in node.names:
                yield node.module, alias.name


def packages():
    """Return the packages that export names, each with its ``__all__``."""
    found = {}
    for path in (ROOT / "popserv").rglob("__init__.py"):
        name = ".".join(path.parent.relative_to(ROOT).parts)
        exported = getattr(importlib.import_module(name), "__all__", None)
        if exported is not None:
            found[name] = set(exported)
    return found


class PublicNamesTests(SynchronousTestCase):
    """Each public name has one place, and the page on the API lists it."""

    def test_packages(self):
        """The page lists exactly the names that the packages export."""
        for package, names in packages().items():
            shown = {name for module, name in listed() if module == package}
            self.assertEqual(shown, names, package)

    def test_exist(self):
        """Each name of the page exists in the module under which it is listed."""
        self.assertGreater(len(listed()), 100)
        for module, name in listed():
            self.assertTrue(hasattr(importlib.import_module(module), name), f"{module}.{name}")

    def test_one_place(self):
        """No name is exported by two packages."""
        exported = [name for names in packages().values() for name in names]
        self.assertEqual(len(exported), len(set(exported)))

    def test_guides(self):
        """The programs of the guides, and the examples, import public names only."""
        public = listed()
        programs = [
            (page.name, text)
            for page in sorted((DOCS / "howto").glob("*.rst"))
            for _, text in blocks(page, "python")
        ]
        programs += [
            (path.name, path.read_text("utf-8"))
            for path in sorted(Path(ROOT, "examples").rglob("*"))
            if path.suffix in (".py", ".tac")
        ]
        self.assertGreater(len(programs), 10)
        for where, text in programs:
            for module, name in imported(text):
                is_public = (
                    (module, name) in public
                    or module in WHOLE_MODULES
                    or (module, name) in {("popserv.commands", each) for each in COMMAND_MODULES}
                    or module == "popserv.commands.dialects"
                )
                self.assertTrue(is_public, f"{where}: {module}.{name}")


COMMAND_MODULES = ("capa", "rfc1225", "rfc1460", "rfc1725", "sasl", "stls", "utf8")
