"""The PromQL expressions in our dashboards and rule files, and the metrics they name. Standard library only."""

import json
import pathlib
import re

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
RULES = sorted((DEPLOY / "prometheus").glob("*.rules.yml"))

# What Grafana fills in before it asks Prometheus.
_GRAFANA = {"$__rate_interval": "1m", "$__interval": "15s", "$__range": "1h"}
_KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "group_left", "group_right"}


def of_dashboard(path):
    """Yields (panel or variable, expression)."""

    def panels(parent):
        for panel in parent.get("panels", []):
            yield panel
            yield from panels(panel)

    dashboard = json.loads(path.read_text())
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            yield f"variable {variable['name']}", re.fullmatch(r"label_values\((.+), \w+\)", query)[1]


def of_rules(path):
    """Yields (name of the alert or record, expression).

    Reads the shape our rule files have, not all of YAML: `expr:` after its name, on one line or as a `|` block. A rule
    in another shape is an error, not an omission.
    """
    text = path.read_text()
    rule = re.compile(
        r"^ *- (?:alert|record): (?P<name>\S+)\n"
        r"(?P<indent> +)expr: (?:\|\n(?P<block>(?:(?P=indent) +.*\n|\n)+)|(?P<line>[^|\n].*)\n)",
        re.MULTILINE,
    )
    found = [(m["name"], m["block"] or m["line"]) for m in rule.finditer(text)]
    named = re.findall(r"^ *- (?:alert|record): (\S+)", text, re.MULTILINE)
    if [name for name, _ in found] != named:
        raise ValueError(f"{path}: a rule is not written as of_rules() expects")
    return found


def recorded(path):
    """The metrics that a rule file makes itself."""
    return set(re.findall(r"^ *- record: (\S+)", path.read_text(), re.MULTILINE))


def without_variables(expression):
    """The expression as Prometheus would get it, with some value for each Grafana variable."""
    for variable, value in _GRAFANA.items():
        expression = expression.replace(variable, value)
    return re.sub(r"\$\{?\w+\}?", "any", expression)


def metrics(expression):
    """The metric names in an expression: identifiers that are no label, function, keyword or duration."""
    text = without_variables(expression)
    text = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", text)
    text = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    names = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", text)
    return set(names) - _KEYWORDS
