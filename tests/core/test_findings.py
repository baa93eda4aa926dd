"""Tests of popserv.core.findings."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.core.findings import MAX_NAMES, Finding, Severity, error, hint, some_names, unchecked


class FindingsTests(SynchronousTestCase):
    """Findings, and the names in them."""

    def test_severities(self):
        """Each function makes a finding of its severity."""
        values = ("code", "where", "what", "remedy")
        self.assertEqual(error(*values), Finding(Severity.ERROR, *values))
        self.assertEqual(hint(*values).severity, Severity.HINT)
        self.assertEqual(unchecked(*values).severity, Severity.UNCHECKED)

    def test_names(self):
        """Of many names, some are shown, and how many more there are."""
        names = [str(number) for number in range(MAX_NAMES + 1)]
        self.assertEqual(some_names(iter(names[:2]), 2), "0, 1")
        self.assertEqual(some_names(iter(names[:-1]), MAX_NAMES), "0, 1, 2, 3, 4")
        self.assertEqual(some_names(iter(names), len(names)), "0, 1, 2, 3, 4 and 1 more")
