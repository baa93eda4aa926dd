"""The page as HTML."""

import base64
import hashlib
import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.error import FlattenerError

from popserv.status_page.page import REFRESH, STYLE, STYLE_HASH, render
from tests.status_page.harness import (
    CERTIFICATE,
    HTML,
    SESSION,
    STATUS,
    contents,
    overview,
    parsed_page,
    plot,
)
from tests.status_page.test_plot import POINTS

NAMES = st.text(st.characters(exclude_categories=()), max_size=60)
COUNTS = st.integers(min_value=0, max_value=1 << 63)
SECONDS = st.floats(min_value=0, max_value=1e9)
SESSIONS = st.fixed_dictionaries(
    {
        "id": NAMES,
        "user": st.none() | NAMES,
        "address": NAMES,
        "tls": st.none() | NAMES,
        "method": st.none() | NAMES,
        "state": NAMES,
        "age": st.none() | SECONDS,
        "idle": SECONDS,
        "messages": COUNTS,
        "octets": COUNTS,
    }
)


class PageTests(SynchronousTestCase):
    """What the page has."""

    def page(self, **changes):
        """Return the tree of a page without errors."""
        return parsed_page(render(contents(**changes)))

    def text(self, tree):
        """Return the text of a tree, with single spaces."""
        return " ".join("".join(tree.itertext()).split())

    def test_head(self):
        """It is in English, in UTF-8, fits telephones, and has the server's name as title."""
        page = self.page()
        self.assertEqual(page.get("lang"), "en")
        metas = [dict(each.attrib) for each in page.iter(f"{HTML}meta")]
        self.assertEqual(
            metas,
            [
                {"charset": "utf-8"},
                {"name": "viewport", "content": "width=device-width, initial-scale=1"},
                {"name": "color-scheme", "content": "light dark"},
            ],
        )
        self.assertEqual(page.find(f".//{HTML}title").text, "popserv on pop.example.org")

    def test_header(self):
        """The version, the uptime and the time are told."""
        header = self.text(self.page().find(f".//{HTML}header"))
        self.assertIn("Version 26.11.0, running for 1 d 2 h. As of 2026-11-29 13:05:12 UTC", header)

    def test_refresh(self):
        """The page is loaded again by itself only if the reader wants that."""
        for refreshes, times, link, target in (
            (False, [], "Refresh every 10 seconds", "?refresh=on"),
            (True, [str(REFRESH)], "Stop refreshing", "?"),
        ):
            page = self.page(refreshes=refreshes)
            found = [each for each in page.iter(f"{HTML}meta") if each.get("http-equiv")]
            self.assertEqual([each.get("content") for each in found], times)
            (anchor,) = page.iter(f"{HTML}a")
            self.assertEqual((anchor.text, anchor.get("href")), (link, target))

    def test_facts(self):
        """The numbers of the status are shown, with separators of thousands."""
        facts = self.page().find(f".//{HTML}dl")
        self.assertEqual(
            [self.text(each) for each in facts],
            [
                "Sessions now1",
                "Connections now3",
                "Logins since the start9,876",
                "Connections since the start12,345",
                "Networks with failed logins2",
            ],
        )

    def test_caches(self):
        """The sizes of caches are told, if there are any."""
        status = {**STATUS, "caches": {"maildrops": 3, "messages": 4567}}
        page = self.page(overview=overview(status=status))
        found = self.text(page.find(f".//{HTML}main/{HTML}p"))
        self.assertEqual(found, "In the caches: 3 maildrops, 4,567 messages.")
        self.assertIsNone(self.page().find(f".//{HTML}main/{HTML}p"))

    def test_missing(self):
        """It is told that processes have not answered."""
        for missing, text in (
            (1, "1 process has not answered in time; all numbers are those of the others."),
            (2, "2 processes have not answered in time; all numbers are those of the others."),
        ):
            self.assertIn(text, self.text(self.page(overview=overview(missing=missing))))
        self.assertNotIn("answered", self.text(self.page()))

    def test_plots(self):
        """Each plot is shown."""
        page = self.page(plots=[plot(name="one"), plot(name="two")])
        self.assertEqual(len(list(page.iter(f"{HTML}figure"))), 2)

    def test_sections(self):
        """Each section is labelled by its heading; tables are left out that would be empty."""
        worker = {"number": 1, "pid": 1, "state": "serving", "uptime": 1}
        full = overview(workers=[worker], certificates=[CERTIFICATE], certificate_count=1)
        for given_overview, headings in (
            (overview(), ["The last hour", "Who is on"]),
            (full, ["The last hour", "Who is on", "Workers", "Certificates"]),
        ):
            page = self.page(overview=given_overview)
            found = [each.find(f"{HTML}h2") for each in page.iter(f"{HTML}section")]
            self.assertEqual([each.text for each in found], headings)
            labels = [each.get("aria-labelledby") for each in page.iter(f"{HTML}section")]
            self.assertEqual([each.get("id") for each in found], labels)

    def test_ids(self):
        """No ID is there twice, and what labels refer to is there."""
        page = self.page(plots=[plot(name="one"), plot(name="two")])
        ids = [each.get("id") for each in page.iter() if each.get("id")]
        self.assertEqual(len(ids), len(set(ids)))
        referred = {
            each.get(name)
            for each in page.iter()
            for name in ("aria-labelledby", "aria-describedby")
        }
        self.assertEqual(referred - {None} - set(ids), set())

    def test_failure(self):
        """A page that cannot be made raises why."""
        with self.assertRaises(FlattenerError):
            render(contents(overview=overview(status={})))

    def test_escaped(self):
        """What clients have sent is text, whatever it is."""
        name = "</td><script>alert(1)</script>&amp;\"'\x00\u202e"
        page = self.page(overview=overview(sessions=[{**SESSION, "user": name}]))
        self.assertEqual(list(page.iter(f"{HTML}script")), [])
        shown = page.find(f".//{HTML}tbody/{HTML}tr/{HTML}th").text
        self.assertEqual(shown, "</td><script>alert(1)</script>&amp;\"'\\x00\\u202e")

    @given(
        st.lists(SESSIONS, max_size=4),
        st.dictionaries(NAMES, COUNTS, max_size=3),
        st.lists(NAMES, max_size=3),
        NAMES,
        POINTS,
    )
    def test_well_formed(self, sessions, caches, names, text, points):
        """Whatever the names and numbers, the page is HTML without errors, and has as many rows."""
        shown = overview(
            status={**STATUS, "caches": caches, "connections": len(sessions)},
            sessions=sessions,
            workers=[{"number": 1, "pid": 2, "state": text, "uptime": 0.5}],
            certificates=[{**CERTIFICATE, "names": names, "file": text}],
            certificate_count=1,
        )
        page = self.page(host=text, overview=shown, plots=[plot(points)])
        rows = page.findall(f".//{HTML}tbody/{HTML}tr")
        self.assertEqual(len(rows), len(sessions) + 2)
        users = [row.find(f"{HTML}th") for row in rows[: len(sessions)]]
        for user, session in zip(users, sessions, strict=True):
            if session["user"] is not None and session["user"].isprintable():
                self.assertEqual("".join(user.itertext()), session["user"])


