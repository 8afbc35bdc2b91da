"""Validation: a clean episode gives no finding, and every rule is broken alone by exactly one test."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.errors import RowError
from tasks.language import styles as style_registry
from tasks.language.rows import Row, say
from tasks.language.styles import EVENTS, MODULE_STYLES, Style, register_style
from tasks.lines import StagedFile, read_lines
from tasks.report import FINDINGS_PER_CHECK_MAX, Finding, Report, save_report
from tasks.settings import AnnotateSettings
from tasks.staging import Staging
from tasks.validate import SCRIPTS, sql_text, validate
from tests.staged_rows import (
    ATTRIBUTE,
    BBOX,
    BOX,
    CAMERAS,
    COUNT,
    FRONT,
    MODULES,
    POINT,
    SPATIAL,
    THOUSANDTHS,
    WRIST,
    Staged,
    T,
    make_episode,
    set_answer,
    swap,
    vqa_pair,
)

ROW_RULES = {  # the rules that Row.check holds too
    "json_malformed",
    "style_unknown",
    "role",
    "content_empty",
    "speech_shape",
    "timestamp_missing",
    "timestamp_not_finite",
    "camera_missing",
    "camera_forbidden",
}


def test_clean_episode_has_no_findings(tmp_path):
    report = Staged().judge(tmp_path)
    assert report.findings == []
    assert (report.episodes_checked, report.rows_checked) == (1, 20)


Breaker = Callable[[Staged], object]


def wrong_role(s: Staged) -> None:
    s.vqa.insert(10, Row("system", "What is there?", "vqa", T[30], FRONT))


def off_frame_pair(s: Staged) -> None:
    s.vqa += vqa_pair(T[20] + 0.05, WRIST, **COUNT)


def change_camera(camera: str | None) -> Breaker:
    """Both rows of a pair speak of another camera; the first is the one looked for."""

    def breaker(s: Staged) -> None:
        for position in (4, 5):
            swap(s.vqa, position, camera=camera)

    return breaker


BROKEN: list[tuple[str, str, int | None, Breaker]] = [  # check, phase, row, what breaks it
    ("file_missing", "vqa", None, lambda s: setattr(s, "missing", ("vqa",))),
    ("json_malformed", "vqa", 11, lambda s: s.raw.update(vqa='{"role": "user", "con\n')),
    ("json_malformed", "vqa", 12, lambda s: s.raw.update(vqa="\n[1, 2]\n")),
    ("json_malformed", "vqa", 11, lambda s: s.raw.update(vqa='"text"')),
    ("style_unknown", "plan", 2, lambda s: swap(s.plan, 1, style="subtasks")),
    ("style_unknown", "plan", 2, lambda s: swap(s.plan, 1, style="")),
    ("style_column", "vqa", 11, lambda s: s.vqa.append(Row("user", "tidy up", "task_aug", T[0]))),
    ("style_column", "plan", 8, lambda s: s.plan.append(Row("user", "x", "trace", T[0], FRONT))),
    ("style_module", "plan", 8, lambda s: s.plan.append(Row("user", "arm moves left", "motion", T[0]))),
    ("style_module", "interjections", 4, lambda s: s.interjections.append(Row("user", "x", "trace", T[0], FRONT))),
    ("role", "plan", 1, lambda s: swap(s.plan, 0, role="assistant")),
    ("role", "plan", 3, lambda s: swap(s.plan, 2, role=None)),
    ("role", "vqa", 11, wrong_role),
    ("content_empty", "plan", 2, lambda s: swap(s.plan, 1, content=None)),
    ("content_empty", "plan", 3, lambda s: swap(s.plan, 2, content=" \n\u2003")),
    ("content_empty", "vqa", 2, lambda s: swap(s.vqa, 1, content=None)),
    ("content_text", "plan", 2, lambda s: swap(s.plan, 1, content=["sort", "the blocks"])),
    ("tool_calls_list", "plan", 2, lambda s: swap(s.plan, 1, tool_calls={"type": "function"})),
    ("speech_shape", "interjections", 1, lambda s: swap(s.interjections, 0, tool_calls=None)),
    ("speech_shape", "interjections", 1, lambda s: swap(s.interjections, 0, tool_calls=say("a") + say("b"))),
    ("speech_shape", "interjections", 1, lambda s: swap(s.interjections, 0, tool_calls=say("  "))),
    ("speech_shape", "interjections", 1, lambda s: swap(s.interjections, 0, role="user")),
    ("speech_shape", "interjections", 3, lambda s: swap(s.interjections, 2, content="On it.")),
    ("timestamp_missing", "plan", 2, lambda s: swap(s.plan, 1, timestamp=None)),
    ("timestamp_missing", "plan", 2, lambda s: swap(s.plan, 1, timestamp="0.0")),
    ("timestamp_missing", "plan", 2, lambda s: swap(s.plan, 1, timestamp=True)),
    ("timestamp_not_finite", "plan", 2, lambda s: swap(s.plan, 1, timestamp=float("inf"))),
    ("timestamp_not_finite", "plan", 2, lambda s: swap(s.plan, 1, timestamp=float("nan"))),
    ("timestamp_off_frame", "plan", 2, lambda s: swap(s.plan, 1, timestamp=0.05)),
    (
        "timestamp_off_frame",
        "plan",
        2,
        lambda s: swap(s.plan, 1, timestamp=float(np.nextafter(np.float32(T[7]), np.float32(9)))),
    ),
    ("timestamp_off_frame", "plan", 2, lambda s: swap(s.plan, 1, timestamp=1e300)),
    ("timestamp_off_frame", "vqa", 11, off_frame_pair),
    ("camera_missing", "vqa", 5, change_camera(None)),
    ("camera_missing", "vqa", 5, change_camera("")),
    ("camera_unknown", "vqa", 5, change_camera("front")),
    ("camera_forbidden", "plan", 2, lambda s: swap(s.plan, 1, camera=FRONT)),
    ("camera_forbidden", "interjections", 1, lambda s: swap(s.interjections, 0, camera="")),
    ("interjection_without_speech", "interjections", 2, lambda s: s.interjections.pop(2)),
    ("speech_orphan", "interjections", 4, lambda s: s.interjections.append(Row.speech("Hm.", T[5]))),
    (
        "interjection_duplicate",
        "interjections",
        4,
        lambda s: s.interjections.append(Row("user", "Now!", "interjection", T[20])),
    ),
    ("speech_duplicate", "interjections", 4, lambda s: s.interjections.append(Row.speech("Hm.", T[0]))),
    ("interjection_without_plan", "interjections", 2, lambda s: s.plan.pop(5)),
    ("persistent_duplicate", "plan", 8, lambda s: s.plan.append(replace(s.plan[6], content="I did."))),
    ("persistent_duplicate", "plan", 8, lambda s: s.plan.append(replace(s.plan[3], content="again"))),
    ("task_aug_duplicate", "plan", 8, lambda s: s.plan.append(s.plan[0])),
    ("subtask_order", "plan", 4, lambda s: s.plan.insert(2, s.plan.pop(3))),
    ("memory_off_subtask", "plan", 7, lambda s: swap(s.plan, 6, timestamp=T[21])),
    ("vqa_duplicate", "vqa", 11, lambda s: s.vqa.append(s.vqa[0])),
    ("vqa_duplicate", "vqa", 11, lambda s: s.vqa.append(s.vqa[3])),
    ("vqa_unanswered", "vqa", 9, lambda s: s.vqa.pop()),
    ("vqa_unasked", "vqa", 9, lambda s: s.vqa.pop(8)),
    ("vqa_json", "vqa", 2, lambda s: swap(s.vqa, 1, content="the block is on the left")),
    ("vqa_json", "vqa", 2, lambda s: swap(s.vqa, 1, content="[]")),
    ("vqa_shape", "vqa", 6, lambda s: set_answer(s, 2, COUNT, count=None)),
    ("vqa_type", "vqa", 6, lambda s: set_answer(s, 2, COUNT, type="attribute")),
    ("vqa_type", "vqa", 6, lambda s: set_answer(s, 2, COUNT, type=None)),
    ("vqa_label", "vqa", 6, lambda s: set_answer(s, 2, COUNT, label=" ")),
    ("vqa_label", "vqa", 8, lambda s: set_answer(s, 3, ATTRIBUTE, value=3)),
    ("vqa_count", "vqa", 6, lambda s: set_answer(s, 2, COUNT, count=-1)),
    ("vqa_count", "vqa", 6, lambda s: set_answer(s, 2, COUNT, count=2.5)),
    ("vqa_count", "vqa", 6, lambda s: set_answer(s, 2, COUNT, count="two")),
    ("vqa_relation", "vqa", 10, lambda s: set_answer(s, 4, SPATIAL, relation="behind")),
    ("vqa_relation", "vqa", 10, lambda s: set_answer(s, 4, SPATIAL, relation=7)),
    ("vqa_detections", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[])),
    ("vqa_detections", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections="none")),
    ("vqa_box", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[BOX, {**BOX, "bbox": [1, 2, 3]}])),
    ("vqa_box", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[{**BOX, "bbox": [1, 2, 3, 4, 5]}])),
    ("vqa_box", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[{**BOX, "bbox": [1, 2, "3", 4]}])),
    ("vqa_box", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[{**BOX, "bbox": None}])),
    ("vqa_box", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[{**BOX, "bbox": [1, 2, float("nan"), 4]}])),
    ("vqa_box", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[{**BOX, "bbox_format": "xywh"}])),
    ("vqa_box", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[{**BOX, "label": ""}])),
    ("vqa_box", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[5])),
    ("vqa_box_order", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[{**BOX, "bbox": [30, 1, 20, 2]}])),
    ("vqa_box_order", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[{**BOX, "bbox": [3, 2, 20, 2]}])),
    ("vqa_box_outside", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[{**BOX, "bbox": [1, 1, 640.5, 2]}])),
    ("vqa_box_outside", "vqa", 2, lambda s: set_answer(s, 0, BBOX, detections=[{**BOX, "bbox": [1, -1, 6, 2]}])),
    ("vqa_point", "vqa", 4, lambda s: set_answer(s, 1, POINT, point=[1])),
    ("vqa_point", "vqa", 4, lambda s: set_answer(s, 1, POINT, point_format="yx")),
    ("vqa_point", "vqa", 4, lambda s: set_answer(s, 1, POINT, point="1, 2")),
    ("vqa_point_outside", "vqa", 4, lambda s: set_answer(s, 1, POINT, point=[321, 5])),
    ("vqa_point_outside", "vqa", 4, lambda s: set_answer(s, 1, POINT, point=[5, -0.5])),
    ("vqa_image_size", "vqa", 4, lambda s: set_answer(s, 1, POINT, image_size=[640, 480])),
    ("vqa_image_size", "vqa", 4, lambda s: set_answer(s, 1, POINT, image_size=[320, 240, 3])),
    ("vqa_image_size", "vqa", 4, lambda s: set_answer(s, 1, POINT, image_size="320x240")),
    ("vqa_coordinates", "vqa", 4, lambda s: set_answer(s, 1, POINT, coordinates="norm1")),
    ("vqa_coordinates", "vqa", 4, lambda s: set_answer(s, 1, POINT, coordinates=1000)),
    ("vqa_point_outside", "vqa", 4, lambda s: set_answer(s, 1, POINT, coordinates="norm1000", point=[1001, 5])),
    ("vqa_thousandths", "vqa", 4, lambda s: set_answer(s, 1, POINT, coordinates="norm1000", point=[0.5, 5])),
    ("vqa_thousandths", "vqa", 2, lambda s: set_answer(s, 0, BBOX, coordinates="norm1000")),
    (
        "vqa_box_outside",
        "vqa",
        2,
        lambda s: set_answer(s, 0, THOUSANDTHS, detections=[{**BOX, "bbox": [1, 1, 2, 1001]}]),
    ),
    ("vqa_box_order", "vqa", 2, lambda s: set_answer(s, 0, THOUSANDTHS, detections=[{**BOX, "bbox": [30, 1, 20, 2]}])),
    ("vqa_image_size", "vqa", 2, lambda s: set_answer(s, 0, THOUSANDTHS, image_size=[1000, 1000])),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """All the broken episodes at once: what is wrong in one must not show in another."""
    root = tmp_path_factory.mktemp("broken")
    for index, (_, _, _, breaker) in enumerate(BROKEN):
        staged = Staged()
        breaker(staged)
        staging = staged.stage(root, index)
    episodes = [make_episode(index) for index in range(len(BROKEN))]
    return validate(staging, episodes, dict.fromkeys(range(len(BROKEN)), MODULES), AnnotateSettings(), CAMERAS)


@pytest.mark.parametrize("index", range(len(BROKEN)), ids=[f"{i}-{check}" for i, (check, *_) in enumerate(BROKEN)])
def test_each_rule_is_broken_alone(broken, index):
    check, phase, row, _ = BROKEN[index]
    findings = [f for f in broken.findings if f.episode == index]
    assert {f.check for f in findings} == {check}
    found = findings[0]
    assert (found.phase, found.row) == (phase, row)
    assert "want" in found.message and "found" in found.message
    assert (f"--only_episodes={index}" in found.remedy and phase in found.remedy) or "delete" in found.remedy
    assert found.severity == ("warning" if check.startswith("memory") else "error")


def test_every_rule_of_the_scripts_has_a_test():
    sql = "".join(sql_text(name) for name in SCRIPTS)
    rules = set(re.findall(r"'(?:error|warning)', '(\w+)'", sql)) | set(re.findall(r"(?:THEN|ELSE) '(\w+_\w+)'", sql))
    tested = {check for check, *_ in BROKEN} | {"subtask_start", "plan_missing"}
    assert rules == tested


@pytest.mark.parametrize("first", [None, 5])
def test_subtasks_must_cover_the_first_frame(tmp_path, first):
    staged = Staged(modules=("plan",))
    staged.plan = [r for r in staged.plan if r.style in ("task_aug", "plan")]
    if first is not None:
        staged.plan.append(Row("assistant", "pick up the block", "subtask", T[first]))
    (found,) = staged.judge(tmp_path).findings
    assert (found.check, found.severity) == ("subtask_start", "error")
    assert ("0.5 s" if first else "no subtask") in found.message


def test_missing_plan_is_a_warning_only_where_plans_are_wanted(tmp_path):
    staged = Staged(modules=("plan",))
    staged.plan = [r for r in staged.plan if r.style != "plan"]
    (found,) = staged.judge(tmp_path).findings
    assert (found.check, found.severity) == ("plan_missing", "warning")
    staged.settings.plan.emit_plan = False
    assert staged.judge(tmp_path).findings == []


def test_interjections_need_no_plan_where_none_is_written(tmp_path):
    staged = Staged()
    staged.plan = [r for r in staged.plan if r.style != "plan"]
    assert not staged.judge(tmp_path).ok
    staged.settings.plan.emit_plan = False
    assert staged.judge(tmp_path).findings == []
    alone = Staged(modules=("interjections",))  # the plan in the dataset stays as it is
    assert alone.judge(tmp_path).findings == []


def test_plan_module_may_be_empty_and_vqa_may_be_empty(tmp_path):
    assert Staged(plan=[], interjections=[Row.speech("Sure.", T[0])], vqa=[]).judge(tmp_path).findings == []


def test_pixels_are_bounded_by_the_stated_size_where_the_dataset_says_nothing(tmp_path):
    staged = Staged(cameras={FRONT: (0, 0), WRIST: (0, 0)})
    assert staged.judge(tmp_path).findings == []
    set_answer(staged, 0, BBOX, image_size=[320, 240])
    assert set(staged.judge(tmp_path).by_check()) == {"vqa_box_outside"}
    set_answer(staged, 0, BBOX, image_size=None)
    assert staged.judge(tmp_path).findings == []


def test_thousandths_are_bounded_by_a_thousand_whatever_the_camera_records(tmp_path):
    staged = Staged()
    set_answer(staged, 0, THOUSANDTHS)
    set_answer(staged, 1, POINT, coordinates="norm1000", point=[1000, 999])
    assert staged.judge(tmp_path).findings == []


def test_invalid_utf8_names_file_and_line(tmp_path):
    staged = Staged()
    staged.judge(tmp_path)
    staging = Staging(tmp_path / "staging")
    path = staging.path(0, "vqa")
    path.write_bytes(path.read_bytes() + b'\n{"role": "\xff"}\n')
    (found,) = validate(staging, [make_episode()], {0: MODULES}, staged.settings, staged.cameras).findings
    assert (found.check, found.row) == ("json_malformed", 12)
    assert str(path) in found.message and str(path) in found.remedy and "UTF-8" in found.message


def test_rows_of_other_modules_and_episodes_are_not_judged(tmp_path):
    broken = Staged()
    swap(broken.vqa, 1, content="prose")
    broken.judge(tmp_path, index=0)
    Staged().judge(tmp_path, index=1)
    staging, episodes = Staging(tmp_path / "staging"), [make_episode(0), make_episode(1)]
    report = validate(staging, episodes, {0: ("plan", "interjections"), 1: MODULES}, broken.settings, CAMERAS)
    assert report.findings == [] and report.episodes_checked == 2
    assert not validate(staging, episodes, {0: MODULES}, broken.settings, CAMERAS).ok
    assert validate(staging, episodes, {}, broken.settings, CAMERAS) == Report()


def test_each_episode_is_judged_by_its_own_frames(tmp_path):
    for index in (0, 1):
        Staged().judge(tmp_path, index)
    short = make_episode(1, frames=15)  # ends before the second subtask
    report = validate(
        Staging(tmp_path / "staging"), [make_episode(0), short], {0: MODULES, 1: MODULES}, AnnotateSettings(), CAMERAS
    )
    assert set(report.by_check()) == {"timestamp_off_frame"}
    assert {f.episode for f in report.findings} == {1}


def test_staged_rows_of_an_episode_the_dataset_lacks(tmp_path):
    report = validate(Staging(tmp_path), [make_episode(0)], {7: ("plan",)}, AnnotateSettings(), CAMERAS)
    assert [(f.check, f.episode) for f in report.findings] == [("episode_unknown", 7)]


def test_long_lists_are_counted_beyond_the_limit(tmp_path):
    extra = 7
    rows = [Row("user", "tidy up", "chore", T[0])] * (FINDINGS_PER_CHECK_MAX + extra)
    report = Staged(vqa=rows).judge(tmp_path)
    assert len(report.findings) == FINDINGS_PER_CHECK_MAX
    assert report.unlisted == {"style_unknown": extra}
    assert report.by_check() == {"style_unknown": FINDINGS_PER_CHECK_MAX + extra}
    assert report.findings[-1].row == FINDINGS_PER_CHECK_MAX


def test_batches_of_episodes_give_the_same_report(tmp_path, monkeypatch):
    for index in range(5):
        staged = Staged()
        swap(staged.vqa, 1, content=f"prose {index}")
        staged.judge(tmp_path, index)
    args = (
        Staging(tmp_path / "staging"),
        [make_episode(i) for i in range(5)],
        dict.fromkeys(range(5), MODULES),
        AnnotateSettings(),
        CAMERAS,
    )
    at_once = validate(*args)
    monkeypatch.setattr("tasks.lines.BATCH_BYTES", 1)
    assert len(list(read_lines([[StagedFile(i, "plan", args[0].path(i, "plan"))] for i in range(5)]))) == 5
    assert validate(*args) == at_once
    assert len(at_once.findings) == 5


def test_report_is_saved_as_json(tmp_path):
    report = Staged(missing=("vqa",)).judge(tmp_path)
    save_report(report, tmp_path / "meta" / "validation.json")
    saved = json.loads((tmp_path / "meta" / "validation.json").read_text())
    assert saved["ok"] is False and saved["by_check"] == {"file_missing": 1}
    assert Finding(**saved["findings"][0]) == report.findings[0]
    assert sorted(p.name for p in (tmp_path / "meta").iterdir()) == ["validation.json"]


def test_validation_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = Staged().judge(tmp_path) and sorted(tmp_path.rglob("*"))
    Staged().judge(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def pointing() -> Iterator[Style]:
    new = Style("pointing", EVENTS, ("user",), needs_camera=True)
    register_style(new)
    MODULE_STYLES["vqa"] += ("pointing",)
    yield new
    MODULE_STYLES["vqa"] = MODULE_STYLES["vqa"][:-1]
    del style_registry._STYLES["pointing"]


def test_a_registered_style_is_judged_by_its_own_rules(tmp_path, pointing):
    staged = Staged()
    staged.vqa.append(Row("user", "that one", "pointing", T[3], FRONT))
    assert staged.judge(tmp_path).findings == []
    swap(staged.vqa, -1, camera=None, role="assistant")
    assert set(staged.judge(tmp_path).by_check()) == {"camera_missing", "role"}


def test_blank_means_what_python_strips():
    db = duckdb.connect()
    macro = next(line for line in sql_text("rows").splitlines() if line.startswith("CREATE MACRO blank"))
    db.execute(macro)
    characters = [c for c in map(chr, range(1, sys.maxunicode + 1)) if not "\ud800" <= c <= "\udfff"]
    blank = db.execute("SELECT c FROM (SELECT unnest(?) AS c) WHERE blank(c)", [characters]).fetchall()
    assert [c for (c,) in blank] == [c for c in characters if c.isspace()]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["say", "function", "text", " ", "", "hi"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "function", "name", "arguments", "text"]), inner, max_size=3)
    ),
    max_leaves=6,
)
calls = st.builds(
    lambda kind, name, text: {"type": kind, "function": {"name": name, "arguments": {"text": text}}},
    st.sampled_from(["function", "tool"]),
    st.sampled_from(["say", "wave"]),
    st.sampled_from(["hello", " ", "\u00a0", ""]) | json_values,
)
any_rows = st.builds(
    Row,
    role=st.sampled_from(["user", "assistant", "system", "", None]),
    content=st.none() | st.sampled_from(["", " \u3000", "\u200b", "text", '{"a": 1}', "null"]) | st.text(max_size=5),
    style=st.none() | st.sampled_from([s.name for s in style_registry.styles()] + ["", "other"]),
    timestamp=st.sampled_from([0.0, T[3], -1.0, float("nan"), float("inf"), None, 7]),
    camera=st.sampled_from([None, "", FRONT]),
    tool_calls=st.none() | st.lists(calls | json_values, max_size=2) | st.just(say("hello")),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(any_rows, min_size=10, max_size=40))
def test_sql_and_row_check_agree(tmp_path, rows):
    rows = [r for r in rows if encodable(r)]
    report = Staged(plan=rows, modules=("plan",)).judge(tmp_path)
    refused = {f.row for f in report.findings if f.check in ROW_RULES}
    assert refused == {i for i, row in enumerate(rows, 1) if not passes(row)}


def passes(row: Row) -> bool:
    try:
        row.check()
    except RowError:
        return False
    return True


def encodable(row: Row) -> bool:
    """Half a surrogate pair is no text: it cannot be staged at all."""
    try:
        str(row.content).encode()
    except UnicodeEncodeError:
        return False
    return True
