"""What one request cost a robot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trip:
    """From pictures in hand to actions in hand."""

    ms: float
    sent_bytes: int
    received_bytes: int
