"""The formats of Prometheus and OpenMetrics, read by prometheus_client's parsers."""

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from twisted.trial.unittest import SynchronousTestCase

from popserv.metrics.catalogue import METRICS, Kind
from popserv.metrics.exposition import encode

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)


def everything():
    """Return samples of all metrics, with label values of any characters."""
    samples = {}
    for at, metric in enumerate(METRICS):
        labels = tuple(f'{label} "\\\n{at}é' for label in metric.labels)
        is_histogram = metric.kind is Kind.HISTOGRAM
        value = [*range(len(metric.bounds) + 1), 70.5] if is_histogram else at
        samples[metric.name] = {labels: value}
    return samples


class ExpositionTests(SynchronousTestCase):
    """encode."""

    def test_formats(self):
        """The format is that of Accept; without one, it is Prometheus' text."""
        for accept, content_type in [
            ("", "text/plain; version=0.0.4"),
            ("*/*", "text/plain; version=0.0.4"),
            ("text/html", "text/plain; version=0.0.4"),
            (OPENMETRICS, "application/openmetrics-text; version=1.0.0"),
            (PROMETHEUS, "application/openmetrics-text; version=1.0.0"),
        ]:
            body, found = encode({}, accept)
            self.assertTrue(found.startswith(content_type), found)
            self.assertEqual(body.endswith(b"# EOF\n"), "openmetrics" in found)

    def test_invalid_accept(self):
        """Whatever clients send as Accept, there is an answer in a format that it names."""
        for accept in (
            "application/openmetrics-text; version=x",
            "application/openmetrics-text; version=",
            "application/openmetrics-text; version=99; escaping=\x00",
            "text/plain; version=1.0.x",
            "text/plain; version=9.9.9; escaping=sing",
            ",;=" * 1000,
            "\xff",
        ):
            body, content_type = encode(everything(), accept)
            self.assertIn(b"popserv_commands_total", body)
            self.assertIn(
                content_type.partition(";")[0], ("text/plain", "application/openmetrics-text")
            )
            self.assertNotIn("sing", content_type)
            self.assertTrue(content_type.isprintable())

    def test_values(self):
        """Both formats have the values, labels and texts of all metrics."""
        samples = everything()
        for accept, parse in (("", parse_text), (OPENMETRICS, parse_openmetrics)):
            families = list(parse(encode(samples, accept)[0].decode()))
            self.assertEqual(
                [each.documentation for each in families], [each.help for each in METRICS]
            )
            for metric, family in zip(METRICS, families, strict=True):
                self.assertEqual(family.name, metric.name.removesuffix("_total"))
                self.assertEqual(family.type, metric.kind.value)
                ((labels, value),) = samples[metric.name].items()
                for each in family.samples:
                    bound = each.labels.pop("le", None)
                    self.assertEqual(tuple(each.labels[name] for name in metric.labels), labels)
                    if metric.kind is not Kind.HISTOGRAM:
                        self.assertEqual((each.name, each.value), (metric.name, value))
                    elif each.name.endswith("_sum"):
                        self.assertEqual(each.value, 70.5)
                    else:
                        before = sum(float(bound or "inf") >= each for each in metric.bounds)
                        before += bound in (None, "+Inf")
                        self.assertEqual(each.value, sum(range(before)))

    def test_order(self):
        """Metrics and labels have an order, and a metric without samples is left out."""
        samples = {
            "popserv_commands_total": {("RETR",): 1, ("DELE",): 2},
            "popserv_connections_total": {(): 3},
            "popserv_thread_jobs": {},
        }
        lines = encode(samples, "")[0].decode().splitlines()
        self.assertEqual(
            [line for line in lines if not line.startswith("#")],
            [
                "popserv_connections_total 3.0",
                'popserv_commands_total{command="DELE"} 2.0',
                'popserv_commands_total{command="RETR"} 1.0',
            ],
        )
