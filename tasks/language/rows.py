"""A typed language row, as staged and as written."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from tasks.errors import RowError
from tasks.language.styles import check_camera, style

Json = Any
FIELDS = frozenset({"role", "content", "style", "timestamp", "camera", "tool_calls"})


def say(text: str) -> list[dict[str, Json]]:
    """The tool calls of a speech atom."""
    return [{"type": "function", "function": {"name": "say", "arguments": {"text": text}}}]


@dataclass(frozen=True)
class Row:
    """One row. `timestamp` is a frame's own timestamp in seconds; `style` None marks a speech atom."""

    role: str
    content: str | None
    style: str | None
    timestamp: float
    camera: str | None = None
    tool_calls: list[dict[str, Json]] | None = None

    @classmethod
    def speech(cls, text: str, timestamp: float) -> Row:
        """A robot utterance: a `say` call without content."""
        return cls("assistant", None, None, timestamp, tool_calls=say(text))

    @classmethod
    def from_json(cls, line: dict[str, Json]) -> Row:
        """A row from a staged object; absent keys are null."""
        row = cls.__new__(cls)  # past the __init__ of a frozen class: there are hundreds of thousands of rows
        row.__dict__.update(line if line.keys() == FIELDS else {k: line.get(k) for k in FIELDS})
        return row

    def to_json(self) -> str:
        """One staged line: keys sorted, non-ASCII kept."""
        return json.dumps(self.__dict__, sort_keys=True, ensure_ascii=False, allow_nan=False)

    def check(self) -> Row:
        """Raise RowError when the columns cannot hold this row; else return it."""
        if self.style is None:
            self._check_speech()
        else:
            kind = style(self.style)
            if self.role not in kind.roles:
                raise RowError(f"want role {' or '.join(kind.roles)} on a {self.style} row", repr(self.role))
            if not self.tool_calls and not (isinstance(self.content, str) and self.content.strip()):
                raise RowError(f"want content on a {self.style} row", repr(self.content))
        if not isinstance(self.timestamp, int | float) or not math.isfinite(self.timestamp):
            raise RowError("want a finite timestamp", repr(self.timestamp), "use the frame's own timestamp")
        check_camera(self.style, self.camera)
        return self

    def _check_speech(self) -> None:
        try:
            (call,) = self.tool_calls or []
            ok = call["type"] == "function" and call["function"]["name"] == "say"
            text = call["function"]["arguments"]["text"]
            ok = ok and isinstance(text, str) and bool(text.strip())
        except (KeyError, TypeError, ValueError):
            ok = False
        if not ok or self.role != "assistant" or self.content is not None:
            raise RowError(
                "want a speech atom on a row without style: role assistant, content null, one say call with text",
                f"role {self.role!r}, content {self.content!r}, tool_calls {self.tool_calls!r}",
            )
