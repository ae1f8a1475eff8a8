#!/usr/bin/env python3
"""Checks the alerts and the dashboard with promtool, and that every alert is tested and explained.

Exit status 77 (skipped) without promtool.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import expressions

RUNBOOKS = expressions.DEPLOY.parent / "docs" / "runbooks.md"


def promtool(*arguments):
    result = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    if result.returncode == 0:
        return []
    return [f"promtool {arguments[0]} {arguments[1]}:\n{result.stdout}{result.stderr}"]


def untested(rules, tests):
    """Alerts that no case of the promtool test sees fire, or none sees silent."""
    cases = re.split(r"^ *- eval_time: ", tests.read_text(), flags=re.MULTILINE)[1:]
    fires = {re.search(r"alertname: (\w+)", case)[1] for case in cases if "exp_alerts:" in case}
    silent = {re.search(r"alertname: (\w+)", case)[1] for case in cases if "exp_alerts:" not in case}
    alerts = re.findall(r"- alert: (\w+)", rules.read_text())
    return [f"{alert}: no test in which it fires" for alert in alerts if alert not in fires] + [
        f"{alert}: no test in which it stays silent" for alert in alerts if alert not in silent
    ]


def unexplained(rules):
    """Alerts whose runbook_url is no heading of docs/runbooks.md, by the anchors that Git hosts make."""
    headings = re.findall(r"^#+ (.+)$", RUNBOOKS.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    urls = re.findall(r"runbook_url: (\S+)", rules.read_text())
    count = len(re.findall(r"- alert: ", rules.read_text()))
    return [f"{url}: no such heading" for url in urls if url.removeprefix("docs/runbooks.md#") not in anchors] + (
        [] if len(urls) == count else [f"{count} alerts, but {len(urls)} of them with a runbook_url"]
    )


def unlisted(rules):
    """Alerts without a row in the table of docs/operations.md."""
    rows = re.findall(r"^\| \[(\w+)\]", (RUNBOOKS.parent / "operations.md").read_text(), re.MULTILINE)
    return [f"{alert}: not in docs/operations.md" for alert in re.findall(r"- alert: (\w+)", rules.read_text()) if alert not in rows]


def by_the_wall_clock(rules):
    """Alerts that measure an age with the clock of Prometheus and a host's: they fire, or do not, when one of them is off."""
    named = {"UnderstudyScrubOverdue", "UnderstudyClockSkew"}  # days; the clock itself
    return [
        f"{name}: an age by two clocks: let the daemon count it"
        for name, expression in expressions.of_rules(rules)
        if re.search(r"\btime(stamp)?\(", expression) and name not in named
    ]


def unparsable(dashboards):
    """Panel expressions that Prometheus would not parse: each becomes a recording rule, which promtool reads."""
    rules = [
        {"record": f"panel:expression:{i}", "expr": expressions.without_variables(expression)}
        for path in dashboards
        for i, (_, expression) in enumerate(expressions.of_dashboard(path))
    ]
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "panels.yml")
        path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
        return promtool("check", "rules", path)


def main():
    if not shutil.which("promtool"):
        print("skipped: no promtool")
        return 77
    problems = unparsable(expressions.DASHBOARDS)
    for rules in expressions.RULES:
        tests = rules.with_name(rules.name.replace(".rules.", ".test."))
        problems += promtool("check", "rules", rules) + promtool("test", "rules", tests)
        problems += untested(rules, tests) + unexplained(rules) + unlisted(rules) + by_the_wall_clock(rules)
    checked = [path.name for path in expressions.RULES + expressions.DASHBOARDS]
    print("\n".join(problems) or f"{' and '.join(checked)}: well")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
