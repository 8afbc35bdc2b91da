"""Exported labels, imported again, are the same spans on the same frames."""

from __future__ import annotations

import json
import tempfile
from itertools import accumulate
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.check import check_dataset
from tasks.dataset.layout import open_dataset
from tasks.interchange import ExportOptions, export_labels, import_labels
from tasks.language.rows import Row
from tasks.language.styles import EVENTS, PERSISTENT
from tasks.staging import Staging
from tasks.write import write_dataset
from tests.interchange.forms import TASKS, make, rows

FORMS = ("subtask_index", "sarm", "gr00t")
TEXTS = ["pick up the “blue” block", 'say "a, b"\nthen\tc', "größer – 抓取", "x", TASKS[0], TASKS[2], "-1"]

Spans = list[tuple[int, str]]


@st.composite
def episodes(draw: st.DrawFn) -> list[tuple[int, Spans]]:
    """(frames, spans) of some episodes; spans are (frame, text), and an episode may have none."""
    out = []
    for _ in range(draw(st.integers(1, 4))):
        lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
        starts = [0, *accumulate(lengths[:-1])]
        texts = draw(st.lists(st.sampled_from(TEXTS), min_size=len(starts), max_size=len(starts)))
        whole = zip(starts, texts, ["", *texts], strict=False)
        spans = [(start, text) for start, text, before in whole if text != before]
        out.append((sum(lengths), spans if draw(st.integers(0, 3)) else []))
    if not any(spans for _, spans in out):
        out[0] = (out[0][0], [(0, "x")])
    return out


def annotated(root: Path, given_spans: list[tuple[int, Spans]], *, packed: bool) -> Path:
    """A dataset with those subtasks, written by the usual writer."""
    half = (len(given_spans) + 1) // 2
    lengths = [n for n, _ in given_spans]
    make(root, [s for s in (lengths[:half], lengths[half:]) if s], packed=packed)
    dataset, staging = open_dataset(root), Staging(root.parent / "staged")
    modules = {}
    for episode, (_, spans) in zip(dataset.episodes(), given_spans, strict=True):
        if spans:
            staged = [Row("assistant", text, "subtask", episode.times[frame]) for frame, text in spans]
            staging.write(episode.episode_index, "plan", staged, key="k", facts={})
            modules[episode.episode_index] = ("plan",)
    write_dataset(dataset, staging, modules, output=None, provenance={}, drop_subtask_index=False)
    return root


def without_rows(root: Path) -> Path:
    """The dataset without its language columns: what is imported can come from the older form only."""
    for path in root.glob("data/**/*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns([PERSISTENT, EVENTS]), path)
    info = json.loads((root / "meta/info.json").read_text())
    for name in (PERSISTENT, EVENTS):
        del info["features"][name]
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=12, deadline=None)
@given(given_spans=episodes(), packed=st.booleans(), level=st.sampled_from(["sparse", "dense"]))
def test_spans_come_back_as_they_were(form, given_spans, packed, level):
    spans = [[] if form == "gr00t" and _is_task(e) else e for _, e in given_spans]
    assume(any(spans))
    with tempfile.TemporaryDirectory() as folder:
        root = annotated(Path(folder) / "d", given_spans, packed=packed)
        out = Path(folder) / "out"
        export_labels(root, form, out, ExportOptions(sarm_level=level))
        assert rows(out) == rows(root) == [e for _, e in given_spans]
        report = import_labels(without_rows(out))
        assert check_dataset(out).findings == []
        assert (report.form, rows(out)) == (form, spans)
        assert report.without == [i for i, e in enumerate(spans) if not e]
        assert not any(report.total(n) for n in ("extended_frames", "unlabelled_frames", "overlaps", "hidden"))


def _is_task(spans: Spans) -> bool:
    """A description that says just the task of the episode is taken for no subtask."""
    return [text for _, text in spans] == [TASKS[0]]
