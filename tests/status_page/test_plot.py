"""Plots as SVG."""

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from popserv.status_page.plot import HEIGHT, SPAN, WIDTH, Series, figure, grid_lines, runs, svg
from tests.status_page.harness import SVG, flattened, parsed_xml, plot

VALUES = st.floats(min_value=0, max_value=1e18)
POINTS = st.lists(
    st.tuples(st.floats(min_value=-60, max_value=SPAN + 60), st.none() | VALUES), max_size=30
).map(lambda points: sorted(points, key=lambda point: -point[0]))


def paths(root, name):
    """Return the paths of a class in the lines of a plot."""
    lines = root.find(f"{SVG}svg")
    return [each.get("d") for each in lines if each.get("class") == name]


def places(path):
    """Return the coordinates in a path."""
    return [tuple(map(float, each)) for each in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


class RunsTests(SynchronousTestCase):
    """The uninterrupted parts of a line."""

    def test_gaps(self):
        """An unknown value ends a part, and several of them end one."""
        points = [(50, None), (40, 1), (30, 2), (20, None), (15, None), (10, 3), (0, None)]
        self.assertEqual(list(runs(points)), [[(40, 1), (30, 2)], [(10, 3)]])
        self.assertEqual([list(runs(each)) for each in ([], [(1, None)])], [[], []])

    def test_span(self):
        """Only the last hour is shown."""
        points = [(SPAN + 1, 1), (SPAN, 2), (0, 3), (-1, 4)]
        self.assertEqual(list(runs(points)), [[(SPAN, 2), (0, 3)]])
        self.assertEqual(list(runs([(SPAN + 2, 1), (SPAN + 1, None), (5, 2)])), [[(5, 2)]])


class GridTests(SynchronousTestCase):
    """The lines of the grid."""

    def test_round(self):
        """Lines are at multiples of 1, 2 or 5 in a power of ten."""
        for highest, lines in (
            (0, [1]),
            (0.3, [0.1, 0.2, 0.3]),
            (1, [0.5, 1]),
            (3, [1, 2, 3]),
            (3.1, [2, 4]),
            (7, [5, 10]),
            (15, [5, 10, 15]),
            (16, [10, 20]),
            (71, [50, 100]),
            (1_234_567, [500_000, 1_000_000, 1_500_000]),
        ):
            for line, expected in zip(grid_lines(highest), lines, strict=True):
                self.assertAlmostEqual(line, expected)

    @given(VALUES)
    def test_highest(self, highest):
        """There are one to three lines, and no value is above the highest."""
        lines = grid_lines(highest)
        self.assertIn(len(lines), (1, 2, 3))
        self.assertGreaterEqual(lines[-1], highest)


class LinesTests(SynchronousTestCase):
    """The lines of a plot."""

    def test_place(self):
        """A value is as high as it is a part of the highest grid line, and now is at the right."""
        root = parsed_xml(self, svg(plot([(SPAN, 0.0), (SPAN / 2, 5.0), (0, 10.0)])))
        self.assertEqual(
            places(paths(root, "line0")[0]), [(0, HEIGHT), (WIDTH / 2, HEIGHT / 2), (WIDTH, 0)]
        )

    def test_gap(self):
        """A gap divides the line and the area below it."""
        root = parsed_xml(self, svg(plot([(40, 1.0), (30, 1.0), (20, None), (10, 1.0), (0, 1.0)])))
        self.assertEqual((len(paths(root, "line0")), len(paths(root, "area"))), (2, 2))

    def test_single(self):
        """A single value is a point, with no area below it."""
        root = parsed_xml(self, svg(plot([(20, None), (10, 1.0), (0, None)])))
        self.assertEqual(paths(root, "area"), [])
        self.assertTrue(paths(root, "line0")[0].endswith("h0"))

    def test_second(self):
        """The second line has another style, the same scale, and no area."""
        root = parsed_xml(self, svg(plot([(10, 1.0), (0, 1.0)], [(10, 4.0), (0, 2.0)])))
        self.assertEqual((len(paths(root, "line1")), len(paths(root, "area"))), (1, 1))
        (first,), (second,) = paths(root, "line0"), paths(root, "line1")
        self.assertEqual(
            (places(first)[-1][1], places(second)[-1][1]), (HEIGHT * 3 / 4, HEIGHT / 2)
        )

    @given(POINTS, POINTS)
    def test_bounds(self, first, second):
        """Whatever the numbers, it is XML, and every point lies in the plot."""
        root = parsed_xml(self, svg(plot(first, second)))
        for name in ("line0", "line1", "area"):
            for path in paths(root, name):
                self.assertRegex(path, r"\AM[\d.]+ [\d.]+(h0|(L[\d.]+ [\d.]+)+Z?)\Z")
                for x, y in places(path):
                    self.assertTrue(0 <= x <= WIDTH and 0 <= y <= HEIGHT, path)
        shown = sum(value is not None and 0 <= age <= SPAN for age, value in first)
        self.assertEqual(sum(len(places(path)) for path in paths(root, "line0")), shown)


class AccessTests(SynchronousTestCase):
    """A plot for those who do not see it, and its legend."""

    def test_description(self):
        """It is an image with a title, and a description of the newest and the highest values."""
        root = parsed_xml(self, svg(plot([(20, 7.5), (10, 3.0)], [(10, None)])))
        self.assertEqual(root.get("role"), "img")
        for attribute, tag, text in (
            ("aria-labelledby", "title", "Logins per minute"),
            (
                *("aria-describedby", "desc"),
                "The last hour. line 0: now 3, at most 7.5. line 1: now unknown, at most unknown.",
            ),
        ):
            found = root.find(f"{SVG}{tag}")
            self.assertEqual((found.text, found.get("id")), (text, root.get(attribute)))

    def test_unique(self):
        """The IDs of two plots differ."""
        ids = [
            each.get("id")
            for name in ("one", "two")
            for each in parsed_xml(self, svg(plot(name=name))).iter()
            if each.get("id")
        ]
        self.assertEqual((len(ids), len(set(ids))), (4, 4))

    def test_legend(self):
        """The legend names the lines and their newest values."""
        root = parsed_xml(self, figure(plot([(20, 7.5), (10, 3.0)], [(10, None)])))
        entries = ["".join(each.itertext()) for each in root.iter("li")]
        self.assertEqual(entries, ["line 0 3", "line 1 unknown"])
        self.assertEqual("".join(root.find("figcaption/h3").itertext()), "Logins per minute")

    def test_labels(self):
        """The grid and the times are labelled."""
        root = parsed_xml(self, svg(plot([(10, 3.0)])))
        labels = [each.text for each in root.iter(f"{SVG}text")]
        self.assertEqual(labels, ["1", "2", "3", "1 h ago", "45 min", "30 min", "15 min", "now"])

    def test_empty(self):
        """Before the first sample, nothing is known."""
        self.assertIn("unknown", flattened(self, figure(plot([]))))
        self.assertEqual((Series("", []).newest(), Series("", []).highest()), (None, None))
