"""The mutants of a module: each is the text of the module with one change."""

import ast
import pickle
import re
import subprocess
from collections import Counter
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor

from tests.mutation.operators import OPERATORS

CHECKOUT = Path(__file__).resolve().parents[2]


class Change(NamedTuple):
    """What a mutant changes, by which it is known while the rest of its module changes.

    ``function`` is the qualified name of the function or class, or empty; ``was`` and
    ``becomes`` are the changed lines without indentation.  ``nth`` is how many mutants before it
    have the same values.
    """

    module: str
    function: str
    was: str
    becomes: str
    nth: int = 0


class Mutant(NamedTuple):
    """A change, the lines of the module that it concerns, and the text of the changed module."""

    change: Change
    lines: range
    source: str

    def digest(self):
        """Return a digest of the changed module."""
        return blake2b(self.source.encode(), digest_size=16).hexdigest()

    def __str__(self):
        change = self.change
        where = f"{change.module}:{self.lines.start} {change.function}".rstrip()
        was, becomes = ("\n    ".join(text.splitlines()) for text in (change.was, change.becomes))
        return f"{where}\n  - {was}\n  + {becomes}"


def mutants_of(path):
    """Yield the mutants of a module, each once; ``path`` is relative to the checkout."""
    source = (CHECKOUT / path).read_text("utf-8")
    functions = _functions(ast.parse(source))
    seen, numbers = {_meaning(source)}, Counter()
    for changed in _changed(source):
        try:
            meaning = _meaning(changed)
        except SyntaxError:
            # The asterisk before keyword arguments is no operator.
            continue
        if meaning not in seen:
            seen.add(meaning)
            mutant = _mutant(str(path), source, changed, functions)
            nth = numbers[mutant.change]
            numbers[mutant.change] += 1
            yield mutant._replace(change=mutant.change._replace(nth=nth))


def _changed(source):
    """Yield what the operators make of a text."""
    tree = get_ast(source)
    # A copy, because a visitor changes the tree; this is faster than to parse the text again.
    pickled = pickle.dumps(tree)
    for operator in OPERATORS:
        count = sum(1 for node in ast_nodes(tree) for _ in operator.mutation_positions(node))
        for occurrence in range(count):
            yield MutationVisitor(occurrence, operator).walk(pickle.loads(pickled)).get_code()


def unchanged(path):
    """Return a module as if it were a mutant, with all of its lines."""
    source = (CHECKOUT / path).read_text("utf-8")
    return Mutant(Change(path, "", "", ""), range(1, source.count("\n") + 2), source)


def _mutant(path, source, changed, functions):
    before, after = source.splitlines(), changed.splitlines()
    start = sum(1 for _ in takewhile(_same, zip(before, after, strict=False)))
    rest = zip(reversed(before[start:]), reversed(after[start:]), strict=False)
    end = sum(1 for _ in takewhile(_same, rest))
    was, becomes = before[start : len(before) - end], after[start : len(after) - end]
    # A decorator is removed with the blank lines before it.
    while len(was) > 1 and not was[0]:
        start, was = start + 1, was[1:]
    inside = [name for name, lines in functions if start + 1 in lines]
    texts = ("\n".join(filter(None, map(str.strip, lines))) for lines in (was, becomes))
    change = Change(path, inside[-1] if inside else "", *texts)
    return Mutant(change, range(start + 1, start + 1 + max(len(was), 1)), changed)


def _same(lines):
    return lines[0] == lines[1]


def _functions(tree, prefix=""):
    """Return the qualified names of functions and classes, with their lines, outer ones first."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            found += [(name, range(first, node.end_lineno + 1)), *_functions(node, f"{name}.")]
        else:
            found += _functions(node, prefix)
    return found


class _Meaning(ast.NodeTransformer):
    """Leaves out what is for type checkers, and writes negations in one way."""

    def visit_arg(self, node):
        """Leave out the type."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        """Leave out the type."""
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_If(self, node):
        """Leave out what is for type checkers."""
        test = node.test.operand if isinstance(node.test, ast.UnaryOp) else node.test
        is_for_types = isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
        return None if is_for_types else self.generic_visit(node)

    def visit_FunctionDef(self, node):
        """Leave out the type of the result, and overloads and protocols, which do nothing."""
        if all(isinstance(getattr(each, "value", None), ast.Constant) for each in node.body):
            return None
        node.returns = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_UnaryOp(self, node):
        """Write ``not not a`` as ``a``, and ``not a == b`` as ``a != b``."""
        self.generic_visit(node)
        inner = node.operand
        if isinstance(node.op, ast.Not) and isinstance(inner, ast.UnaryOp):
            return inner.operand if isinstance(inner.op, ast.Not) else node
        if isinstance(node.op, ast.Not) and isinstance(inner, ast.Compare):
            opposite = _OPPOSITES.get(type(inner.ops[0])) if len(inner.ops) == 1 else None
            return ast.Compare(inner.left, [opposite()], inner.comparators) if opposite else node
        return node


_OPPOSITES = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is}


def _meaning(source):
    """Return what a text means when it runs; two texts that differ in types only are the same."""
    return ast.dump(_Meaning().visit(ast.parse(source)))


def changed_modules(revision):
    """Return the paths of the modules of popserv that have changed since a revision of git."""
    return _git_diff("--name-only", "--diff-filter=d", revision, "--", "popserv/*.py").splitlines()


def changed_lines(path, revision):
    """Return the numbers of the lines of a module that have changed since a revision of git."""
    found = set()
    diff = _git_diff("--unified=0", revision, "--", path)
    for first, count in re.findall(r"^@@ \S+ \+(\d+)(?:,(\d+))? @@", diff, re.MULTILINE):
        found.update(range(int(first), int(first) + int(count or 1)))
    return found


def _git_diff(*arguments):
    command = ("git", "diff", "--merge-base", "--relative", *arguments)
    return subprocess.run(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
