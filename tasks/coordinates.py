"""What the numbers of a box or point mean: each family of models counts in its own way, rows in one.

Conventions: `pixel` of the picture that was sent, `norm1000` thousandths of its sides, `norm1` shares of them.
Rows hold pixels of the camera's own frame, or thousandths of it; `image_size` and, where the numbers are no pixels,
`coordinates` say so beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.settings import AnnotateSettings

Convention = Literal["pixel", "norm1000", "norm1"]
Stored = Literal["pixel", "norm1000"]
Size = tuple[int, int]  # width, height

OUTSIDE_SHARE_MAX = 0.02  # of the frame: rounding and tight edges; what lies farther outside is a wrong answer
SIDE_MIN_PX = 1.0  # of a box, in the camera's own frame: nobody can see less
THOUSAND = 1000


class Rejected(ValueError):
    """An answer of the right shape that cannot be true."""


# ------------------------------------------------------------------------------------------------ models


@dataclass(frozen=True)
class Family:
    """Models that learned to locate things in one convention."""

    names: re.Pattern[str]
    convention: Convention
    side_multiple: int = 1  # of the picture's sides; any other size is stretched to it before the model counts


def _family(names: str, convention: Convention, side_multiple: int = 1) -> Family:
    return Family(re.compile(names, re.IGNORECASE), convention, side_multiple)


# The first that fits counts. Whatever is not here follows the rule in the prompt: pixels of the picture it was sent.
_FAMILIES: tuple[Family, ...] = (
    # Qwen2.5 counts pixels of the picture after its processor made both sides multiples of 28 (patch 14, merged by 2)
    _family(r"qwen-?2[._-]?5", "pixel", 28),
    # Qwen-VL, Qwen2-VL, and again from Qwen3 on: thousandths, whatever size the processor makes of the picture
    _family(r"qwen-?(?:2-?)?vl|qwen-?[3-9]|qvq", "norm1000"),
    _family(r"gemini|gemma|internvl|molmo-?2", "norm1000"),
    _family(r"glm-?\d(?:\.\d+)?v", "norm1000"),
    _family(r"kimi-?vl|moondream", "norm1"),
)
_UNKNOWN = _family("", "pixel")


def family_of(model_id: str) -> Family:
    """The family of a hub id, a server's model name or a folder; in the hub's cache the name is the third from last."""
    parts = model_id.rstrip("/").split("/")[:-4:-1]
    return next((f for part in parts for f in _FAMILIES if f.names.search(part)), _UNKNOWN)


def model_convention(settings: AnnotateSettings) -> Convention:
    """How the model of these settings counts: as set, else by its name."""
    wanted = settings.vqa.coordinates
    return family_of(settings.vlm.model_id).convention if wanted == "auto" else wanted


def side_multiple(settings: AnnotateSettings) -> int:
    """What both sides of a picture must be a multiple of, so that the model counts the pixels that it was sent."""
    return family_of(settings.vlm.model_id).side_multiple if model_convention(settings) == "pixel" else 1


# ------------------------------------------------------------------------------------------------ numbers


@dataclass(frozen=True)
class Scale:
    """From a model's numbers to those of a row. All methods raise Rejected for what cannot be true."""

    counted: Convention  # by the model
    shown: Size  # the picture that was sent
    own: Size  # the camera's own frame
    stored: Stored = "pixel"

    def box(self, numbers: Sequence[float]) -> list[float]:
        """x_min, y_min, x_max, y_max, in order and inside the frame."""
        shares = self._shares(numbers)
        xs, ys = sorted(shares[0::2]), sorted(shares[1::2])
        sides_px = ((xs[1] - xs[0]) * self.own[0], (ys[1] - ys[0]) * self.own[1])
        x0, y0, x1, y1 = box = self._stored([xs[0], ys[0], xs[1], ys[1]])
        if min(sides_px) < SIDE_MIN_PX or x1 <= x0 or y1 <= y0:
            raise Rejected(f"want a box of at least a pixel, got {list(numbers)}{self._doubt}")
        return box

    def point(self, numbers: Sequence[float]) -> list[float]:
        """x, y inside the frame."""
        return self._stored(self._shares(numbers))

    def stamp(self) -> dict[str, object]:
        """What tells a reader of the row what its numbers mean."""
        size: dict[str, object] = {"image_size": list(self.own)}
        return size if self.stored == "pixel" else {**size, "coordinates": self.stored}

    def _shares(self, numbers: Sequence[float]) -> list[float]:
        """Shares of width and height in turn, clamped when just outside."""
        if min(*self.shown, *self.own) <= 0:
            raise Rejected(f"want the size of the picture and of the camera's frame, got {self.shown} and {self.own}")
        if self.counted != "norm1" and all(0 <= v <= 1 for v in numbers) and any(v % 1 for v in numbers):
            raise Rejected(f"want numbers in {self.counted}, got shares: {list(numbers)}{self._doubt}")
        out = []
        for i, value in enumerate(numbers):
            full = {"pixel": self.shown[i % 2], "norm1000": THOUSAND, "norm1": 1}[self.counted]
            share = value / full
            if not -OUTSIDE_SHARE_MAX <= share <= 1 + OUTSIDE_SHARE_MAX:
                raise Rejected(f"want {'xy'[i % 2]} in 0..{full}, got {value:g}{self._doubt}")
            out.append(min(max(share, 0.0), 1.0))
        return out

    def _stored(self, shares: Sequence[float]) -> list[float]:
        if self.stored == "norm1000":
            return [round(share * THOUSAND) for share in shares]
        return [round(share * self.own[i % 2], 1) for i, share in enumerate(shares)]

    @property
    def _doubt(self) -> str:
        return f"; is vqa.coordinates={self.counted} right?"


# ------------------------------------------------------------------------------------------------ readers


def in_pixels(answer: Any) -> Any:
    """A stored answer with its numbers in pixels of the camera's own frame; what is no such answer, as it is."""
    try:
        if answer["coordinates"] != "norm1000":
            return answer
        width, height = answer["image_size"]
        full = (width / THOUSAND, height / THOUSAND)
        out = {k: v for k, v in answer.items() if k != "coordinates"}
        if "point" in out:
            out["point"] = _times(out["point"], full)
        if "detections" in out:
            out["detections"] = [{**d, "bbox": _times(d["bbox"], full)} for d in out["detections"]]
    except (KeyError, TypeError, ValueError):  # rows of other tools may hold anything
        return answer
    return out


def _times(numbers: Sequence[float], full: tuple[float, float]) -> list[float]:
    return [round(n * full[i % 2], 1) for i, n in enumerate(numbers)]
