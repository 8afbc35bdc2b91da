"""Draw docs/temporal.svg, what each resolver finds at a frame: `python docs/make_temporal.py`.

The rows below are looked up with the resolvers themselves; every arrow leads to the row that was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from tasks.language.expression import parse_binding
from tasks.language.resolve import EpisodeTable, resolve
from tasks.language.rows import Row

PICTURE = Path(__file__).with_name("temporal.svg")
FPS, LENGTH_S, NOW_S = 10, 8.0, 5.0
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
SUBTASKS = [
    Row("assistant", text, "subtask", time_s)
    for time_s, text in (
        (0.0, "pick up the red block"),
        (2.2, "put it in the tray"),
        (3.8, "pick up the blue block"),
        (6.2, "put it in the tray"),
    )
]
MEMORIES = [
    Row("assistant", text, "memory", time_s)
    for time_s, text in ((2.2, "I hold the red block."), (3.8, "Red is in the tray."), (6.2, "I hold the blue block."))
]
PERSON = [Row("user", "The blue one too, please.", "interjection", NOW_S)]
ROBOT = [Row.speech("I'll start with red.", 0.0), Row.speech("Yes, I am at it.", NOW_S)]
ASKED = {
    camera: [Row("user", "Which block is nearer?", "vqa", time_s, camera) for time_s in times]
    for camera, times in ((FRONT, (1.0, 3.0, 5.0, 7.0)), (WRIST, (1.0, 5.0)))
}
ANSWERED = [
    Row("assistant", '{"label": "block", "type": "attribute", "value": "blue"}', "vqa", row.timestamp, camera)
    for camera, rows in ASKED.items()
    for row in rows
]

WIDTH, HEIGHT, LEFT, RIGHT = 980, 520, 120, 950
BAR = 32  # height of a span
SUBTASK_Y, MEMORY_Y = 124, 250  # tops of the lanes with spans
EVENT_Y = {"person": 326, "robot": 366, "vqa front": 402, "vqa wrist": 432}  # middles of the lanes with marks
AXIS_Y = 484
# The drawing has a ground of its own, so that it reads on any page; it is dark where the reader's system is.
STYLE = """
  text { font: 13px ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f }
  .code { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
  .lane, .tick { fill: #57606a } .lane { text-anchor: end } .tick { font-size: 11px; text-anchor: middle }
  .said { font-style: italic; fill: #57606a } .end { text-anchor: end } .mid { text-anchor: middle }
  .ground { fill: #ffffff; stroke: #d0d7de } .axis { stroke: #8c959f; fill: none }
  .span { fill: #eaeef2; stroke: #8c959f } .found { fill: #cfe3ff; stroke: #0550ae; stroke-width: 2 }
  .mark { fill: #8c959f } .mark.found { fill: #0550ae; stroke: none }
  .now { stroke: #bc4c00; stroke-width: 2; stroke-dasharray: 5 4 } .nowtext { fill: #bc4c00; font-weight: 600 }
  .arrow { stroke: #0550ae; stroke-width: 1.5; fill: none } .head { fill: #0550ae }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .lane, .tick, .said { fill: #9198a1 }
    .ground { fill: #0d1117; stroke: #3d444d } .axis { stroke: #656c76 }
    .span { fill: #212830; stroke: #656c76 } .found { fill: #12315c; stroke: #79b8ff }
    .mark { fill: #656c76 } .mark.found { fill: #79b8ff } .now { stroke: #ffa657 } .nowtext { fill: #ffa657 }
    .arrow { stroke: #79b8ff } .head { fill: #79b8ff }
  }
"""


def x_of(time_s: float) -> float:
    """Where a time lies."""
    return LEFT + (RIGHT - LEFT) * time_s / LENGTH_S


NOW_X = x_of(NOW_S)


def table() -> EpisodeTable:
    """The episode that is drawn."""
    happening = [*PERSON, *ROBOT, *ASKED[FRONT], *ASKED[WRIST], *ANSWERED]
    events = ((round(row.timestamp * FPS), row) for row in happening)
    return EpisodeTable.at_fps([*SUBTASKS, *MEMORIES], events, FPS)


def found(expression: str) -> Row:
    """The row that an expression finds at the drawn frame."""
    row = resolve(table(), round(NOW_S * FPS), parse_binding(expression))
    assert row is not None, f"{expression} finds nothing to draw"
    return row


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}">{escape(words, quote=False)}</text>'


def arrow(path: str) -> str:
    return f'<path class="arrow" d="{path}" marker-end="url(#head)"/>'


def span_lane(name: str, rows: list[Row], y: float, hits: list[Row]) -> Iterator[str]:
    """Rows as bars, each until the next one begins."""
    yield text(LEFT - 12, y + 21, name, "lane")
    for row, end_s in zip(rows, [*(r.timestamp for r in rows[1:]), LENGTH_S], strict=True):
        x, width = x_of(row.timestamp), x_of(end_s) - x_of(row.timestamp)
        kind = "span found" if any(row is hit for hit in hits) else "span"
        yield f'<rect class="{kind}" x="{x + 1:.1f}" y="{y}" width="{width - 2:.1f}" height="{BAR}" rx="5"/>'
        yield text(x + 10, y + 21, row.content or "")


def event_lane(name: str, rows: list[Row], hit: Row) -> Iterator[str]:
    """Rows as marks on their frames, with what is said."""
    y = EVENT_Y[name]
    yield text(LEFT - 12, y + 4, name, "lane")
    yield f'<path class="axis" d="M{LEFT} {y}H{RIGHT}" stroke-opacity="0.35"/>'
    for row in rows:
        x = x_of(row.timestamp)
        kind, radius = ("mark found", 7) if row is hit else ("mark", 5)
        yield f'<circle class="{kind}" cx="{x:.1f}" cy="{y}" r="{radius}"/>'
        if row.style != "vqa":
            said = row.content or row.tool_calls[0]["function"]["arguments"]["text"]  # type: ignore[index]
            yield text(x + 14, y - 8, f"“{said}”", "said")


def states(style: str, rows: list[Row], y: float, following: bool) -> Iterator[str]:
    """A lane of states, and the arrows to those that are found."""
    now, before = found(f"active_at(t, style={style})"), found(f"nth_prev(style={style}, offset=1)")
    after = [found(f"nth_next(style={style}, offset=1)")] if following else []
    yield from span_lane(style, rows, y, [now, before, *after])
    target_x = x_of(before.timestamp) + 48
    yield arrow(f"M{NOW_X} {y - 54}H{target_x + 8:.0f}q-8 0-8 8V{y - 4}")
    yield text(NOW_X - 14, y - 60, f"nth_prev(style={style}, offset=1)", "code end")
    for row in after:
        target_x = x_of(row.timestamp) + 146
        yield arrow(f"M{NOW_X} {y - 54}H{target_x - 8:.0f}q8 0 8 8V{y - 4}")
        yield text(NOW_X + 14, y - 60, f"nth_next(style={style}, offset=1)", "code")
    yield arrow(f"M{NOW_X} {y - 32}h18q8 0 8 8V{y - 4}")
    yield text(NOW_X + 34, y - 16, f"active_at(t, style={style})", "code")


def events() -> Iterator[str]:
    """Lanes of events, and the arrows to those of the drawn frame."""
    for name, rows, expression in (
        ("person", PERSON, "emitted_at(t, style=interjection)"),
        ("robot", ROBOT, "emitted_at(t, role=assistant, tool_name=say)"),
    ):
        yield from event_lane(name, rows, found(expression))
        y = EVENT_Y[name]
        yield arrow(f"M{NOW_X - 46} {y}H{NOW_X - 13}")
        yield text(NOW_X - 16, y - 8, expression, "code end")
    asked = found(f"emitted_at(t, style=vqa, role=user, camera={WRIST})")  # both cameras have a question here
    for camera, rows in ASKED.items():
        yield from event_lane(f"vqa {camera.rsplit('.', 1)[-1]}", rows, asked)
    y = EVENT_Y["vqa wrist"]
    yield arrow(f"M{NOW_X - 46} {y}H{NOW_X - 13}")
    yield text(NOW_X - 16, y + 20, "emitted_at(t, style=vqa, role=user, camera=…wrist)", "code end")


def axis() -> Iterator[str]:
    """Seconds, and the frame at which everything is looked up."""
    yield f'<path class="axis" d="M{LEFT} {AXIS_Y}H{RIGHT}"/>'
    for second in range(int(LENGTH_S) + 1):
        yield f'<path class="axis" d="M{x_of(second):.1f} {AXIS_Y}v5"/>'
        yield text(x_of(second), AXIS_Y + 18, f"{second} s", "tick")
    yield f'<path class="now" d="M{NOW_X} 38V{AXIS_Y}"/>'
    yield text(NOW_X, 30, f"t: frame {round(NOW_S * FPS)}, {NOW_S} s", "nowtext mid")


def page() -> str:
    """The whole picture."""
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        "<title>What the four resolvers find at one frame of an episode</title>",
        f"<style>{STYLE}</style>",
        f'<defs>{head}<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>',
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>',
        *axis(),
        *states("subtask", SUBTASKS, SUBTASK_Y, following=True),
        *states("memory", MEMORIES, MEMORY_Y, following=False),
        *events(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(page(), encoding="utf-8")
