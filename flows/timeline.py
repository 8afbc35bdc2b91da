"""An episode as lanes over a time axis: subtasks as bars, everything else as marks."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group
from rich.text import Text

from tasks.episode_view import EpisodeView

SUBTASK_COLOURS = ("#2a6f97", "#7a5c9e", "#3d7f5f", "#a3563f", "#6b6f2c", "#9a4671")  # white text reads on each
LANE_MAX = 16  # columns of a lane's name
TICKS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
TICK_COLUMNS_MIN = 8  # room for a number between two ticks
CAMERA_PREFIXES = ("observation.images.", "observation.image.", "observation.")


def camera_name(key: str) -> str:
    """A camera's key without the prefix that all cameras share."""
    for prefix in CAMERA_PREFIXES:
        if key.startswith(prefix):
            return key.removeprefix(prefix)
    return key


def timeline(view: EpisodeView, width: int) -> Group:
    """The lanes that have anything on them, `width` columns wide, and the axis below."""
    lanes: list[tuple[str, str, str, list[float]]] = [  # name, mark, style, times
        ("plan", "▲", "blue", [note.time_s for note in view.plans]),
        ("memory", "●", "green", [note.time_s for note in view.memories]),
        ("person", "▼", "magenta", [x.time_s for x in view.exchanges if x.person]),
        ("robot", "◆", "cyan", [x.time_s for x in view.exchanges if x.robot]),
    ]
    for camera in sorted({q.camera for q in view.vqa}):
        times = [q.time_s for q in view.vqa if q.camera == camera]
        lanes.append((f"vqa {camera_name(camera)}", "╵", "yellow", times))
    lanes.append(("other", "+", "white", [r.timestamp for r in view.others]))
    marked = [lane for lane in lanes if lane[3]]
    names = [lane[0] for lane in marked] + ["subtasks"]
    label = min(LANE_MAX, max(map(len, names)))
    scale = _Scale(view.episode.start_s, view.episode.end_s, width - label - 1)
    rows = [_lane("subtasks", label, _bars(view, scale))] if view.subtasks else []
    rows += [_lane(name, label, _marks(times, mark, style, scale)) for name, mark, style, times in marked]
    axis, numbers = _axis(scale)
    return Group(*rows, _lane("", label, axis), _lane("s", label, numbers))


class _Scale:
    """From seconds to columns."""

    def __init__(self, start_s: float, end_s: float, columns: int) -> None:
        self.start_s, self.columns = start_s, max(columns, 2)
        self.length_s = max(end_s - start_s, 1e-6)

    def column(self, time_s: float) -> int:
        """The column of a time; the last frame has the last column."""
        share = (time_s - self.start_s) / self.length_s
        return min(max(round(share * (self.columns - 1)), 0), self.columns - 1)


def _lane(name: str, label: int, content: Text) -> Text:
    short = name if len(name) <= label else name[: label - 1] + "…"
    return Text.assemble((short.rjust(label), "dim"), " ", content, no_wrap=True, overflow="crop")


def _bars(view: EpisodeView, scale: _Scale) -> Text:
    """One bar per subtask with its number and as much of its text as fits; │ parts them where there is no colour."""
    starts = [scale.column(s.start) for s in view.subtasks]
    bars = Text(" " * starts[0])
    for i, (span, start) in enumerate(zip(view.subtasks, starts, strict=True)):
        end = starts[i + 1] if i + 1 < len(starts) else scale.columns
        room = end - start
        words = f"│{i + 1} {span.text}"
        cut = words if len(words) <= room else words[: max(room - 1, 0)] + ("…" if room > 2 else " ")
        bars.append(cut[:room].ljust(room), f"white on {SUBTASK_COLOURS[i % len(SUBTASK_COLOURS)]}")
    return bars


def _marks(times: Iterable[float], mark: str, style: str, scale: _Scale) -> Text:
    cells = [" "] * scale.columns
    for t in times:
        cells[scale.column(t)] = mark
    return Text("".join(cells), style)


def _axis(scale: _Scale) -> tuple[Text, Text]:
    """A line with ticks, and their seconds below."""
    fits = (t for t in TICKS_S if scale.length_s / t * TICK_COLUMNS_MIN <= scale.columns)
    step_s = next(fits, scale.length_s)
    line, numbers = ["─"] * scale.columns, [" "] * (scale.columns + TICK_COLUMNS_MIN)
    for i in range(int(scale.length_s / step_s + 1e-6) + 1):
        at = scale.column(scale.start_s + i * step_s)
        line[at] = "┴"
        number = f"{scale.start_s + i * step_s:g}"
        numbers[at : at + len(number)] = number
    return Text("".join(line), "dim"), Text("".join(numbers).rstrip()[: scale.columns], "dim")
