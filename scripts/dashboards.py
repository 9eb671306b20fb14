#!/usr/bin/env python3
"""Asks a Prometheus everything that the dashboards in packaging/grafana ask it, as Grafana would: dashboards.py URL CLUSTER MINUTES

Each expression, with its variables filled in, over the last minutes. One that has no answer is wrong, but for what is known to have none. With
--failover the panels that show a failover must show one. Ends with 1 where something is wrong.
"""

import json
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

DASHBOARDS = pathlib.Path(__file__).parent.parent / "packaging/grafana"

# What may have nothing to show: metric, and why.
EMPTY = {
    "pgvigil_actions_total": "no action has failed",
    "pgvigil_control_requests_total": "nobody has asked the control API",
}
# What is put together from half hours, and has nothing to show before the first full one of the clock.
FROM_HALF_HOURS = (":avg3d", ":avg30d", ":pgvigil_error_budget_left:")
HALF_HOUR_S, EVALUATED_WITHIN_S = 1800, 180

# Where a failover shows, and what must be in it: dashboard, panel, labels of a series, the least of its highest values.
FAILOVER = [
    ("cluster", "A change of leader", {}, 1),
    ("cluster", "Last failover: outage", {}, 0.001),
    ("cluster", "Last failover: age", {}, 0),
    ("cluster", "Phases of transitions", {"kind": "failover", "phase": "elect"}, 0),
    ("cluster", "Recorded transitions", {"kind": "failover", "outcome": "done"}, 1),
    ("fleet", "Changes of leader within an hour", {}, 1),
    ("fleet", "Clusters", {}, 0.001),
    ("slo", "A change of leader", {}, 1),
    ("slo", "Last write outage by kind", {"kind": "failover"}, 0.001),
    ("slo", "Write outages", {}, 1),
]


class Prometheus:
    def __init__(self, url):
        self.url = url

    def get(self, path, **parameters):
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{parameters}: {error.read().decode()}") from error

    def over(self, expression, minutes):
        now = time.time()
        return self.get("query_range", query=expression, start=now - 60 * minutes, end=now, step=5)["result"]

    def label_values(self, question):
        """What a variable of a dashboard may be: label_values(SELECTOR, LABEL)."""
        selector, label = re.fullmatch(r"label_values\((.*), *(\w+)\)", question).groups()
        return self.get(f"label/{label}/values", **{"match[]": selector})


def questions(dashboard):
    """Each expression with the title of its panel, or the name of its annotation."""
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            yield annotation["name"], annotation["expr"]
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def with_variables(text, variables):
    for name, value in variables.items():
        text = text.replace(f"${name}", value)
    return text


def why_empty(expression, minutes):
    """Why it may be; None: it may not."""
    now = time.time()
    before_the_first = (now - EVALUATED_WITHIN_S) // HALF_HOUR_S <= (now - 60 * minutes) // HALF_HOUR_S
    if before_the_first and any(part in expression for part in FROM_HALF_HOURS):
        return "before the first full half hour"
    return next((why for metric, why in EMPTY.items() if metric in expression), None)


def main():
    prometheus, cluster, minutes = Prometheus(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    wrong, empty, shown, count, answered = [], [], {}, 0, 0
    for path in sorted(DASHBOARDS.glob("*.json")):
        dashboard, variables = json.loads(path.read_text()), {"cluster": cluster}
        for variable in dashboard["templating"]["list"]:
            if variable["type"] != "query":
                continue
            values = prometheus.label_values(with_variables(variable["query"]["query"], variables))
            if not values or (variable["name"] == "cluster" and cluster not in values):
                wrong.append(f"{path.stem}: the variable {variable['name']} offers {values}")
            if variable["name"] != "cluster":
                variables[variable["name"]] = "|".join(values)
        for title, expression in questions(dashboard):
            count += 1
            found = prometheus.over(with_variables(expression, variables), minutes)
            shown.setdefault((path.stem, title), []).extend(found)
            if found:
                answered += 1
                continue
            why = why_empty(expression, minutes)
            if why:
                empty.append(f"{path.stem}, {title}: {why}")
            else:
                wrong.append(f"{path.stem}, {title}: nothing for {expression}")
    if "--failover" in sys.argv:
        for dashboard, title, labels, least in FAILOVER:
            series = [one for one in shown.get((dashboard, title), []) if labels.items() <= one["metric"].items()]
            highest = max((float(value) for one in series for _, value in one["values"]), default=None)
            if highest is None or highest < least:
                wrong.append(f"{dashboard}, {title}: no failover there ({labels or 'any'}, at most {highest})")
    for line in wrong:
        print(f"WRONG: {line}")
    told = f"{count} expressions of the dashboards: {answered} have data, {len(empty)} rightly none"
    print(told + "".join(f"\n  {line}" for line in empty))
    return 1 if wrong else 0


sys.exit(main())
