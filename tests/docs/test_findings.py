"""docs/reference/findings.rst has each finding of ``popserv doctor``, and no other."""

import ast
import re

from twisted.trial.unittest import SynchronousTestCase

from popserv.core.findings import Severity
from popserv.doctor.logins import LESSER
from popserv.maildrops.maildir.diagnosis.messages import MESSAGE_KINDS
from tests.docs.harness import DOCS, ROOT

PAGE = DOCS / "reference/findings.rst"
SEVERITIES = [each.value for each in Severity]
PLACES = {**dict.fromkeys((*SEVERITIES, "make", "Trip"), 0), "_must": 1, "_numbered": 2}
"""The functions that are given a code, and at which place."""
ELSEWHERE = {"code", "trip.code"}
"""Codes that a function has got from its caller, or from MESSAGE_KINDS."""


def findings_in(tree):
    """Yield each code in a module, and the severities that it can have, or None."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        chosen = {
            name.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "make"
            for name in ast.walk(node.value)
            if isinstance(name, ast.Name) and name.id in SEVERITIES
        }
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).removeprefix("self.")
            if name not in PLACES or (name in SEVERITIES and isinstance(node.func, ast.Attribute)):
                continue
            code = node.args[PLACES[name]]
            if ast.unparse(code) in ELSEWHERE:
                continue
            severities = {"make": chosen}.get(name, {name} if name in SEVERITIES else None)
            yield ast.literal_eval(code), severities


def there():
    """Return the severities of each code in the source."""
    found = {}
    for path in (ROOT / "popserv").rglob("*.py"):
        text = path.read_text("utf-8")
        if "popserv.core.findings import" not in text and path.parent.name != "doctor":
            continue
        for code, severities in findings_in(ast.parse(text)):
            trip = {"warning" if code in LESSER else "error"}
            found.setdefault(code, set()).update(trip if severities is None else severities)
    for code, (make, *_) in MESSAGE_KINDS.items():
        found[code] = {make(code, "", "", "").severity.value}
    return found


class FindingTests(SynchronousTestCase):
    """The reference of findings."""

    def test_findings(self):
        """The page has each code with its severities, the worst first, a meaning and a remedy."""
        text = PAGE.read_text("utf-8")
        shown = re.findall(
            r"^``([a-z-]+)`` \(([a-z, ]+)\)\n   (\S.*\.)\n   (\S.*\.)$", text, re.MULTILINE
        )
        self.assertEqual(len(shown), len(re.findall(r"^``[a-z-]+``", text, re.MULTILINE)))
        self.assertEqual(
            sorted((code, severities) for code, severities, _, _ in shown),
            sorted(
                (code, ", ".join(sorted(severities, key=SEVERITIES.index)))
                for code, severities in there().items()
            ),
        )
