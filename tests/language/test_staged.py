"""Staged lines: the quick way and the careful way read the same, and only the careful way judges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.errors import RowError, StagingError
from tasks.language import staged as staged_module
from tasks.language.rows import Row
from tasks.language.staged import StagedFile, read_staged
from tasks.language.styles import PERSISTENT, column_for_style
from tests.tiny import CAMERA

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 10**6)


def row(style: str, role: str, **camera: str) -> st.SearchStrategy[Row]:
    """Rows of one style; some without words."""
    return st.builds(lambda text, t: Row(role, text, style, t, camera.get("camera")), TEXTS, FLOATS)


PLAN = row("subtask", "assistant") | row("plan", "assistant") | row("task_aug", "user") | row("memory", "assistant")
SPEECH = row("interjection", "user") | st.builds(Row.speech, TEXTS, FLOATS)
VQA = row("vqa", "user", camera=CAMERA) | row("vqa", "assistant", camera=CAMERA)


def staged_file(folder: Path, position: int, module: str, lines: list[str]) -> StagedFile:
    """A file of those lines."""
    path = folder / f"{position}-{module}.jsonl"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return StagedFile(position, module, path)


def columns(files: list[StagedFile]) -> list[list[dict]]:
    """Both tables, in staged order; or the error."""
    try:
        tables = read_staged(files)
    except RowError as err:
        return [[{"error": err.wanted}]]
    return [t.sort_by([("episode", "ascending"), ("order", "ascending")]).to_pylist() for t in tables]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PLAN, max_size=6), st.lists(SPEECH, max_size=4), st.lists(VQA, max_size=4))
def test_the_quick_way_reads_what_the_careful_way_reads(tmp_path, plan, speech, vqa):
    modules = {"plan": plan, "interjections": speech, "vqa": vqa}
    files = [staged_file(tmp_path, i, m, [r.to_json() for r in rows]) for i, (m, rows) in enumerate(modules.items())]
    quick = columns(files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staged_module, "PLAIN_END", b"no line ends so")
        careful = columns(files)
    if "error" in quick[0][0] if quick[0] else False:
        assert "error" in careful[0][0]
        return
    assert quick == careful
    kept = sorted((r.timestamp, r.content or "") for rows in modules.values() for r in rows)
    assert sorted((r["timestamp"], r["content"] or "") for table in quick for r in table) == kept
    assert {column_for_style(r["style"]) for r in quick[0]} <= {PERSISTENT}


GOOD = Row("assistant", "lift", "subtask", 0.0).to_json()


@pytest.mark.parametrize(
    "bad",
    [
        '{"content": "x", "role": "assistant", "style": "subtask", "timestamp": "0", "tool_calls": null}',
        '{"content": "x", "role": "assistant", "style": "subtask", "timestamp": NaN, "tool_calls": null}',
        '{"content": "x", "role": "assistant", "style": "subtask", "tool_calls": null}',
        '{"content": 3, "role": "assistant", "style": "subtask", "timestamp": 0, "tool_calls": null}',
        '{"content": "x", "role": "assistant", "style": "vqa", "timestamp": 0, "tool_calls": null}',
        '{"content": "x", "role": "user", "style": "subtask", "timestamp": 0, "tool_calls": null}',
        '{"camera": "c", "content": "x", "role": "assistant", "style": "subtask", "timestamp": 0, "tool_calls": null}',
        '{"content": "\\u2003", "role": "assistant", "style": "subtask", "timestamp": 0, "tool_calls": null}',
        '{"content": "x", "role": "assistant", "timestamp": 0, "tool_calls": null}',
    ],
)
def test_a_bad_line_among_good_ones_is_named(tmp_path, bad):
    file = staged_file(tmp_path, 0, "plan", [GOOD, "", bad, GOOD])
    with pytest.raises(RowError, match=r"line 3 of .*0-plan\.jsonl"):
        read_staged([file])


@pytest.mark.parametrize("bad", ['{"tool_calls": null}{"tool_calls": null}', '"tool_calls": null}', "[1]", '"x"', "{"])
def test_lines_that_are_no_objects_are_refused(tmp_path, bad):
    with pytest.raises((StagingError, RowError)):
        read_staged([staged_file(tmp_path, 0, "plan", [GOOD, bad])])


def test_lines_of_other_writers_are_read_too(tmp_path):
    line = json.dumps({"timestamp": 0, "style": "subtask", "role": "assistant", "content": "lift", "more": [1]})
    states, moments = read_staged([staged_file(tmp_path, 4, "plan", [line, "  ", GOOD])])
    assert states.column("content").to_pylist() == ["lift", "lift"] and len(moments) == 0
    assert states.column("episode").to_pylist() == [4, 4]


def test_nothing_staged_is_two_empty_tables(tmp_path):
    assert [len(t) for t in read_staged([])] == [0, 0]
    assert [len(t) for t in read_staged([staged_file(tmp_path, 0, "vqa", [])])] == [0, 0]
    with pytest.raises(StagingError, match="staged rows of vqa"):
        read_staged([StagedFile(0, "vqa", tmp_path / "none.jsonl")])
