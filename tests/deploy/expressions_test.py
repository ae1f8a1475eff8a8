"""The checks in this folder find what they should: a metric, wherever it hides in an expression, and a missing one."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

import expressions

METRICS_EXIST = pathlib.Path(__file__).with_name("metrics_exist.py")


class MetricsTest(unittest.TestCase):
    def test_labels_functions_and_keywords_are_no_metrics(self):
        for expression, metrics in {
            "up": {"up"},
            'a_total{b="c", d=~"e|f{g}"} > 2 * h': {"a_total", "h"},
            "sum by (x, y) (rate(a_total[5m])) or vector(0)": {"a_total"},
            "sum(rate(a_total[$__rate_interval])) by (x)": {"a_total"},
            "histogram_quantile(0.99, sum by (le) (rate(a_bucket[1h] offset 5m)))": {"a_bucket"},
            "time() - max(a > 0) > 1e3 and on (v) b == 1": {"a", "b"},
            "job:a:sum / on (v) group_left c": {"job:a:sum", "c"},
            'a{namespace=~"$namespace"} unless ignoring (x) b': {"a", "b"},
        }.items():
            with self.subTest(expression):
                self.assertEqual(expressions.metrics(expression), metrics)

    def test_every_rule_is_read(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "x.rules.yml")
            record = "    - record: r\n      expr: a\n"
            alert = "    - alert: A\n      expr: |\n        b\n          > c\n      for: 1m\n"
            path.write_text(record + alert)
            found = [(name, expressions.metrics(expression)) for name, expression in expressions.of_rules(path)]
            self.assertEqual(found, [("r", {"a"}), ("A", {"b", "c"})])
            path.write_text("    - alert: A\n      for: 1m\n      expr: a\n")
            with self.assertRaises(ValueError):
                expressions.of_rules(path)


class MetricsExistTest(unittest.TestCase):
    def setUp(self):
        used = set()
        for path in expressions.DASHBOARDS:
            used |= {name for _, use in expressions.of_dashboard(path) for name in expressions.metrics(use)}
        for path in expressions.RULES:
            used |= {name for _, use in expressions.of_rules(path) for name in expressions.metrics(use)}
        self.used = sorted(name for name in used if name.startswith("understudy_"))

    def run_with(self, names):
        with tempfile.NamedTemporaryFile("w") as scrape:
            scrape.write("# HELP a text\n" + "".join(f'{name}{{volume="v"}} 1\n' for name in names))
            scrape.flush()
            return subprocess.run([sys.executable, METRICS_EXIST, scrape.name], capture_output=True, text=True)

    def test_a_complete_scrape_passes(self):
        result = self.run_with(self.used)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_a_missing_metric_is_named(self):
        self.assertIn("understudy_replication_lag_seconds", self.used)
        result = self.run_with(name for name in self.used if name != "understudy_replication_lag_seconds")
        self.assertEqual(result.returncode, 1)
        self.assertIn("understudy_replication_lag_seconds is in no scrape", result.stdout)


if __name__ == "__main__":
    unittest.main()
