"""Write docs/edge-flags.md from the settings models: `python docs/make_edge_flags.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from configuration.flags import describe
from edge.recording.settings import DatasetSettings
from edge.robots.registry import ROBOTS, robot_settings
from edge.rollout.settings import SETTINGS
from edge.run_settings import RunSettings

PAGE = Path(__file__).with_name("edge-flags.md")
HEAD = """# Flags of `edge run` and `edge check`

Made from the settings models by `docs/make_edge_flags.py`. The same names work in a YAML file
(`--config_path=FILE.yaml`, flags win over it). `edge fields` prints them in the terminal, and with
`--robot.type=dataset` those of one robot. A name that does not exist is refused with the nearest one that does.
"""
ORDER = ("", "policy", "inference", "safety", "display")
TITLES = {
    "": "The run", "policy": "The policy", "inference": "The server", "safety": "What may be sent to the robot",
    "display": "A viewer",
}  # fmt: skip
OTHERS = """## Other robots

Every robot of an installed LeRobot by its type, with its own options, and `module:function`: see [robots](robots.md).
"""
TABLE = "| Flag | Type | Default | Meaning |\n| --- | --- | --- | --- |\n"
Row = tuple[str, str, str, str]


def page() -> str:
    """The whole page."""
    rows = list(describe(RunSettings))
    parts = [HEAD]
    for section in ORDER:
        parts.append(_part(TITLES[section], (row for row in rows if _section(row) == section)))
    for kind in ROBOTS:
        parts.append(_part(f"Robot `--robot.type={kind}`", _below("robot", describe(robot_settings(kind)))))
    parts.append(OTHERS)
    for kind, settings in SETTINGS.items():
        if own := list(_below("strategy", describe(settings))):
            parts.append(_part(f"Strategy `--strategy.type={kind}`", own))
    parts.append(_part("Recording", _below("dataset", describe(DatasetSettings))))
    return "\n".join(parts)


def _section(row: Row) -> str:
    name = row[0].removeprefix("--")
    return name.split(".")[0] if "." in name else ""


def _below(section: str, rows: Iterable[Row]) -> Iterator[Row]:
    for flag, *rest in rows:
        yield (f"--{section}.{flag.removeprefix('--')}", *rest)  # type: ignore[misc]


def _part(title: str, rows: Iterable[Row]) -> str:
    lines = (f"| `{flag}` | {' | '.join(text.replace('|', chr(92) + '|') for text in rest)} |" for flag, *rest in rows)
    return f"## {title}\n\n{TABLE}" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
