"""Findings of a validation or a check: what is wrong, where, and what to do about it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasks.dataset.files import write_atomic

FINDINGS_PER_CHECK_MAX = 1000  # more of one kind are counted, not listed


@dataclass(frozen=True)
class Finding:
    """One thing found."""

    severity: Literal["error", "warning"]
    check: str  # stable name of the rule, for tests and machines
    message: str
    remedy: str
    episode: int | None = None
    phase: str | None = None
    row: int | None = None  # 1-based line in the staged file, or frame row in a written dataset

    @property
    def where(self) -> str:
        """Place in words."""
        parts = [f"episode {self.episode}"] if self.episode is not None else []
        parts += [self.phase] if self.phase else []
        parts += [f"row {self.row}"] if self.row is not None else []
        return ", ".join(parts) or "dataset"


@dataclass
class Report:
    """All findings of one pass."""

    findings: list[Finding] = field(default_factory=list)
    episodes_checked: int = 0
    rows_checked: int = 0
    unlisted: dict[str, int] = field(default_factory=dict)  # per check: findings counted beyond the limit

    def extend(self, findings: Iterable[Finding], counts: Mapping[str, int] | None = None) -> None:
        """Add findings up to the limit per check. `counts`: how many there were, where not all are handed over."""
        listed = Counter(f.check for f in self.findings)
        given: Counter[str] = Counter()
        beyond = Counter(self.unlisted)
        for finding in findings:
            given[finding.check] += 1
            if listed[finding.check] < FINDINGS_PER_CHECK_MAX:
                listed[finding.check] += 1
                self.findings.append(finding)
            else:
                beyond[finding.check] += 1
        for check, count in (counts or {}).items():
            beyond[check] += count - given[check]
        self.unlisted = dict(+beyond)

    @property
    def errors(self) -> list[Finding]:
        """Findings that forbid writing."""
        return [f for f in self.findings if f.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Findings worth a look."""
        return [f for f in self.findings if f.severity == "warning"]

    @property
    def ok(self) -> bool:
        """No errors."""
        return not self.errors

    def by_check(self) -> dict[str, int]:
        """How often each rule was broken."""
        return dict((Counter(f.check for f in self.findings) + Counter(self.unlisted)).most_common())

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "ok": self.ok,
            "episodes_checked": self.episodes_checked,
            "rows_checked": self.rows_checked,
            "by_check": self.by_check(),
            "unlisted": self.unlisted,
            "findings": [asdict(f) for f in self.findings],
        }


def save_report(report: Report, path: Path) -> None:
    """Write the report as JSON, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(report.to_json(), indent=1, ensure_ascii=False).encode())
