"""The page of attacks names the tests that there are."""

import re

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from tests.docs.harness import DOCS
from tests.live import test_attacks

PAGE = (DOCS / "reference" / "attacks.rst").read_text("utf-8")


class AttacksTests(SynchronousTestCase):
    """docs/reference/attacks.rst."""

    def test_tests(self):
        """The page names each test of attacks, and no other."""
        classes = (test_attacks.AttackTests, test_attacks.LimitTests)
        tests = {name for each in classes for name in vars(each) if name.startswith("test_")}
        self.assertEqual(set(re.findall(r"``(test_\w+)``", PAGE)), tests)

    def test_names(self):
        """Each module or class of tests that the page names exists."""
        named = set(re.findall(r"``(tests\.[\w.]+)``", PAGE))
        self.assertGreater(len(named), 15)
        for name in named:
            namedAny(name)
