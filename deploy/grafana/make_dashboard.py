"""Write cuebook-serving.json, the dashboard for Grafana: `python deploy/grafana/make_dashboard.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).with_name("cuebook-serving.json")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
WHERE = '{instance=~"$instance"}'
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

# row -> panels: title, unit, expressions by legend
ROWS: dict[str, list[tuple[str, str, dict[str, str]]]] = {
    "Traffic": [
        ("Requests", "reqps", {"{{instance}}": f"rate(cuebook_serving_requests_total{WHERE}[$__rate_interval])"}),
        (
            "Failed requests by code",
            "reqps",
            {"{{code}}": f"sum by (code) (rate(cuebook_serving_errors_total{WHERE}[$__rate_interval]))"},
        ),
        (
            "Events sent by code",
            "ops",
            {"{{code}}": f"sum by (code) (rate(cuebook_serving_events_total{WHERE}[$__rate_interval]))"},
        ),
    ],
    "Latency": [
        (
            "Whole request",
            "s",
            {
                name: f"histogram_quantile({q}, sum by (le) "
                f"(rate(cuebook_serving_request_seconds_bucket{WHERE}[$__rate_interval])))"
                for name, q in QUANTILES.items()
            },
        ),
        *(
            (
                f"Stages, {name}",
                "s",
                {
                    "{{stage}}": f"histogram_quantile({q}, sum by (le, stage) "
                    f"(rate(cuebook_serving_stage_seconds_bucket{WHERE}[$__rate_interval])))"
                },
            )
            for name, q in QUANTILES.items()
        ),
    ],
    "Policy and GPU": [
        (
            "Busy share",
            "percentunit",
            {"{{instance}}": f"rate(cuebook_serving_policy_busy_seconds_total{WHERE}[$__rate_interval])"},
        ),
        (
            "Requests in a batch",
            "short",
            {
                "mean": f"sum(rate(cuebook_serving_batch_size_sum{WHERE}[$__rate_interval])) / "
                f"sum(rate(cuebook_serving_batch_size_count{WHERE}[$__rate_interval]))",
                "p95": f"histogram_quantile(0.95, sum by (le) "
                f"(rate(cuebook_serving_batch_size_bucket{WHERE}[$__rate_interval])))",
            },
        ),
        (
            "Signs of life",
            "s",
            {
                "batch under way, {{instance}}": f"cuebook_serving_predicting_seconds{WHERE}",
                "since the last heartbeat, {{instance}}": f"cuebook_serving_heartbeat_age_seconds{WHERE}",
            },
        ),
    ],
    "Sessions": [
        (
            "Sessions",
            "short",
            {
                "open, {{instance}}": f"cuebook_serving_active_sessions{WHERE}",
                "room for, {{instance}}": f"cuebook_serving_sessions_max{WHERE}",
            },
        ),
        (
            "Opened and ended",
            "short",
            {
                "opened": f"sum(increase(cuebook_serving_sessions_opened_total{WHERE}[$__rate_interval]))",
                "ended": f"sum(increase(cuebook_serving_sessions_closed_total{WHERE}[$__rate_interval]))",
            },
        ),
        (
            "Refused by code",
            "short",
            {"{{code}}": f"sum by (code) (increase(cuebook_serving_rejects_total{WHERE}[$__rate_interval]))"},
        ),
        (
            "State",
            "bool_yes_no",
            {
                "ready, {{instance}}": f"cuebook_serving_ready{WHERE}",
                "draining, {{instance}}": f"cuebook_serving_draining{WHERE}",
                "connected, {{instance}}": f"cuebook_serving_connected{WHERE}",
            },
        ),
    ],
    "Drops": [
        (
            "Observations dropped by reason",
            "ops",
            {"{{reason}}": f"sum by (reason) (rate(cuebook_serving_dropped_total{WHERE}[$__rate_interval]))"},
        ),
        (
            "Superseded observations a request",
            "percentunit",
            {
                "{{instance}}": f"rate(cuebook_serving_superseded_total{WHERE}[$__rate_interval]) / "
                f"rate(cuebook_serving_requests_total{WHERE}[$__rate_interval])"
            },
        ),
        (
            "Dropped by the network layer",
            "ops",
            {"{{reason}}": f"sum by (reason) (rate(cuebook_serving_network_dropped_total{WHERE}[$__rate_interval]))"},
        ),
        (
            "Log entries lost",
            "ops",
            {"{{log}}": f"sum by (log) (rate(cuebook_serving_log_lost_total{WHERE}[$__rate_interval]))"},
        ),
    ],
    "Process": [
        ("Memory", "bytes", {"{{instance}}": f"cuebook_serving_process_resident_memory_bytes{WHERE}"}),
        (
            "CPU",
            "percentunit",
            {"{{instance}}": f"rate(cuebook_serving_process_cpu_seconds_total{WHERE}[$__rate_interval])"},
        ),
        ("Open files", "short", {"{{instance}}": f"cuebook_serving_process_open_fds{WHERE}"}),
    ],
}


def dashboard() -> dict[str, Any]:
    """The whole of it."""
    return {
        "uid": "cuebook-serving",
        "title": "Cuebook serving",
        "tags": ["cuebook", "robotics"],
        "description": "Policy servers: traffic, latency by stage, GPU, sessions, drops. See docs/observability.md.",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source(), _instances()]},
        "panels": _panels(),
    }


def text() -> str:
    """As it stands in the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _panels() -> list[dict[str, Any]]:
    panels, y = [_served(0)], 4
    for row, content in ROWS.items():
        panels.append(
            {"type": "row", "title": row, "collapsed": False, "gridPos": _place(0, y, WIDTH, 1), "panels": []}
        )
        width = WIDTH // len(content)
        for i, (title, unit, expressions) in enumerate(content):
            panels.append(_graph(title, unit, expressions, _place(i * width, y + 1, width, 8)))
        y += 9
    return [{"id": number, **panel} for number, panel in enumerate(panels, 1)]


def _graph(title: str, unit: str, expressions: dict[str, str], place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": _targets(expressions),
    }


def _served(y: int) -> dict[str, Any]:
    """Which model each instance serves."""
    return {
        "type": "table",
        "title": "Served",
        "datasource": SOURCE,
        "gridPos": _place(0, y, WIDTH, 4),
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {"showHeader": True},
        "targets": [
            {**target, "format": "table", "instant": True} for target in _targets({"": f"cuebook_serving_info{WHERE}"})
        ],
        "transformations": [
            {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True, "__name__": True}}}
        ],
    }


def _targets(expressions: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
        for i, (legend, expression) in enumerate(expressions.items())
    ]


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _instances() -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Server",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(cuebook_serving_ready, instance)", "refId": "instances"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


if __name__ == "__main__":
    DASHBOARD.write_text(text(), encoding="utf-8")