class StyleTests(SynchronousTestCase):
    """The style of the page."""

    def test_hash(self):
        """The hash is that of the style as it is in the page, where nothing of it is escaped."""
        page = render(contents())
        (style,) = re.findall(rb"<style>(.*?)</style>", page, re.DOTALL)
        self.assertEqual(style, STYLE.encode())
        self.assertEqual(base64.b64decode(STYLE_HASH), hashlib.sha256(style).digest())

    def test_no_inline_style(self):
        """No tag has a style of its own, which the policy would not allow, or an event handler."""
        page = parsed_page(render(contents()))
        names = {name for each in page.iter() for name in each.attrib}
        self.assertFalse({each for each in names if each == "style" or each.startswith("on")})

    def test_nothing_else(self):
        """The page needs nothing else: no image, no font, no script, no other style."""
        self.assertNotRegex(STYLE, r"url\(|@import|@font-face")
        page = parsed_page(render(replace(contents(), refreshes=True)))
        names = {name for each in page.iter() for name in each.attrib}
        self.assertFalse(names & {"src", "srcset", "xlink:href"})
        tags = {each.tag for each in page.iter()}
        self.assertFalse({f"{HTML}{name}" for name in ("script", "link", "img", "form")} & tags)

    def test_classes(self):
        """Each class of the style is in some page, and each class of a page has a style."""
        worker = {"number": 1, "pid": 1, "state": "serving", "uptime": 1}
        full = overview(
            sessions=[SESSION, {**SESSION, "user": None}],
            workers=[worker],
            certificates=[{**CERTIFICATE, "ends": "2020-01-01T00:00:00+00:00"}],
            missing=1,
        )
        both = plot([(20, 1.0), (10, 2.0)], [(20, 1.0), (10, 2.0)])
        shown = contents(overview=full, plots=[both])
        page = parsed_page(render(shown))
        used = {name for each in page.iter() for name in (each.get("class") or "").split()}
        styled = set(re.findall(r"\.([a-z]\w*)[^{};]*\{", STYLE)) | set(
            re.findall(r"\.([a-z]\w*)(?=[,\s.])[^{};]*\{", STYLE)
        )
        self.assertEqual(used, styled)
