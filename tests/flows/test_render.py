"""The terminal view of an episode, a report and a run: what is on disk is what is read there."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from flows.render import (
    COSTS_SHOWN_MAX,
    FINDINGS_SHOWN_MAX,
    SKIPS_SHOWN_MAX,
    VQA_SHOWN_MAX,
    costs_table,
    episode_json,
    episode_parts,
    findings_table,
    ledger_line,
    short_answer,
    show_episode,
    skips_table,
    summary_table,
)
from flows.timeline import SUBTASK_COLOURS, timeline
from tasks.answers.question import Usage
from tasks.dataset.layout import open_dataset
from tasks.episode_view import VisualQA, view_of
from tasks.errors import SettingsError
from tasks.language.arrow import events_array, persistent_array
from tasks.language.rows import Row
from tasks.language.styles import EVENTS, PERSISTENT, column_for_style
from tasks.ledger import Cost, Costs
from tasks.phase import PhaseReport, Skip
from tasks.report import Finding, Report
from tests.staged_rows import BBOX, CAMERAS, FRONT, Staged, T, make_episode, vqa_pair

WIDTH = 100


def text_of(*renderables: object, width: int = WIDTH) -> str:
    console = Console(width=width, record=True, file=io.StringIO(), color_system=None)
    for renderable in renderables:
        console.print(renderable)
    return console.export_text()


def staged_rows() -> list[Row]:
    staged = Staged()
    return [*staged.plan, *staged.interjections, *staged.vqa]


@pytest.fixture(scope="module")
def annotated(generated_dataset, tmp_path_factory):
    """A recorded dataset whose first episode has rows; the others have none."""
    root = Path(shutil.copytree(generated_dataset, tmp_path_factory.mktemp("render") / "data"))
    dataset = open_dataset(root)
    rows = {0: [r for r in staged_rows() if r.camera in (None, FRONT)]}
    (shard,) = dataset.data_files
    whole = pq.read_table(shard)
    tables = []
    for episode in dataset.episodes():
        persistent = [r for r in rows.get(episode.episode_index, []) if column_for_style(r.style) == PERSISTENT]
        events = [r for r in rows.get(episode.episode_index, []) if column_for_style(r.style) == EVENTS]
        table = whole.slice(episode.row_offset, episode.frames)
        table = table.append_column(PERSISTENT, persistent_array(persistent, episode.frames))
        tables.append(table.append_column(EVENTS, events_array(events, episode.timestamps)))
    with pq.ParquetWriter(shard, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    return root


def test_episode_is_read_back_from_the_dataset(annotated):
    data = json.loads(json.dumps(episode_json(annotated, 0)))
    assert (data["episode_index"], data["frames"], data["end_s"]) == (0, 40, T[39])
    assert data["subtasks"] == [
        {"text": "pick up the block", "start_s": T[0], "end_s": T[20]},
        {"text": "put it into the tray", "start_s": T[20], "end_s": T[39]},
    ]
    assert [p["time_s"] for p in data["plans"]] == [T[0], T[20]]
    assert data["task_rephrasings"] == ["sort the blocks", "put the blocks away"]
    assert data["exchanges"] == [
        {"time_s": T[0], "person": None, "robot": "Sure."},
        {"time_s": T[20], "person": "Into the tray, please.", "robot": "On it."},
    ]
    assert [(q["time_s"], q["type"]) for q in data["vqa"]] == [(T[0], "bbox"), (T[10], "count"), (T[20], "spatial")]
    assert data["vqa"][0]["answer"] == BBOX


def test_page_shows_every_kind_of_row_within_its_width(annotated):
    console = Console(width=140, record=True, file=io.StringIO(), color_system=None)
    show_episode(console, annotated, 0, width=WIDTH)
    page = console.export_text()
    assert max(len(line.rstrip()) for line in page.splitlines()) <= WIDTH
    for wanted in (
        "episode 0",
        "4.0 s · 40 frames at 10 per second",
        "160×120",
        "pick up the block",
        "1. pick up the block",
        "I picked up the block.",
        "• put the blocks away",
        "Into the tray, please.",
        "On it.",
        "What is there?",
        "block [0, 10, 640, 480]",
        "blocks: 0",
        "block left of tray",
    ):
        assert wanted in page


def test_episode_without_rows_says_how_to_get_them(annotated):
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    show_episode(console, annotated, 1)
    page = console.export_text()
    assert "annotate run" in page and "Subtasks" not in page


def test_unknown_episode_is_named(annotated):
    with pytest.raises(SettingsError, match="--episode") as caught:
        episode_json(annotated, 9)
    assert "9" in caught.value.got


def test_timeline_puts_bars_and_marks_at_their_times():
    view = view_of(make_episode(), staged_rows(), CAMERAS)
    lines = text_of(timeline(view, 90)).splitlines()
    lanes = {line.split()[0] if "vqa" not in line else line[:9].strip(): line for line in lines[:-2]}
    assert list(lanes) == ["subtasks", "plan", "memory", "person", "robot", "vqa front", "vqa wrist"]
    second = lanes["subtasks"].index("│2")
    assert lanes["plan"].index("▲", lanes["plan"].index("▲") + 1) == second
    assert lanes["memory"].index("●") == lanes["person"].index("▼") == second
    assert lanes["robot"].index("◆") == lanes["subtasks"].index("│1")
    assert lines[-1].index("2") == second  # the axis agrees: the second subtask starts at 2 s
    assert lanes["vqa front"].count("╵") == 3 and lanes["vqa wrist"].count("╵") == 2


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_timeline_survives_crowded_and_tiny_episodes(width):
    episode = make_episode(frames=50)
    crowded = [Row("assistant", f"step number {i}", "subtask", t) for i, t in enumerate(episode.times)]
    lines = text_of(timeline(view_of(episode, crowded, CAMERAS), width), width=width).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    one = make_episode(frames=1)
    assert "│1 wait" in text_of(
        timeline(view_of(one, [Row("assistant", "wait", "subtask", 0.0)], CAMERAS), width), width=width
    )


def test_bars_are_coloured_and_parted():
    screen = io.StringIO()
    console = Console(width=WIDTH, file=screen, force_terminal=True, color_system="truecolor")
    console.print(timeline(view_of(make_episode(), staged_rows(), CAMERAS), WIDTH))
    drawn = screen.getvalue()
    for colour in SUBTASK_COLOURS[:2]:
        r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert f"48;2;{r};{g};{b}" in drawn


def test_row_texts_are_never_taken_for_markup():
    rows = [Row("assistant", "press [red]the[/red] button [/]", "subtask", T[0]), Row("user", "[b]x", "task_aug", T[0])]
    page = text_of(*episode_parts(view_of(make_episode(), rows, CAMERAS), WIDTH))
    assert "press [red]the[/red] button [/]" in page and "[b]x" in page


def test_long_lists_of_questions_say_how_many_are_hidden():
    episode = make_episode()
    rows = [row for t in T for row in vqa_pair(t, FRONT, type="count", label="block", count=1)]
    page = text_of(*episode_parts(view_of(episode, rows, CAMERAS), WIDTH))
    assert page.count("block: 1") == VQA_SHOWN_MAX
    assert f"and {len(T) - VQA_SHOWN_MAX} more" in page


def test_styles_that_no_phase_makes_are_shown_too():
    rows = [Row("user", "arm moves left", "motion", T[3])]
    view = view_of(make_episode(), rows, CAMERAS)
    assert "arm moves left" in text_of(*episode_parts(view, WIDTH))
    assert view.to_json()["others"][0]["style"] == "motion"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"type": "keypoint", "label": "cup", "point": [3.6, 4]}, "cup (4, 4)"),
        ({"type": "count", "label": "cups", "count": 2, "note": "one hidden"}, "cups: 2 (one hidden)"),
        ({"type": "attribute", "label": "cup", "attribute": "colour", "value": "red"}, "cup: colour red"),
        ({"type": "bbox", "detections": [{"label": "cup", "bbox": [1, 2, 3, 4]}] * 5}, "and 2 more"),
        ({"type": "bbox", "detections": None}, "{'type': 'bbox', 'detections': None}"),
        ("prose", "prose"),
        (None, "no answer"),
    ],
)
def test_answers_in_short(answer, words):
    assert words in short_answer(VisualQA(0.0, FRONT, "?", answer)).plain


def test_findings_are_listed_errors_first_with_place_and_remedy():
    report = Report(episodes_checked=2, rows_checked=40, unlisted={"role": 900})
    report.findings = [Finding("warning", "plan_missing", "want a plan", "rerun [now]", 1, "plan")]
    report.findings += [Finding("error", "role", "want a role", "mend", 0, "vqa", i) for i in range(FINDINGS_SHOWN_MAX)]
    page = text_of(findings_table(report))
    assert f"{FINDINGS_SHOWN_MAX + 900} errors, 1 warning in 2 episodes, 40 rows" in page
    assert page.index("episode 0, vqa, row 0") < page.index("want a role") < page.index("mend")
    assert "plan_missing" not in page.split("and 901 more")[0]
    assert "950 role" in page and "1 plan_missing" in page


def test_summary_counts_by_phase_and_charges_only_what_was_asked_now():
    usage = Usage(3, 1500, 200, 1.0)
    skip = Skip(1, "vqa", "vqa_bbox", "timeout")
    reports = [
        PhaseReport(0, "plan", "done", 5, 4, 4, [], usage, 1.5),
        PhaseReport(1, "plan", "cached", 5, 4, 4, [], usage, 9.0),
        PhaseReport(0, "vqa", "failed", 0, 2, 0, [], usage, 0.5, "no video"),
        PhaseReport(1, "vqa", "done", 8, 5, 4, [skip], usage, 2.0),
    ]
    cells = {line.split()[0]: line.split()[1:] for line in text_of(summary_table(reports)).splitlines() if line.strip()}
    assert cells["plan"] == ["1", "1", "·", "10", "8", "8", "·", "3", "1,500", "200", "1.5"]
    assert cells["vqa"] == ["1", "·", "1", "8", "7", "4", "1", "6", "3,000", "400", "2.5"]
    assert cells["total"] == ["2", "1", "1", "18", "15", "12", "1", "9", "4,500", "600", "4.0"]


def test_summary_of_a_small_run_fits_eighty_columns():
    reports = [PhaseReport(0, phase, "done", 5, 4, 4, seconds=1.0) for phase in ("plan", "interjections", "vqa")]
    page = text_of(summary_table(reports), width=80)
    assert "interjections" in page and "failed" not in page and "tokens" not in page
    usage = Usage(123, 456_789, 12_345, 1.0)
    reports = [PhaseReport(0, "interjections", "done", 5, 4, 3, [Skip(0, "interjections", "q", "r")], usage, 60.0)]
    page = text_of(summary_table(reports), width=80)
    assert "…" not in page and "457k" in page and "answered" in page


def test_summary_fits_a_hundred_columns():
    usage = Usage(123_456, 987_654_321, 12_345_678, 1.0)
    reports = [PhaseReport(e, "interjections", "done", 123_456, 99_999, 99_999, [], usage, 12_345.6) for e in range(3)]
    page = text_of(summary_table(reports))
    assert "…" not in page and "2,963M" in page
    assert max(len(line.rstrip()) for line in page.splitlines()) <= WIDTH


def test_what_was_left_out_is_named_and_counted():
    skips = [Skip(i, "vqa", "vqa_bbox", f"reason [{i}]") for i in range(SKIPS_SHOWN_MAX + 4)]
    reports = [PhaseReport(0, "vqa", skips=skips), PhaseReport(7, "plan", "failed", error="want frames [none]")]
    page = text_of(skips_table(reports))
    assert f"Left out: 1 phase, {SKIPS_SHOWN_MAX + 4} questions" in page and "and 5 more" in page
    assert page.index("want frames [none]") < page.index("reason [0]")
    assert f"reason [{SKIPS_SHOWN_MAX - 2}]" in page and f"reason [{SKIPS_SHOWN_MAX - 1}]" not in page


def test_replies_that_were_no_use_are_shown():
    skips = [Skip(3, "vqa", "vqa_bbox", "no JSON object", "I see [a] robot"), Skip(4, "vqa", "vqa_count", "timeout")]
    page = text_of(skips_table([PhaseReport(3, "vqa", skips=skips)]))
    assert "reply" in page and "I see [a] robot" in page
    assert "reply" not in text_of(skips_table([PhaseReport(4, "vqa", skips=skips[1:])]))


PLAN = Cost(7, answered=6, skipped=1, attempts=9, tokens_in=2500, tokens_out=300, latency_median_s=1.25, money=0.0371)
VQA = Cost(2, lost=1, attempts=2, tokens_in=500, tokens_out=10, picture_bytes=3 << 20, money=2.5)
SPENT = Costs(
    Cost(9, skipped=1, lost=1, attempts=11, tokens_in=3000, tokens_out=310, picture_bytes=3 << 20, money=2.5371),
    by_phase={"plan": PLAN, "vqa": VQA},
    ledger=Cost(12, attempts=14, tokens_in=4000, tokens_out=400, money=3.0),
)


def cells_of(page: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in page.splitlines() if line.strip()}


def test_summary_takes_costs_from_the_ledger_which_knows_of_failed_phases_and_money():
    reports = [
        PhaseReport(0, "plan", "done", 5, 4, 4, [], Usage(3, 1500, 200, 1.0), 1.5),
        PhaseReport(0, "vqa", "failed", error="no answer"),
        PhaseReport(0, "interjections", "cached", 2, 1, 1, [], Usage(1, 10, 10, 1.0), 9.0),
    ]
    page = text_of(summary_table(reports, SPENT))
    cells = cells_of(page)
    assert cells["plan"][-5:] == ["9", "2,500", "300", "0.0371", "1.5"]
    assert cells["vqa"][-5:] == ["2", "500", "10", "2.50", "·"]
    assert cells["interjections"][-5:] == ["·", "·", "·", "·", "·"]
    assert cells["total"][-5:] == ["11", "3,000", "310", "2.54", "1.5"] and "…" not in page
    assert "money" not in text_of(summary_table(reports)), "a run without a ledger has the figures of its reports"
    assert cells_of(text_of(summary_table(reports, Costs())))["plan"][-4:] == ["3", "1,500", "200", "1.5"]


def test_summary_with_money_fits_eighty_columns():
    reports = [PhaseReport(0, "interjections", "done", 512, 99, 90, [Skip(0, "interjections", "q", "r")], seconds=60.0)]
    cost = Cost(99, attempts=12_345, tokens_in=456_789, tokens_out=99_345, money=123.456)
    page = text_of(summary_table(reports, Costs(cost, by_phase={"interjections": cost})), width=80)
    assert "…" not in page and "123.46" in page and "interjections" in page


def test_costs_by_group():
    page = text_of(costs_table(SPENT, "phase"), width=80)
    cells = cells_of(page)
    assert cells["plan"] == ["7", "1", "·", "9", "2,500", "300", "·", "0.0371"]
    assert cells["vqa"] == ["2", "·", "1", "2", "500", "10", "3.0", "2.50"]
    assert cells["total"] == ["9", "1", "1", "11", "3,000", "310", "3.0", "2.54"]


def test_long_cost_tables_say_how_many_are_hidden():
    episodes = {str(i): Cost(1, attempts=1) for i in range(COSTS_SHOWN_MAX + 3)}
    page = text_of(
        costs_table(Costs(Cost(COSTS_SHOWN_MAX + 3, attempts=COSTS_SHOWN_MAX + 3), by_episode=episodes), "episode")
    )
    assert "and 3 more" in page


def test_the_ledger_is_named_and_what_earlier_runs_spent():
    line = ledger_line(SPENT, Path("/d/ledger.jsonl")).plain
    assert "/d/ledger.jsonl" in line and "14 requests, 4,000 tokens in, 400 out, 3.00" in line
    alone = Costs(SPENT.total, ledger=SPENT.total)
    assert "all runs" not in ledger_line(alone, Path("/d/ledger.jsonl")).plain
