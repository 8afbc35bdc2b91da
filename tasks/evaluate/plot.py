"""Pictures of two timelines, one PNG per episode: spans as bars, boundaries as lines, found boundaries joined.

A label has the same number and colour on both sides; numbers are spelled out below.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import SettingsError
from tasks.evaluate.labels import normalise
from tasks.evaluate.report import EpisodeResult, Evaluation
from tasks.evaluate.segments import boundaries, match_boundaries
from tasks.evaluate.source import Annotated, Source
from tasks.segments import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#4c78a8", "#e39b4b", "#5b9e6f", "#b0605a", "#8b74ad", "#7c7c48", "#c6769d", "#4f9ea3", "#9c7a5b", "#6b7280")
WIDTH_IN, DPI = 11.0, 110
LANE_IN, HEAD_IN, LEGEND_LINE_IN, AXIS_IN = 0.62, 0.75, 0.2, 0.5
LEGEND_COLUMNS, LEGEND_CHARS_MAX = 2, 72
CHAR_SHARE = 0.0068  # of the picture's width, per character of a bar's text
LINES_MAX = 3
LINK_S = 1.0  # boundaries so close are joined by a line
LANES = {"root": 1.0, "reference": 0.0}  # where the middles of the bars lie
BAR_HEIGHT = 0.62
WRITING: dict[str, Any] = {"va": "center", "parse_math": False}  # a dollar sign is no formula


def check_matplotlib() -> None:
    """Raise SettingsError when pictures cannot be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as err:
        raise SettingsError("want matplotlib for --plots", str(err), "pip install 'cuebook[evaluate]'") from err


def plot_episodes(evaluation: Evaluation, root: Source, reference: Source, folder: Path) -> Iterator[Path]:
    """Draw every compared episode into `folder`, yielding each file. Raises SettingsError."""
    check_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise SettingsError("want to draw into --plots", str(err), "name a folder that can be written") from err
    names = {"root": root.name, "reference": reference.name}
    for result in evaluation.episodes:
        path = folder / f"episode-{result.index:06d}.png"
        plot_episode(result, root.episodes[result.index], reference.episodes[result.index], names, path)
        yield path


def plot_episode(result: EpisodeResult, a: Annotated, b: Annotated, names: dict[str, str], path: Path) -> None:
    """Draw one episode."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    texts = list({normalise(s.text): s.text for s in (*b.spans, *a.spans)}.values())
    numbers = {normalise(text): i for i, text in enumerate(texts)}
    lines = -(-len(texts) // LEGEND_COLUMNS)
    height = HEAD_IN + 2 * LANE_IN + AXIS_IN + lines * LEGEND_LINE_IN + 0.15
    figure = Figure((WIDTH_IN, height), DPI, facecolor="white")
    FigureCanvasAgg(figure)
    bottom = (lines * LEGEND_LINE_IN + 0.15 + AXIS_IN) / height
    axes = figure.add_axes((0.09, bottom, 0.89, 2 * LANE_IN / height))
    end_s = max(a.end_s, b.end_s)
    for lane, episode in (("root", a), ("reference", b)):
        _lane(axes, LANES[lane], episode.spans, numbers, end_s)
    _links(axes, a, b)
    _dress(axes, end_s)
    _heading(figure, result, names, height)
    _legend(figure, texts, height)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a script that the font lacks is drawn as boxes
        figure.savefig(path)


def _lane(axes: Axes, middle: float, spans: Sequence[Span], numbers: dict[str, int], end_s: float) -> None:
    for span in spans:
        number = numbers[normalise(span.text)]
        colour = COLOURS[number % len(COLOURS)]
        bar = {"height": BAR_HEIGHT, "color": colour, "edgecolor": "white", "linewidth": 1.5}
        axes.barh(middle, span.length_s, left=span.start, **bar)
        words = _fitting(f"{number + 1}  {span.text}", str(number + 1), span.length_s / end_s)
        centre = span.start + span.length_s / 2
        style = {"ha": "center", "color": "white", "fontsize": 8, "clip_on": True}
        axes.text(centre, middle, words, **style, **WRITING)


def _fitting(words: str, short: str, share: float) -> str:
    """A bar's text in a few lines; its number alone where there is no room."""
    columns = int(share / CHAR_SHARE * 0.89)
    if columns < 8:
        return short if columns >= len(short) else ""
    lines = textwrap.wrap(words, columns, break_long_words=False)
    fits = len(lines) <= LINES_MAX and max(map(len, lines)) <= columns
    return "\n".join(lines) if fits else short


def _links(axes: Axes, a: Annotated, b: Annotated) -> None:
    """Boundaries that belong together, from lane to lane; those without counterpart get a red end."""
    cuts = [boundaries(e.spans, e.times[0], e.end_s) for e in (a, b)]
    pairs = match_boundaries(*cuts, LINK_S)
    half = BAR_HEIGHT / 2
    for i, j in pairs:
        ends = [LANES["root"] - half, LANES["reference"] + half]
        axes.plot([cuts[0][i], cuts[1][j]], ends, color="#374151", linewidth=1.2, solid_capstyle="round")
    alone = {"marker": "x", "color": "#c81e1e", "linestyle": "none", "markersize": 5, "markeredgewidth": 1.4}
    gap = 0.09
    for side, level in ((0, LANES["root"] - half - gap), (1, LANES["reference"] + half + gap)):
        paired = {pair[side] for pair in pairs}
        times = [t for i, t in enumerate(cuts[side]) if i not in paired]
        axes.plot(times, [level] * len(times), **alone)


def _dress(axes: Axes, end_s: float) -> None:
    axes.set_xlim(0, end_s)
    axes.set_ylim(LANES["reference"] - 0.5, LANES["root"] + 0.5)
    axes.set_yticks(list(LANES.values()), list(LANES))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(labelsize=9, colors="#374151")
    axes.set_xlabel("seconds", fontsize=9, color="#374151")
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#9ca3af")


def _heading(figure: Any, result: EpisodeResult, names: dict[str, str], height: float) -> None:
    title = f"episode {result.index}" + (f": {result.task}" if result.task else "")
    figure.text(0.012, 1 - 0.2 / height, _short(title, 110), fontsize=11, weight="bold", color="#111827", **WRITING)
    figures = [
        f"{shown} {value:.2f}"
        for shown, name in (
            ("boundary F1 at 1 s", "boundary_f1_1s"),
            ("overlap", "iou"),
            ("same label per frame", "frame_accuracy"),
            ("label words", "label_token_f1"),
        )
        if (value := result.value(name)) is not None
    ]
    line = f"{_short(names['root'], 40)} against {_short(names['reference'], 40)}   ·   " + "   ".join(figures)
    figure.text(0.012, 1 - 0.47 / height, line, fontsize=9, color="#4b5563", **WRITING)


def _legend(figure: Any, texts: Sequence[str], height: float) -> None:
    lines = -(-len(texts) // LEGEND_COLUMNS)
    for i, text in enumerate(texts):
        column, line = divmod(i, max(lines, 1))
        x = 0.09 + column * 0.89 / LEGEND_COLUMNS
        y = (0.1 + (lines - line - 0.5) * LEGEND_LINE_IN) / height
        figure.text(x, y, f"{i + 1}", fontsize=8.5, weight="bold", color=COLOURS[i % len(COLOURS)], **WRITING)
        figure.text(x + 0.02, y, _short(text, LEGEND_CHARS_MAX), fontsize=8.5, color="#374151", **WRITING)


def _short(text: str, chars: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= chars else flat[: chars - 1] + "…"
