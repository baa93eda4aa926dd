"""The reference of metrics, the alerts and the dashboard have the metrics that there are."""

import json
import re

from twisted.trial.unittest import SynchronousTestCase

from popserv.metrics import catalogue
from popserv.metrics.catalogue import BY_NAME, METRICS, Kind
from tests.docs.harness import DOCS, ROOT

PAGE = DOCS / "reference/metrics.rst"
CONTRIB = ROOT / "contrib"


def sample_names():
    """Return the names of all time series that a query can use."""
    names = set()
    for each in METRICS:
        is_histogram = each.kind is Kind.HISTOGRAM
        names |= (
            {each.name + suffix for suffix in ("_bucket", "_sum", "_count")}
            if (is_histogram)
            else {each.name}
        )
    return names


def labels_of(name):
    """Return the labels of a time series of that name, and those that Prometheus adds."""
    metric = BY_NAME[re.sub("_(bucket|count|sum)$", "", name)]
    return {*metric.labels, "instance", "job", *(["le"] if name.endswith("_bucket") else [])}


class ReferenceTests(SynchronousTestCase):
    """docs/reference/metrics.rst."""

    def setUp(self):
        """Read the page."""
        self.text = PAGE.read_text("utf-8")
        self.terms = re.findall(
            r"^``(popserv_\w+)(?:\{(.*)\})?`` \((\w+)\)\n   (.*)\n", self.text, re.MULTILINE
        )

    def test_metrics(self):
        """The page has each metric with its labels, its type, and the text of Prometheus."""
        self.assertEqual(
            sorted(self.terms),
            sorted(
                (each.name, ", ".join(each.labels), each.kind.value, each.help) for each in METRICS
            ),
        )

    def test_values(self):
        """The page has all values of the labels that have fixed ones, but for commands."""
        for values in (
            *(catalogue.OUTCOMES, catalogue.TLS_VERSIONS, catalogue.REASONS),
            *(catalogue.CODES, catalogue.OPERATIONS, catalogue.HANDSHAKE_REASONS),
        ):
            for value in values:
                self.assertIn(f"``{value}``", self.text)


class FilesTests(SynchronousTestCase):
    """contrib/prometheus and contrib/grafana."""

    def assert_known(self, expressions):
        """Check that the expressions use only metrics that exist, with labels that they have."""
        self.assertTrue(expressions)
        used = set()
        for expression in expressions:
            names = re.findall(r"popserv_\w+", expression)
            self.assertLessEqual(set(names), sample_names(), expression)
            used |= set(names)
            for name, selectors in re.findall(r"(popserv_\w+)\{(.*?)\}", expression):
                labels = set(re.findall(r"(\w+)(?:=~|!=|!~|=)", selectors))
                self.assertLessEqual(labels, labels_of(name), expression)
            grouped = {
                label.strip()
                for group in re.findall(r"(?:by|on) \((.*?)\)", expression)
                for label in group.split(",")
            }
            self.assertLessEqual(grouped, set().union(*map(labels_of, names)), expression)
        return used

    def test_alerts(self):
        """The alerts use metrics that exist; promtool checks the file in tests.live."""
        text = (CONTRIB / "prometheus/popserv-alerts.yml").read_text("utf-8")
        self.assert_known(
            [each for each in re.findall(r"expr: (.*)", text) if 'up{job="popserv"}' not in each]
        )

    def test_dashboard(self):
        """The dashboard uses metrics that exist, and each of them."""
        dashboard = json.loads((CONTRIB / "grafana/popserv.json").read_text("utf-8"))
        panels = [each for each in dashboard["panels"] if each["type"] != "row"]
        queries = [target["expr"] for each in panels for target in each["targets"]]
        used = self.assert_known(queries)
        bases = {re.sub("_(bucket|count|sum)$", "", each) for each in used}
        self.assertEqual(bases, {each.name for each in METRICS})

    def test_legends(self):
        """The legends name labels by which the queries group, or that the metrics have."""
        dashboard = json.loads((CONTRIB / "grafana/popserv.json").read_text("utf-8"))
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                by = re.search(r"by \((.*?)\)", target["expr"])
                if by is None and wanted:
                    (name,) = re.findall(r"popserv_\w+", target["expr"])
                    self.assertTrue(target["expr"].startswith(name), target["expr"])
                    self.assertLessEqual(wanted, labels_of(name))
                elif by is not None:
                    self.assertLessEqual(wanted, set(by[1].split(", ")))

    def test_layout(self):
        """No panels of the dashboard overlap, and each has its own ID."""
        dashboard = json.loads((CONTRIB / "grafana/popserv.json").read_text("utf-8"))
        cells = [
            (x, y)
            for at in (each["gridPos"] for each in dashboard["panels"])
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        ]
        self.assertEqual(len(cells), len(set(cells)))
        self.assertTrue(all(x < 24 for x, _ in cells))
        ids = [each["id"] for each in dashboard["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
