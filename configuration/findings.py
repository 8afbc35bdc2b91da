"""What a check came to, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table

Outcome = Literal["ok", "warning", "error", "unchecked"]
COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red", "unchecked": "dim"}


@dataclass(frozen=True)
class Finding:
    """What one check came to."""

    what: str
    outcome: Outcome
    said: str
    remedy: str = ""


def findings_table(title: str, findings: Sequence[Finding]) -> Table:
    """One row a finding."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, title=title or None)
    for name in ("", "what", "found", "do"):
        table.add_column(name, no_wrap=not name, overflow="fold")  # keys and paths are never cut
    for finding in findings:
        mark = Text(finding.outcome, style=COLOURS[finding.outcome])
        table.add_row(mark, Text(finding.what), Text(finding.said), Text(finding.remedy))
    return table
