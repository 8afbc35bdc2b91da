"""Pictures of timelines are drawn for every compared episode, whatever labels and lengths there are."""

from __future__ import annotations

import json
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from PIL import Image

from tasks.errors import SettingsError
from tasks.evaluate.compare import evaluate
from tasks.evaluate.plot import COLOURS, _fitting, plot_episodes
from tasks.evaluate.source import load

UGLY = [
    "pick up the cup $x_1$ and $",
    "把杯子放到架子上",
    "x" * 300,
    "a",
    "wipe the table slowly " * 8,
    "[b]{c}<d>",
    "_^\\",
]


def truth(path: Path, *episodes: list[tuple[str, float, float]]) -> Path:
    found = [
        {
            "episode_index": i,
            "task": "do $it$",
            "frames": round(spans[-1][2] * 10),
            "subtasks": [dict(zip(("text", "start", "end"), span, strict=True)) for span in spans],
        }
        for i, spans in enumerate(episodes)
    ]
    path.write_text(json.dumps({"fps": 10, "episodes": found}))
    return path


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_each_compared_episode_has_a_picture_with_both_lanes(tmp_path: Path) -> None:
    a = load(truth(tmp_path / "a.json", [("pick", 0, 3), ("put", 3, 8)], [("pick", 0, 4), ("wipe", 4, 8)]))
    b = load(truth(tmp_path / "b.json", [("pick", 0, 2.5), ("put", 2.5, 8)], [("pick", 0, 8)]))
    drawn = list(plot_episodes(evaluate(a, b), a, b, tmp_path / "plots"))
    assert [p.name for p in drawn] == ["episode-000000.png", "episode-000001.png"]
    picture = Image.open(drawn[0]).convert("RGB")
    found = {colour for _, colour in picture.getcolors(1 << 20)}
    assert {rgb(COLOURS[0]), rgb(COLOURS[1])} <= found and (255, 255, 255) in found
    width, height = picture.size
    left = [picture.getpixel((int(width * 0.12), y)) for y in range(height)]
    lanes = sum(now == rgb(COLOURS[0]) != before for before, now in pairwise(left))
    assert lanes == 2, "the first label has the same colour on both lanes"


def test_ugly_labels_and_many_spans_are_drawn_without_a_warning(tmp_path: Path) -> None:
    spans = [(UGLY[i % len(UGLY)], i / 10, (i + 1) / 10) for i in range(120)]
    a = load(truth(tmp_path / "a.json", spans))
    b = load(truth(tmp_path / "b.json", [(text, 3 * i, 3 * i + 3) for i, text in enumerate(UGLY[:4])]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (drawn,) = plot_episodes(evaluate(a, b), a, b, tmp_path / "plots")
    assert Image.open(drawn).size[0] > 1000


def test_a_bar_holds_no_more_text_than_fits() -> None:
    assert _fitting("1  pick up the cup", "1", 0.5) == "1  pick up the cup"
    assert _fitting("1  pick up the cup", "1", 0.12).count("\n") == 1
    assert _fitting("1  pick up the cup and put it on the shelf", "1", 0.07) == "1"
    assert _fitting("10  wave", "10", 0.005) == ""


def test_without_matplotlib_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = load(truth(tmp_path / "a.json", [("pick", 0, 3)]))
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match=r"cuebook\[evaluate\]"):
        list(plot_episodes(evaluate(side, side), side, side, tmp_path / "plots"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    side = load(truth(tmp_path / "a.json", [("pick", 0, 3)]))
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="--plots"):
        list(plot_episodes(evaluate(side, side), side, side, tmp_path / "file" / "plots"))
