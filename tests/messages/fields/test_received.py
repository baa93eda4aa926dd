"""Tests of popserv.messages.fields.received."""

from twisted.trial.unittest import SynchronousTestCase

from tests.messages.fields.harness import downgrade


class ReceivedTests(SynchronousTestCase):
    """RFC 6857 section 3.2.4."""

    def test_clauses(self):
        """Domains become A-labels; FOR and ID clauses outside ASCII are removed."""
        for text, result in [
            ("from a by b for <j\xf6@c>; 1 Jan", "from a by b; 1 Jan"),
            ("from a by b id \xfc (x) for <j@c>; 1 Jan", "from a by b (x) for <j@c>; 1 Jan"),
            ("from b\xfccher.example by b", "from xn--bcher-kva.example by b"),
            ("by b for <j@b\xfccher.example>", "by b for <j@xn--bcher-kva.example>"),
            ("by b (h\xe9lo) with X", "by b (=?UTF-8?Q?h=C3=A9lo?=) with X"),
            ("(\xf6\xf6) from a by b", "(=?UTF-8?B?w7bDtg==?=) from a by b"),
            ("from a via \xfc", "from a via =?UTF-8?B?w7w=?="),
        ]:
            self.assertEqual(downgrade("Received: " + text), "Received: " + result)
