"""Readers find every page of the documentation."""

import re

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from tests.docs.harness import DOCS, README, ROOT


class StructureTests(SynchronousTestCase):
    """The overviews and the README lead to the pages."""

    def test_overviews(self):
        """The overviews of the guides and of the reference list each page of their directory."""
        for name in ("howto", "reference"):
            pages = {path.stem for path in (DOCS / name).glob("*.rst")} - {"index"}
            overview = (DOCS / name / "index.rst").read_text("utf-8")
            self.assertEqual(set(re.findall(r":doc:`([\w-]+)`", overview)), pages, name)

    def test_top_level(self):
        """The start page lists each page that is directly in docs."""
        pages = {path.stem for path in DOCS.glob("*.rst")} - {"index"}
        start = (DOCS / "index.rst").read_text("utf-8")
        self.assertEqual(set(re.findall(r"^   ([\w-]+)$", start, re.MULTILINE)), pages)

    def test_readme_links(self):
        """Each file that the README links to exists."""
        links = re.findall(r"`[^`]+ <([^>]+)>`_", README.read_text("utf-8"))
        self.assertGreater(len(links), 5)
        for link in links:
            self.assertTrue((ROOT / link).is_file(), link)

    def test_quoted_paths(self):
        """Each path of the project that a page quotes exists; NAME and NNNN stand for any."""
        pages = [README, ROOT / "CONTRIBUTING.rst", *DOCS.rglob("*.rst")]
        quoted = [
            (page.name, path)
            for page in pages
            for path in re.findall(r"``((?:popserv|tests)/[\w./-]+)``", page.read_text("utf-8"))
            if "NAME" not in path and "NNNN" not in path
        ]
        self.assertGreater(len(quoted), 20)
        missing = [(page, path) for page, path in quoted if not (ROOT / path).exists()]
        self.assertEqual(missing, [])

    def test_quoted_tests(self):
        """Each test, or module of tests, that the page on reliability names exists."""
        page = (DOCS / "reliability.rst").read_text("utf-8")
        names = re.findall(r"``(tests\.[\w.]+)``", page)
        self.assertGreater(len(names), 20)
        for name in names:
            namedAny(name)

    def test_contrib(self):
        """Each file in contrib is included by one page, and no page includes another one."""
        included = [
            path
            for page in DOCS.rglob("*.rst")
            for path in re.findall(r"literalinclude:: /\.\./(contrib/\S+)", page.read_text("utf-8"))
        ]
        files = [path for path in (ROOT / "contrib").rglob("*") if path.is_file()]
        there = {str(path.relative_to(ROOT)) for path in files}
        self.assertEqual(sorted(included), sorted(there - {"contrib/README.rst"}))
