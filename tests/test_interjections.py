"""Phase interjections: where a person speaks, what is asked, and which rows come out."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import interjections
from tasks.answers.question import Question
from tasks.dataset.frames import EpisodeFrames
from tasks.dataset.layout import open_dataset
from tasks.errors import EpisodeError
from tasks.interjections import choose_cues
from tasks.language.rows import Row
from tasks.phase import PhaseContext
from tasks.segments import Span, spans_of
from tasks.settings import AnnotateSettings
from tests.answerers import DrawnFrames, ScriptedAnswerer, make_context, make_episode

STEPS = ("pick up the cup", "put the cup down", "wipe the table", "close the door")


def subtasks(*starts: float) -> list[Row]:
    return [Row("assistant", STEPS[i % 4], "subtask", t) for i, t in enumerate(starts)]


def talk(question: Question) -> dict[str, str]:
    if question.name == "interjections_initial_speech":
        return {"text": "Okay, starting."}
    return {"interjection": f"Please {question.inputs['next']}.", "speech": "Sure."}


def context(root: Path, *starts: float, script: object = talk, **more: object) -> PhaseContext:
    episode = more.pop("episode", None) or make_episode()
    settings = {k: more.pop(k) for k in ("interjections", "vlm", "seed") if k in more}
    ctx = make_context(root, ScriptedAnswerer(script), episode, phase="interjections", **more, **settings)  # type: ignore[arg-type]
    rows = subtasks(*(episode.snap(t) for t in starts))
    ctx.staging.write(episode.episode_index, "plan", rows, key="k", facts={"effective_task": "tidy up"})
    return ctx


def run(ctx: PhaseContext) -> list[Row]:
    return [row.check() for row in interjections.run(ctx).rows]


def test_without_interjections_there_is_exactly_the_speech_at_the_start(tmp_path: Path) -> None:
    ctx = context(tmp_path, 0.0, 3.0, 6.0, interjections={"max_interjections_per_episode": 0})
    assert run(ctx) == [Row.speech("Okay, starting.", ctx.episode.start_s)]


def test_one_boundary_gives_one_pair_on_its_frame(tmp_path: Path) -> None:
    ctx = context(tmp_path, 0.0, 4.0)
    t = ctx.episode.times[40]
    assert run(ctx) == [
        Row.speech("Okay, starting.", 0.0),
        Row("user", "Please put the cup down.", "interjection", t),
        Row.speech("Sure.", t),
    ]


def test_one_subtask_leaves_nothing_to_ask_for(tmp_path: Path) -> None:
    assert [r.style for r in run(context(tmp_path, 0.0))] == [None]


def test_all_questions_go_out_together_with_their_pictures(tmp_path: Path) -> None:
    ctx = context(tmp_path, 0.0, 3.0, 6.0)
    run(ctx)
    (batch,) = ctx.answerer.batches  # type: ignore[attr-defined]
    assert [q.name for q in batch] == ["interjections_initial_speech"] + ["interjections_interjection"] * 2
    assert batch[0].inputs == {"task": "tidy up"} and batch[0].pictures == ()
    assert batch[1].inputs == {
        "task": "tidy up",
        "previous": "pick up the cup",
        "next": "put the cup down",
        "time": 3.0,
        "window_s": 2.0,
    }
    captions = [p.caption for p in batch[1].pictures]
    assert captions == ["2.00 s:", "2.70 s:", "3.30 s:", "4.00 s:"]  # centred, each under its own time


def test_the_window_stays_inside_the_episode(tmp_path: Path) -> None:
    ctx = context(tmp_path, 0.0, 7.8)
    run(ctx)
    (question,) = ctx.answerer.named("interjections_interjection")  # type: ignore[attr-defined]
    assert question.pictures[0].caption == "6.80 s:" and question.pictures[-1].caption == "8.00 s:"
    assert question.window_s == (pytest.approx(6.8), 8.0)


def test_a_failed_question_leaves_out_both_rows(tmp_path: Path) -> None:
    def once(question: Question) -> object:
        return "prose" if question.inputs.get("next") == "put the cup down" else talk(question)

    ctx = context(tmp_path, 0.0, 3.0, 6.0, script=once)
    assert [r.content for r in run(ctx) if r.style] == ["Please wipe the table."]
    assert [s.reason for s in ctx.report.skips] == ["prose"]


def test_when_every_question_failed_the_episode_failed(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="401"):
        interjections.run(context(tmp_path, 0.0, 3.0, script=lambda q: "401 wrong key"))


def test_broken_video_fails_the_episode(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="truncated"):
        interjections.run(context(tmp_path, 0.0, 3.0, frames=DrawnFrames(make_episode(), broken=True)))


def test_an_answerer_without_eyes_is_asked_without_pictures(tmp_path: Path) -> None:
    ctx = context(tmp_path, 0.0, 3.0, frames=DrawnFrames(make_episode(), broken=True))
    ctx.answerer = ScriptedAnswerer(talk, needs_pictures=False)
    assert len(run(ctx)) == 3


def test_subtasks_of_the_dataset_serve_where_none_are_staged(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, ScriptedAnswerer(talk), phase="interjections")
    with pytest.raises(EpisodeError, match="--phases=plan,interjections"):
        interjections.run(ctx)
    ctx.dataset_rows = subtasks(0.0, ctx.episode.times[40])
    assert [r.timestamp for r in run(ctx)] == [0.0, 4.0, 4.0]
    assert ctx.answerer.asked[-1].inputs["task"] == ctx.episode.task  # type: ignore[attr-defined]


# ---------------------------------------------------------------- which moments


def settings_of(seed: int = 1, **section: object) -> AnnotateSettings:
    return AnnotateSettings.model_validate({"seed": seed, "interjections": section})


def test_the_choice_is_the_same_again_and_another_for_another_episode() -> None:
    spans = [Span(f"step {i}", 2.0 * i, 2.0 * i + 2) for i in range(12)]
    settings = settings_of()

    def times(index: int, seed: int = 1) -> list[float]:
        return [c.time_s for c in choose_cues(spans, make_episode(24.0, index=index), settings_of(seed))]

    assert times(0) == times(0) and len(times(0)) == settings.interjections.max_interjections_per_episode
    assert len({tuple(times(i)) for i in range(8)}) > 1 and len({tuple(times(0, s)) for s in range(8)}) > 1


def test_nobody_speaks_too_early() -> None:
    spans = spans_of(subtasks(0.0, 1.0, 3.0, 5.0), 8.0)
    assert [c.time_s for c in choose_cues(spans, make_episode(), settings_of())] == [3.0, 5.0]


def test_a_lead_puts_the_cue_before_the_boundary_but_inside_the_subtask_before() -> None:
    spans = spans_of(subtasks(0.0, 3.0, 3.5, 6.0), 8.0)
    cues = choose_cues(spans, make_episode(), settings_of(interjection_lead_s=1.0))
    assert [(round(c.time_s, 2), c.next) for c in cues] == [
        (2.0, "put the cup down"),
        (3.1, "wipe the table"),
        (5.0, "close the door"),
    ]


@given(
    starts=st.lists(st.integers(1, 80), unique=True, max_size=8).map(sorted),
    lead=st.floats(0, 30),
    min_t=st.floats(0, 9),
    count=st.integers(0, 9),
)
def test_cues_lie_on_distinct_frames_between_the_boundaries(starts, lead, min_t, count) -> None:
    episode = make_episode()
    spans = spans_of(subtasks(*(episode.times[i] for i in [0, *starts])), episode.end_s)
    cues = choose_cues(
        spans,
        episode,
        settings_of(interjection_lead_s=lead, interjection_min_t=min_t, max_interjections_per_episode=count),
    )
    possible = sum(s.start >= min_t for s in spans[1:])
    assert len(cues) == min(count, possible)
    assert all(a.time_s < b.time_s for a, b in pairwise(cues))
    for cue in cues:
        assert cue.time_s in episode.times and cue.time_s >= min_t
        assert any(a.start < cue.time_s <= b.start and cue.next == b.text for a, b in pairwise(spans))


def test_prompt_names_follow_the_settings() -> None:
    assert interjections.prompt_names(settings_of()) == ("interjections_initial_speech", "interjections_interjection")
    assert interjections.prompt_names(settings_of(max_interjections_per_episode=0)) == ("interjections_initial_speech",)


def test_a_real_episode_from_its_mp4(tmp_path: Path, generated_dataset: Path) -> None:
    dataset = open_dataset(generated_dataset)
    episode = dataset.episodes()[1]
    ctx = context(tmp_path, 0.0, 2.5, episode=episode, frames=EpisodeFrames(episode, {}))
    rows = run(ctx)
    assert {r.timestamp for r in rows} == {episode.start_s, episode.snap(2.5)}
    (question,) = ctx.answerer.named("interjections_interjection")  # type: ignore[attr-defined]
    assert [(p.width, p.height) for p in question.pictures] == [(160, 120)] * 4
