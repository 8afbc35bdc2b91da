"""Findings of a validation or a check: what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


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
        return dict(Counter(f.check for f in self.findings).most_common())

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "ok": self.ok,
            "episodes_checked": self.episodes_checked,
            "rows_checked": self.rows_checked,
            "by_check": self.by_check(),
            "findings": [asdict(f) for f in self.findings],
        }
