"""Phase plan: the effective task, windows, subtasks on frames, plan and memory rows, and how it fails."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import prompts
from tasks import plan
from tasks.answers.question import Question
from tasks.dataset.episode import Episode
from tasks.dataset.frames import EpisodeFrames
from tasks.dataset.layout import open_dataset
from tasks.dataset.signals import Gripper, MotionEvent, Signals
from tasks.errors import EpisodeError
from tasks.language.rows import Row
from tasks.phase import PhaseContext
from tasks.segments import Span, sample_times, spans_of
from tasks.settings import AnnotateSettings
from tasks.sheets import contact_sheets
from tests.answerers import FRONT, WRIST, DrawnFrames, ScriptedAnswerer, make_context, make_episode

SEGMENTS = {
    "subtasks": [
        {"text": "Pick up the cup.", "start": 0.3, "end": 3.04},
        {"text": "put the cup on the shelf", "start": 3.04, "end": 6.0},
        {"text": "close the door", "start": 6.0, "end": 7.9},
    ]
}


def remember(question: Question) -> dict[str, str]:
    return {"memory": f"I did: {question.inputs['completed']}."}


ANSWERS: dict[str, object] = {
    "plan_subtask_describe": {"description": "0-3s: the hand lifts the cup."},
    "plan_subtasks": SEGMENTS,
    "plan_memory": remember,
    "plan_task_rephrasings": {"rephrasings": ['"Shelve the cup"', "put the cup on the shelf", "Shelve the cup", "x y"]},
}


def answerer(**changes: object) -> ScriptedAnswerer:
    return ScriptedAnswerer({**ANSWERS, **changes})


def of_style(rows: list[Row], style: str) -> list[Row]:
    return [r for r in rows if r.style == style]


def run(ctx: PhaseContext) -> list[Row]:
    return [row.check() for row in plan.run(ctx).rows]


# ---------------------------------------------------------------- rows


def test_rows_come_in_staging_order_on_frames(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, answerer())
    rows = run(ctx)
    times = ctx.episode.times
    assert [r.style for r in rows] == ["task_aug"] * 3 + ["subtask"] * 3 + ["plan"] * 3 + ["memory"] * 2
    assert [(r.content, r.timestamp) for r in of_style(rows, "subtask")] == [
        ("pick up the cup", times[0]),
        ("put the cup on the shelf", times[30]),
        ("close the door", times[60]),
    ]
    assert {r.timestamp for r in rows} <= set(times)
    assert [r.timestamp for r in of_style(rows, "plan")] == [r.timestamp for r in of_style(rows, "subtask")]
    assert [r.content for r in of_style(rows, "plan")] == [
        "1. pick up the cup\n2. put the cup on the shelf\n3. close the door",
        "1. put the cup on the shelf\n2. close the door",
        "1. close the door",
    ]
    assert [r.timestamp for r in of_style(rows, "memory")] == [times[30], times[60]]


def test_the_task_comes_first_among_its_rephrasings_and_none_twice(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, answerer())
    rows = of_style(run(ctx), "task_aug")
    assert [r.content for r in rows] == ["put the cup on the shelf", "Shelve the cup", "x y"]
    assert {(r.role, r.timestamp) for r in rows} == {("user", ctx.episode.start_s)}


def test_a_failed_rephrasing_still_gives_the_task(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, answerer(plan_task_rephrasings="500"))
    assert [r.content for r in of_style(run(ctx), "task_aug")] == ["put the cup on the shelf"]
    assert [s.reason for s in ctx.report.skips] == ["500"]


def test_axes_replace_rephrasings(tmp_path: Path) -> None:
    asked = answerer(plan_task_aug_axes={"synonym_paraphrase": ["shelve the cup"], "omit_arm": ["shelve the cup"]})
    ctx = make_context(tmp_path, asked, plan={"task_aug_axes": {"enabled": True, "omit_arm": 1}})
    assert [r.content for r in of_style(run(ctx), "task_aug")] == ["put the cup on the shelf", "shelve the cup"]
    assert not asked.named("plan_task_rephrasings")
    assert asked.named("plan_task_aug_axes")[0].inputs["omit_arm"] == 1


@pytest.mark.parametrize("off", ["memory", "plan"])
def test_a_style_can_be_turned_off(tmp_path: Path, off: str) -> None:
    asked = answerer()
    rows = run(make_context(tmp_path, asked, plan={f"emit_{off}": False}))
    assert not of_style(rows, off)
    assert len(of_style(rows, "subtask")) == 3
    assert bool(asked.named("plan_memory")) is (off != "memory")


# ---------------------------------------------------------------- questions


def test_a_subtask_question_has_sheets_and_one_text(tmp_path: Path) -> None:
    asked = answerer()
    run(make_context(tmp_path, asked, make_episode(20.0)))
    (describe,), (segment,) = asked.named("plan_subtask_describe"), asked.named("plan_subtasks")
    assert len(segment.pictures) == 3 and not any(p.caption for p in segment.pictures)
    assert segment.pictures is describe.pictures  # built once
    assert segment.inputs["observation"] == "0-3s: the hand lifts the cup."
    assert "[0, 20.0]" in prompts.render(segment.name, **segment.inputs)
    assert (segment.phase, segment.window_s) == ("plan", (0.0, 20.0))


def test_every_question_carries_exactly_what_its_prompt_asks_for(tmp_path: Path) -> None:
    asked = answerer(plan_video_task={"task": "set the table"}, plan_subtask_relabel={"label": "x"})
    for axes in (True, False):
        settings = {
            "task_aug_axes": {"enabled": axes},
            "derive_task_from_video": "always",
            "subtask_seeded_relabel": True,
        }
        run(make_context(tmp_path, asked, plan=settings))
    assert {q.name for q in asked.asked} == {n for n in prompts.names() if n.startswith("plan_")}
    for question in asked.asked:
        placeholders = {name for _, name, _, _ in string.Formatter().parse(prompts.text(question.name)) if name}
        assert placeholders == set(question.inputs), question.name
        assert all(isinstance(v, str | int | float) for v in question.inputs.values())
        assert question.episode is not None and question.window_s is not None


def test_questions_that_do_not_wait_for_each_other_go_out_together(tmp_path: Path) -> None:
    asked = answerer()
    run(make_context(tmp_path, asked, make_episode(70.0)))
    names = [[q.name for q in batch] for batch in asked.batches]
    assert names[0] == ["plan_task_rephrasings"] + ["plan_subtask_describe"] * 3
    assert names[1] == ["plan_subtasks"] * 3
    assert all(batch == ["plan_memory"] for batch in names[2:])


def test_without_a_description_the_subtasks_are_cut_all_the_same(tmp_path: Path) -> None:
    asked = answerer(plan_subtask_describe="prose")
    assert len(of_style(run(make_context(tmp_path, asked)), "subtask")) == 3
    assert asked.named("plan_subtasks")[0].inputs["observation"] == ""


def test_describing_can_be_left_out(tmp_path: Path) -> None:
    asked = answerer()
    run(make_context(tmp_path, asked, plan={"subtask_describe_first": False}))
    assert not asked.named("plan_subtask_describe")


def test_wanted_names_every_tile_that_is_shown(tmp_path: Path) -> None:
    episode, settings = make_episode(70.0, task=""), AnnotateSettings()
    frames = DrawnFrames(episode)
    run(make_context(tmp_path, answerer(), episode, frames=frames))
    wants = plan.wanted(episode, settings, [FRONT, WRIST])
    shown = {episode.nearest(t) for _, camera, times in frames.calls for t in times if camera == FRONT}
    assert set(wants) == {FRONT} and wants[FRONT].tiles == shown
    assert wants[FRONT].tile_width == settings.plan.contact_sheet_frame_width


def test_the_second_camera_is_wanted_and_shown(tmp_path: Path) -> None:
    asked, episode = answerer(), make_episode()
    run(make_context(tmp_path, asked, episode, plan={"second_camera": WRIST}))
    assert [WRIST in p.caption for p in asked.named("plan_subtasks")[0].pictures] == [False, True]
    settings = AnnotateSettings.model_validate({"plan": {"second_camera": WRIST}})
    assert set(plan.wanted(episode, settings, [FRONT, WRIST])) == {FRONT, WRIST}


def test_the_named_camera_is_looked_at(tmp_path: Path) -> None:
    frames = DrawnFrames(make_episode())
    run(make_context(tmp_path, answerer(), frames=frames, vlm={"camera_key": WRIST}))
    assert {camera for _, camera, _ in frames.calls} == {WRIST}


# ---------------------------------------------------------------- clips


VIDEO = {"media": "video", "clip_width": 160}


def real_episode(generated_dataset: Path, index: int = 2) -> Episode:
    return open_dataset(generated_dataset).episodes()[index]


def test_clips_are_shown_in_place_of_sheets(tmp_path: Path, generated_dataset: Path) -> None:
    episode = real_episode(generated_dataset)
    asked = answerer(plan_video_task={"task": "set the table"})
    settings = {**VIDEO, "derive_task_from_video": "always"}
    frames = DrawnFrames(episode, broken=True)  # no tile is asked for
    run(make_context(tmp_path, asked, episode, frames=frames, plan=settings))
    shown = [*asked.named("plan_video_task"), *asked.named("plan_subtask_describe"), *asked.named("plan_subtasks")]
    assert len(shown) == 3 and not any(q.pictures for q in shown)
    (clip,) = shown[0].clips
    assert all(q.clips == (clip,) for q in shown)
    assert clip.path.parent == tmp_path / "clips" and clip.path.is_file()
    assert (clip.width, clip.fps, clip.caption) == (160, 2.0, "")
    for question in shown:
        text = prompts.render(question.name, **question.inputs)
        assert "sheet" not in text and "ends at 3.9 seconds" in text
    assert not any(q.clips for q in asked.asked if q not in shown)


def test_each_window_has_a_clip_of_its_own(tmp_path: Path, generated_dataset: Path) -> None:
    episode = real_episode(generated_dataset)
    asked = answerer()
    settings = {**VIDEO, "max_frames_per_prompt": 6, "window_overlap_s": 0.5}
    run(make_context(tmp_path, asked, episode, frames=DrawnFrames(episode, broken=True), plan=settings))
    questions = asked.named("plan_subtasks")
    assert len(questions) == 2 and len({q.clips[0].digest for q in questions}) == 2
    for question in questions:
        start_s, end_s = question.window_s or (0.0, 0.0)
        assert question.clips[0].seconds == pytest.approx(end_s - start_s, abs=0.11)


def test_two_cameras_are_two_clips_told_apart(tmp_path: Path, generated_dataset: Path) -> None:
    episode = real_episode(generated_dataset)
    asked = answerer()
    first, second = episode.videos
    ctx = make_context(tmp_path, asked, episode, plan={**VIDEO, "second_camera": second}, vlm={"camera_key": first})
    run(ctx)
    captions = [c.caption for c in asked.named("plan_subtasks")[0].clips]
    assert first in captions[0] and second in captions[1]


def test_clips_want_no_tiles_and_another_preamble(generated_dataset: Path) -> None:
    dataset = open_dataset(generated_dataset)

    def settings(**section: object) -> AnnotateSettings:
        return AnnotateSettings.model_validate({"plan": section})

    assert plan.wanted(dataset.episodes()[0], settings(media="video"), dataset.cameras) == {}
    names = set(plan.prompt_names(settings(media="video")))
    assert "clip_preamble" in names and "sheet_preamble" not in names
    assert "sheet_preamble" in plan.prompt_names(settings(media="video", subtask_seeded_relabel=True))
    assert "clip_preamble" not in plan.prompt_names(settings())


def test_segments_are_relabelled_by_sheets_also_beside_clips(tmp_path: Path, generated_dataset: Path) -> None:
    episode = real_episode(generated_dataset)
    asked = answerer(plan_subtask_relabel={"label": "x"})
    frames = EpisodeFrames(episode, {})
    run(make_context(tmp_path, asked, episode, frames=frames, plan={**VIDEO, "subtask_seeded_relabel": True}))
    for question in asked.named("plan_subtask_relabel"):
        assert question.pictures and not question.clips
        assert "contact sheets" in prompts.render(question.name, **question.inputs)


def test_an_answerer_without_eyes_needs_no_clips(tmp_path: Path) -> None:
    blind = ScriptedAnswerer(ANSWERS, needs_pictures=False)
    run(make_context(tmp_path, blind, make_episode(cameras=()), plan=VIDEO))
    assert not any(q.clips for q in blind.asked)


def test_a_video_that_cannot_be_cut_fails_the_episode(tmp_path: Path) -> None:
    asked = answerer()
    with pytest.raises(EpisodeError, match=r"clip\.mp4"):  # the file of a made-up episode is not there
        plan.run(make_context(tmp_path, asked, plan=VIDEO))
    assert asked.batches == []


# ---------------------------------------------------------------- recorded motion


def grip(*events: tuple[float, str]) -> Callable[[], Signals]:
    """Signals of one gripper that changes at these times; the arm never rests."""
    times = np.array(make_episode().times)
    closed = np.zeros(len(times))
    for time_s, kind in events:
        closed[times >= time_s - 1e-6] = float(kind == "close")
    return lambda: Signals(
        (Gripper("gripper", "", closed, times),),
        tuple(MotionEvent(t, kind) for t, kind in events),
        np.ones(len(times), bool),
        np.ones(len(times)),
    )


def test_facts_are_told_to_the_describer_and_the_segmenter_in_the_window_s_own_time(tmp_path: Path) -> None:
    asked = answerer()
    ctx = make_context(
        tmp_path, asked, plan={"motion_hints": True, "max_frames_per_prompt": 10, "window_overlap_s": 1.0}
    )
    ctx.signals = grip((2.0, "close"), (5.5, "open"))
    run(ctx)
    for name in ("plan_subtask_describe", "plan_subtasks"):
        first, second = asked.named(name)
        start_s = second.window_s[0]
        assert told(first) == ["0.00 s: the gripper is open", "2.00 s: the gripper closes"]
        assert told(second) == ["0.00 s: the gripper is closed", f"{5.5 - start_s:.2f} s: the gripper opens"]
    assert "motion_facts" in plan.prompt_names(ctx.settings)
    assert "motion_facts" not in plan.prompt_names(AnnotateSettings())


def told(question: Question) -> list[str]:
    """The facts that the prompt holds."""
    text = prompts.render(question.name, **question.inputs)
    return text.split("<facts>\n")[1].split("\n</facts>")[0].split("\n")


def test_signals_are_left_alone_unless_they_are_wanted(tmp_path: Path) -> None:
    asked = answerer()
    ctx = make_context(tmp_path, asked)
    ctx.signals = lambda: pytest.fail("nobody asked for signals")
    run(ctx)
    (segment,) = asked.named("plan_subtasks")
    assert "\n\n\n" not in prompts.render(segment.name, **segment.inputs)  # nor is there a gap where they would be
    nobody = make_context(tmp_path, asked, plan={"motion_hints": True, "snap_to_motion_s": 1})
    assert len(of_style(run(nobody), "subtask")) == 3


def test_boundaries_move_to_what_the_gripper_did(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, answerer(), plan={"snap_to_motion_s": 1.0})
    ctx.signals = grip((2.0, "close"), (4.0, "open"))  # each stroke ends 0.6 s later at even speed
    starts = [r.timestamp for r in of_style(run(ctx), "subtask")]
    assert starts == [ctx.episode.snap(t) for t in (0.0, 2.6, 6.0)]  # 3.04 moved, 6.0 has nothing near


# ---------------------------------------------------------------- windows


def window_answer(question: Question) -> dict[str, object]:
    """Each window sees one long event across both seams, and something in its middle."""
    end = float(question.inputs["duration"])
    return {
        "subtasks": [
            {"text": "stir the soup", "start": 0, "end": end / 2 - 1},
            {"text": f"add spice {question.window_s[0]:.0f}", "start": end / 2 - 1, "end": end / 2 + 2},
            {"text": "stir the soup", "start": end / 2 + 2, "end": end},
        ]
    }


def test_an_event_across_a_seam_is_one_subtask(tmp_path: Path) -> None:
    asked = answerer(plan_subtasks=window_answer)
    episode = make_episode(50.0)
    rows = of_style(run(make_context(tmp_path, asked, episode)), "subtask")
    questions = asked.named("plan_subtasks")
    assert [q.window_s for q in questions] == [(0.0, pytest.approx(26.0)), (pytest.approx(24.0), 50.0)]
    assert all(q.inputs["duration"] == 26.0 for q in questions)
    assert [r.content for r in rows] == [
        "stir the soup",
        "add spice 0",
        "stir the soup",
        "add spice 24",
        "stir the soup",
    ]
    assert [r.timestamp for r in rows] == [episode.snap(t) for t in (0, 12, 15, 36, 39)]


def test_times_printed_in_a_window_count_from_its_start(tmp_path: Path) -> None:
    asked, episode = answerer(plan_subtasks=window_answer), make_episode(50.0)
    run(make_context(tmp_path, asked, episode))
    second = asked.named("plan_subtasks")[1]
    start, end = second.window_s
    shots = DrawnFrames(episode).tiles(FRONT, sample_times(episode.times, start, end, 2.0, 60), 224)
    assert second.pictures == tuple(contact_sheets(shots, columns=5, per_sheet=20, quality=84, zero_s=start))


def test_an_answerer_without_eyes_takes_the_episode_in_one_look(tmp_path: Path) -> None:
    episode = make_episode(50.0, cameras=())
    blind = ScriptedAnswerer(ANSWERS, needs_pictures=False)
    ctx = make_context(tmp_path, blind, episode, plan={"max_steps": 4})
    ctx.frames = DrawnFrames(episode, broken=True)  # type: ignore[assignment] # decoding would fail
    assert len(of_style(run(ctx), "subtask")) == 3
    (question,) = blind.named("plan_subtasks")
    assert question.window_s == (0.0, 50.0) and question.pictures == () and question.inputs["max_steps"] == 8


def test_counts_and_lengths_are_enforced(tmp_path: Path) -> None:
    many = {"subtasks": [{"text": f"step {i}", "start": i, "end": i + 1} for i in range(8)]}
    rows = of_style(run(make_context(tmp_path, answerer(plan_subtasks=many), plan={"max_steps": 3})), "subtask")
    assert 1 < len(rows) <= 3
    rows = of_style(run(make_context(tmp_path, answerer(plan_subtasks=many), plan={"min_subtask_s": 2.5})), "subtask")
    ends = [r.timestamp for r in rows[1:]] + [8.0]
    assert len(rows) > 1 and all(end - r.timestamp >= 2.5 for r, end in zip(rows, ends, strict=True))


# ---------------------------------------------------------------- the task


@pytest.mark.parametrize("task", ["", "Debug", "N/A", "pick cup"])
def test_a_task_that_says_nothing_is_named_from_the_video(tmp_path: Path, task: str) -> None:
    asked = answerer(plan_video_task={"task": "put the cup on the shelf"})
    staged = plan.run(make_context(tmp_path, asked, make_episode(task=task)))
    assert staged.facts["effective_task"] == "put the cup on the shelf" and staged.facts["task_source"] == "video"
    assert asked.named("plan_subtasks")[0].inputs["task"] == "put the cup on the shelf"
    assert of_style(staged.rows, "task_aug")[0].content == "put the cup on the shelf"
    assert asked.named("plan_video_task")[0].pictures is asked.named("plan_subtasks")[0].pictures


def test_when_the_video_does_not_tell_the_dataset_task_stays(tmp_path: Path) -> None:
    staged = plan.run(make_context(tmp_path, answerer(plan_video_task="timed out"), make_episode(task="pick cup")))
    assert staged.facts["effective_task"] == "pick cup"
    nothing = plan.run(make_context(tmp_path, answerer(plan_video_task={"task": "n/a"}), make_episode(task="")))
    assert nothing.facts["effective_task"] == "" and not of_style(nothing.rows, "task_aug")


def test_deriving_can_be_off_or_always(tmp_path: Path) -> None:
    asked = answerer(plan_video_task={"task": "set the table"})
    off = plan.run(make_context(tmp_path, asked, make_episode(task="x"), plan={"derive_task_from_video": "off"}))
    assert off.facts["effective_task"] == "x" and not asked.named("plan_video_task")
    always = plan.run(make_context(tmp_path, asked, plan={"derive_task_from_video": "always"}))
    assert always.facts["effective_task"] == "set the table"


# ---------------------------------------------------------------- memory


def test_each_memory_builds_on_the_one_before(tmp_path: Path) -> None:
    asked = answerer()
    run(make_context(tmp_path, asked))
    first, second = asked.named("plan_memory")
    assert first.inputs["prior_memory"] == "" and first.inputs["completed"] == "pick up the cup"
    assert first.inputs["remaining"] == "put the cup on the shelf; close the door"
    assert second.inputs["prior_memory"] == "I did: pick up the cup."


def test_what_a_failed_memory_left_out_goes_into_the_next(tmp_path: Path) -> None:
    def forgetful(question: Question) -> object:
        return "half JSON" if question.inputs["completed"] == "pick up the cup" else remember(question)

    rows = of_style(run(make_context(tmp_path, answerer(plan_memory=forgetful))), "memory")
    assert [r.content for r in rows] == ["I did: pick up the cup; put the cup on the shelf."]


def test_an_empty_memory_makes_no_row_and_keeps_the_one_before(tmp_path: Path) -> None:
    asked = answerer(
        plan_memory=lambda q: {"memory": ""} if q.inputs["completed"] == "pick up the cup" else remember(q)
    )
    rows = of_style(run(make_context(tmp_path, asked)), "memory")
    assert [r.content for r in rows] == ["I did: put the cup on the shelf."]
    assert asked.named("plan_memory")[1].inputs["prior_memory"] == ""


# ---------------------------------------------------------------- relabel


def test_relabelling_changes_texts_only_and_names_each_sheet(tmp_path: Path) -> None:
    def relabel(question: Question) -> object:
        return {1: {"label": "Pick up the blue cup."}, 2: "no answer", 3: {"label": "none"}}[question.inputs["index"]]

    asked = answerer(plan_subtask_relabel=relabel)
    before = of_style(run(make_context(tmp_path, answerer())), "subtask")
    rows = of_style(run(make_context(tmp_path, asked, plan={"subtask_seeded_relabel": True})), "subtask")
    assert [r.timestamp for r in rows] == [r.timestamp for r in before]
    assert [r.content for r in rows] == ["pick up the blue cup", "put the cup on the shelf", "close the door"]
    captions = [[p.caption for p in q.pictures] for q in asked.named("plan_subtask_relabel")]
    assert captions == [
        ["segment to label:", "next segment:"],
        ["previous segment:", "segment to label:", "next segment:"],
        ["previous segment:", "segment to label:"],
    ]
    assert len([b for b in asked.batches if b[0].name == "plan_subtask_relabel"]) == 1


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("said", ["server said 500", None])
def test_an_unanswered_window_fails_the_episode_with_the_reason(tmp_path: Path, said: str | None) -> None:
    def second_window_fails(question: Question) -> object:
        return SEGMENTS if question.window_s[0] == 0.0 else said

    with pytest.raises(EpisodeError, match=said or "no reason given"):
        plan.run(make_context(tmp_path, answerer(plan_subtasks=second_window_fails), make_episode(50.0)))


@pytest.mark.parametrize(
    "subtasks", [[], [{"text": "None", "start": 0, "end": 4}], [{"text": "x y", "start": 90, "end": 95}]]
)
def test_no_usable_segment_fails_the_episode(tmp_path: Path, subtasks: list[object]) -> None:
    with pytest.raises(EpisodeError, match="at least one subtask"):
        plan.run(make_context(tmp_path, answerer(plan_subtasks={"subtasks": subtasks})))


def test_broken_video_fails_the_episode_before_anything_is_asked(tmp_path: Path) -> None:
    asked, episode = answerer(), make_episode()
    with pytest.raises(EpisodeError, match="truncated file"):
        plan.run(make_context(tmp_path, asked, episode, frames=DrawnFrames(episode, broken=True)))
    assert asked.batches == []


def test_a_model_needs_a_camera(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="want a colour video camera"):
        plan.run(make_context(tmp_path, answerer(), make_episode(cameras=())))


@pytest.mark.parametrize("settings", [{"vlm": {"camera_key": "top"}}, {"plan": {"second_camera": "top"}}])
def test_an_unknown_camera_is_named(tmp_path: Path, settings: dict[str, dict[str, object]]) -> None:
    with pytest.raises(EpisodeError, match=r"'top'[\s\S]*observation.images.front"):
        plan.run(make_context(tmp_path, answerer(), **settings))


# ---------------------------------------------------------------- refresh


def test_the_plan_is_refreshed_where_there_is_none_yet() -> None:
    spans = [Span("a", 0.0, 3.0), Span("b", 3.0, 6.0), Span("c", 6.0, 9.0)]
    rows = plan.plan_refresh_rows(spans, [5.0, 2.0, 3.0, 5.0, 8.0], {0.0, 3.0, 6.0}, emit_plan=True)
    assert [(r.timestamp, r.content) for r in rows] == [(2.0, "1. b\n2. c"), (5.0, "1. c")]
    assert plan.plan_refresh_rows(spans, [2.0], set(), emit_plan=False) == []


# ---------------------------------------------------------------- prompts and a real video


def test_prompt_names_follow_the_settings() -> None:
    def names(**section: object) -> set[str]:
        return set(plan.prompt_names(AnnotateSettings.model_validate({"plan": section})))

    assert "plan_memory" in names() and "plan_memory" not in names(emit_memory=False)
    assert {"sheet_preamble", "boundary_rules", "plan_subtasks"} <= names()
    assert "plan_task_aug_axes" in names(task_aug_axes={"enabled": True})
    assert "plan_task_rephrasings" not in names(n_task_rephrasings=0)
    assert all(prompts.digest(n) for n in names(subtask_seeded_relabel=True))


def test_a_real_episode_from_its_mp4(tmp_path: Path, generated_dataset: Path) -> None:
    dataset = open_dataset(generated_dataset)
    episode = dataset.episodes()[2]
    frames = EpisodeFrames(episode, plan.wanted(episode, AnnotateSettings(), dataset.cameras))
    asked = answerer()
    staged = plan.run(make_context(tmp_path, asked, episode, frames=frames))
    assert len(asked.named("plan_subtasks")[0].pictures) == 1
    spans = spans_of(staged.rows, episode.end_s)
    assert {s.start for s in spans} <= set(episode.times) and spans[0].start == episode.start_s
    assert frames.decoded == 9  # 0.0 to 3.9 s, two a second, for describe and segment together
