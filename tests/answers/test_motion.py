"""The motion answerer: subtasks where the gripper says so, words from the task, nothing made up."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.answers.motion import MotionAnswerer
from tasks.answers.motion_segments import Piece, cut_window, enforce_max, enforce_min
from tasks.answers.question import Question
from tasks.dataset.layout import open_dataset
from tasks.questions import (
    AttributeQA,
    CountQA,
    Description,
    InitialSpeech,
    Interjection,
    Memory,
    RelabeledSegment,
    Rephrasings,
    Segments,
    TaskAugAxes,
    VideoTask,
)
from tests.conftest import real_dataset
from tests.dataset.arms import ArrayDataset, an_episode, arm, steps, strokes

AXES = ("synonym_paraphrase", "omit_arm", "omit_orientation", "omit_grasp_method", "combined_omissions")
# reach, lift, carry, retreat; the gripper closes at frame 25 and opens at 65
ONE_GRASP = strokes(100, (5, 22), (28, 38), (40, 60), (70, 80))
GRASP_WAVE = steps(100, (25, 0.0), (65, 1.0), start=1.0)


def two_grasps():
    wave = steps(200, (25, 0.0), (65, 1.0), (125, 0.0), (165, 1.0), start=1.0)
    return wave, np.tile(ONE_GRASP, 2)


def asked(answerer, name, answer, episode=None, window_s=None, **inputs):
    (reply,) = answerer.answer([Question(name, answer, inputs, episode=episode, window_s=window_s)])
    assert reply.reason is None
    assert reply.answer is None or isinstance(reply.answer, answer)
    return reply.answer


def subtasks(dataset, task, frames=100, min_s=1.5, max_steps=8, window_s=None):
    episode = an_episode(frames, task=task)
    inputs = {"task": task, "min_subtask_s": min_s, "max_steps": max_steps}
    answer = asked(MotionAnswerer(dataset), "plan_subtasks", Segments, episode, window_s, **inputs)
    return [(s.text, round(s.start, 1), round(s.end, 1)) for s in answer.subtasks]


def texts(*args, **more):
    return [text for text, _, _ in subtasks(*args, **more)]


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("Put the red cube in the blue box.", ["pick up the red cube", "put the red cube in the blue box"]),
        ("stack the green cube on the red cube", ["pick up the green cube", "stack the green cube on the red cube"]),
        ("Pick up the bottle on the table.", ["pick up the bottle", "put down the bottle"]),
        ("pick the pear and place it on the plate", ["pick up the pear", "place the pear on the plate"]),
        ("pick up the cup with the left arm", ["pick up the cup", "put down the cup"]),
        ("", ["pick up the object", "put down the object"]),
        ("把杯子放下", ["pick up the object", "put down the object"]),
        ("Open the drawer.", ["open the drawer"]),
        ("put the cup and the fork on the tray", ["pick up the object", "put the object on the tray"]),
    ],
)
def test_one_grasp_in_the_words_of_the_task(tmp_path, task, labels):
    assert texts(arm(tmp_path, GRASP_WAVE, ONE_GRASP), task) == labels


def test_the_cut_lies_where_the_lift_ends(tmp_path):
    (_, start, cut), (_, again, end) = subtasks(arm(tmp_path, GRASP_WAVE, ONE_GRASP), "put the cup on the tray")
    assert (start, end) == (0.0, 9.9) and cut == again
    assert abs(cut - 3.8) <= 0.3  # the lift lasts from 2.8 to 3.8 s


def test_objects_are_named_only_as_often_as_they_are_grasped(tmp_path):
    dataset = arm(tmp_path, *two_grasps())
    both = "put the red cube and the green ball on the tray"
    assert texts(dataset, both, frames=200) == [
        "pick up the red cube",
        "put the red cube on the tray",
        "pick up the green ball",
        "put the green ball on the tray",
    ]
    again = ["pick up the object", "put down the object", "pick up the object", "put the object on the tray"]
    assert texts(dataset, "put the red cube on the tray", frames=200) == again
    many = texts(dataset, "put all the cubes in the box", frames=200)
    assert many == ["pick up the object", "put the object in the box"] * 2
    neither = ["pick up the object", "put down the object"] * 2
    assert texts(dataset, "put the a on the b and the c, the d in the e", frames=200) == neither
    assert (
        texts(dataset, "open the drawer and wipe the table", frames=200)
        == [
            "grasp the object",
            "release the object",
        ]
        * 2
    )


def test_a_grasp_that_is_not_let_go(tmp_path):
    dataset = arm(tmp_path, steps(100, (40, 0.0), start=1.0), strokes(100, (5, 35), (45, 60)))
    assert subtasks(dataset, "pick up the bottle") == [("pick up the bottle", 0.0, 9.9)]


def test_shutting_the_gripper_to_rest_is_no_grasp(tmp_path):
    wave = steps(140, (20, 60.0), (50, 4.0), (90, 60.0), (120, 2.0), start=2.0)
    dataset = arm(tmp_path, {"gripper.pos": wave}, strokes(140, (5, 40), (55, 85), (95, 130)))
    assert texts(dataset, "", frames=140) == ["pick up the object", "put down the object"]


def test_hands_are_named_when_both_act(tmp_path):
    left = steps(200, (25, 0.0), (65, 1.0), start=1.0)
    right = steps(200, (125, 0.0), (165, 1.0), start=1.0)
    still = np.ones(200)
    motion = np.tile(ONE_GRASP, 2)
    task = "put the cup and the fork on the tray"
    assert texts(arm(tmp_path, {"left_gripper": left, "right_gripper": right}, motion), task, frames=200) == [
        "pick up the cup with the left hand",
        "put the cup on the tray with the left hand",
        "pick up the fork with the right hand",
        "put the fork on the tray with the right hand",
    ]
    one = texts(arm(tmp_path, {"left_gripper": left, "right_gripper": still}, motion), "pick up the cup", frames=200)
    assert one == ["pick up the cup", "put down the cup"]
    pair = {"left_gripper": left, "right_gripper": np.roll(left, 3)}
    assert texts(arm(tmp_path, pair, motion), "lift the pot", frames=200) == [
        "pick up the pot with both hands",
        "put down the pot with both hands",
    ]


def test_without_gripper_events_the_task_itself_is_the_subtask(tmp_path):
    busy = arm(tmp_path, np.ones(100), strokes(100, (0, 99)))
    assert subtasks(busy, "Wipe the table.") == [("wipe the table", 0.0, 9.9)]
    late = arm(tmp_path, np.ones(100), strokes(100, (40, 99)))
    (still, work) = subtasks(late, "Wipe the table.")
    assert still[0] == "hold still" and work[0] == "wipe the table" and abs(work[1] - 4.0) < 0.5


def test_without_a_task_only_motion_is_told(tmp_path):
    late = arm(tmp_path, np.ones(100), strokes(100, (40, 99)))
    assert texts(late, "") == ["hold still", "move the arm"] == texts(late, "test")
    assert texts(arm(tmp_path, np.ones(100)), "") == ["hold still"]
    mute = ArrayDataset(tmp_path, {}, {})
    assert texts(mute, "wipe the table") == ["wipe the table"]
    (reply,) = MotionAnswerer(mute).answer([Question("plan_subtasks", Segments, {}, episode=an_episode(100))])
    assert reply.answer is None and "task text" in reply.reason


def test_short_pieces_join_and_steps_are_limited(tmp_path):
    wave = steps(100, (25, 0.0), (33, 1.0), start=1.0)
    quick = arm(tmp_path, wave, strokes(100, (5, 22), (28, 31), (36, 40)))
    assert texts(quick, "pick up the cup", min_s=7.0) == ["pick up the cup and put it down"]
    dataset = arm(tmp_path, *two_grasps())
    task = "put the red cube and the green ball on the tray"
    assert texts(dataset, task, frames=200, max_steps=2) == [
        "put the red cube on the tray",
        "put the green ball on the tray",
    ]
    assert len(texts(dataset, task, frames=200, max_steps=1)) == 1


def test_a_window_is_answered_in_its_own_time(tmp_path):
    dataset = arm(tmp_path, *two_grasps())
    task = "put the red cube and the green ball on the tray"
    whole = subtasks(dataset, task, frames=200)
    cut = subtasks(dataset, task, frames=200, window_s=(9.0, 19.9))
    assert [t for t, _, _ in cut][-2:] == ["pick up the green ball", "put the green ball on the tray"]
    assert cut[-1][1] == pytest.approx(whole[-1][1] - 9.0, abs=0.11) and cut[-1][2] == 10.9
    assert cut[0][1] == 0.0


PIECES = st.lists(st.tuples(st.floats(0.01, 5), st.integers(-1, 3)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(PIECES, st.floats(0, 6), st.integers(1, 6))
def test_pieces_stay_without_gaps(lengths, min_s, count_max):
    pieces, at = [], 0.0
    for i, (length, grasp) in enumerate(lengths):
        pieces.append(Piece(f"t{i}", at, at + length, grasp, f"w{grasp}"))
        at += length
    for out in (enforce_min(pieces, min_s), enforce_max(pieces, count_max), cut_window(pieces, 0.0, at)):
        assert out[0].start == 0.0 and out[-1].end == pytest.approx(at)
        assert all(a.end == pytest.approx(b.start) for a, b in pairwise(out))
    long = enforce_min(pieces, min_s)
    assert len(long) == 1 or min(p.length_s for p in long) >= min_s - 1e-6
    assert len(enforce_max(pieces, count_max)) <= count_max


# ------------------------------------------------------------------------------------------------ questions on frames


def test_gripper_and_arm_states_are_told_only_when_proven(tmp_path):
    answerer = MotionAnswerer(arm(tmp_path, steps(100, (25, 0.0), (65, 1.0), start=1.0, ramp=10), ONE_GRASP))
    episode = an_episode(100)
    told = {}
    for t in np.arange(0, 10, 0.1):
        answer = asked(answerer, "vqa_attribute", AttributeQA, episode, time=round(float(t), 2), task="")
        if answer:
            told[round(float(t), 1)] = (answer.question, answer.answer.label, answer.answer.value)
    grip = {t: v for t, (q, label, v) in told.items() if label == "gripper" and q == "Is the gripper open or closed?"}
    assert {v for t, v in grip.items() if t <= 1.9 or t >= 7.1} == {"open"}
    assert {v for t, v in grip.items() if 3.1 <= t <= 5.9} == {"closed"}
    assert not [t for t in grip if 2.3 <= t <= 2.7 or 6.3 <= t <= 6.7]  # between open and closed
    motion = {t: v for t, (_, label, v) in told.items() if label == "robot arm"}
    assert {v for t, v in motion.items() if 4.3 <= t <= 5.7} == {"moving"}
    assert {v for t, v in motion.items() if t >= 8.5} == {"still"}
    assert grip and motion and len(grip) + len(motion) == len(told)


def test_two_grippers_are_asked_about_by_side(tmp_path):
    hands = {"left_gripper": GRASP_WAVE, "right_gripper": np.ones(100)}
    answerer = MotionAnswerer(arm(tmp_path, hands, ONE_GRASP))
    found = [asked(answerer, "vqa_attribute", AttributeQA, an_episode(100, index=i), time=4.5) for i in range(20)]
    assert {a.answer.label for a in found} == {"left gripper", "robot arm"}  # nothing is known of the right one
    assert {a.question for a in found if a.answer.label == "left gripper"} == {"Is the left gripper open or closed?"}


def test_what_motion_cannot_know_is_left_out(tmp_path):
    answerer = MotionAnswerer(ArrayDataset(tmp_path, {}, {}))
    episode = an_episode(10)
    for name, answer in (
        ("vqa_count", CountQA),
        ("plan_video_task", VideoTask),
        ("plan_subtask_describe", Description),
    ):
        assert asked(answerer, name, answer, episode, time=0.5, task="put the cup on the tray") is None
    assert asked(answerer, "vqa_attribute", AttributeQA, episode, time=0.5) is None
    assert asked(answerer, "plan_task_rephrasings", Rephrasings, base_task="拿起瓶子", n=5) is None


# ------------------------------------------------------------------------------------------------ words


def test_rephrasings_keep_verb_meaning_objects_and_goal(tmp_path):
    task = "Put the red cube in the blue box."
    answer = asked(
        MotionAnswerer(arm(tmp_path, GRASP_WAVE)), "plan_task_rephrasings", Rephrasings, base_task=task, n=10
    )
    found = answer.rephrasings
    assert len(found) == 10 == len({t.casefold() for t in found}) and task not in found
    assert all("the red cube in the blue box" in t for t in found)
    assert all(("put " in t) != ("place " in t) for t in found)


def test_axes_leave_out_only_what_is_said(tmp_path):
    answerer = MotionAnswerer(arm(tmp_path, GRASP_WAVE))
    counts = dict.fromkeys(AXES, 2)
    plain = asked(answerer, "plan_task_aug_axes", TaskAugAxes, base_task="pick up the cup", **counts)
    assert len(plain.synonym_paraphrase) == 2
    assert not any(getattr(plain, axis) for axis in AXES[1:])
    rich = "grab the cup by the handle with the left arm"
    answer = asked(answerer, "plan_task_aug_axes", TaskAugAxes, base_task=rich, **counts)
    assert answer.omit_arm[0] == "grab the cup by the handle"
    assert answer.omit_grasp_method[0] == "grab the cup with the left arm"
    assert answer.combined_omissions[0] == "grab the cup" and answer.omit_orientation == []
    everything = [t for axis in AXES for t in getattr(answer, axis)]
    assert len(everything) == len(set(everything))


def test_memory_tells_outcomes_in_the_past(tmp_path):
    answerer = MotionAnswerer(arm(tmp_path, GRASP_WAVE))

    def told(completed, before=""):
        return asked(
            answerer, "plan_memory", Memory, completed=completed, prior_memory=before, task="", remaining=""
        ).memory

    assert told("pick up the red cube") == "I picked up the red cube."
    put = told("put the red cube in the blue box", "I picked up the red cube.")
    assert put == "I put the red cube in the blue box."
    assert told("pick up the ball", put) == "I put the red cube in the blue box. I picked up the ball."
    assert told("pick up the cup; place the cup on the tray") == "I placed the cup on the tray."
    assert (
        told("pick up the pot and put it down with both hands")
        == "I picked up the pot and put it down with both hands."
    )
    assert told("Deburr the part") == "I finished: Deburr the part."
    assert told("hold still", put) == ""


def test_speech_and_cues_speak_of_the_next_subtask(tmp_path):
    answerer = MotionAnswerer(arm(tmp_path, GRASP_WAVE))
    speech = asked(answerer, "interjections_initial_speech", InitialSpeech, task="Put the red cube in the box.")
    assert speech.text == "Okay, I will put the red cube in the box."
    assert asked(answerer, "interjections_initial_speech", InitialSpeech, task="").text == "Okay, I will start now."
    cues = set()
    for i in range(12):
        inputs = {"task": "", "previous": "pick up the cup", "next": "put the cup in the box", "time": 3.0}
        answer = asked(answerer, "interjections_interjection", Interjection, an_episode(100, index=i), **inputs)
        assert "put the cup in the box" in answer.interjection and answer.speech
        cues.add(answer.interjection)
    assert len(cues) > 2
    kept = asked(answerer, "plan_subtask_relabel", RelabeledSegment, seed_label="put the cup in the box")
    assert kept.label == "put the cup in the box"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=3000))
def test_any_task_text_gives_valid_answers(text):
    answerer = MotionAnswerer(arm(Path("."), GRASP_WAVE, ONE_GRASP))
    episode = an_episode(100, task=text)
    inputs = {"task": text, "base_task": text, "n": 10, "completed": text, "next": text, "previous": "", "time": 1.0}
    assert asked(answerer, "plan_subtasks", Segments, episode, **inputs).subtasks
    for name, answer in (
        ("plan_task_rephrasings", Rephrasings),
        ("plan_task_aug_axes", TaskAugAxes),
        ("plan_memory", Memory),
        ("interjections_initial_speech", InitialSpeech),
        ("interjections_interjection", Interjection),
    ):
        asked(answerer, name, answer, episode, **inputs)


# ------------------------------------------------------------------------------------------------ as an answerer


def test_same_question_same_answer_and_one_read_per_episode(tmp_path):
    dataset = arm(tmp_path, GRASP_WAVE, ONE_GRASP)
    answerer = MotionAnswerer(dataset)
    assert (
        answerer.model_id.startswith("motion-") and answerer.vqa_types == {"attribute"} and not answerer.needs_pictures
    )
    answerer.preflight()
    episodes = [an_episode(100, task="pick up the cup", index=i) for i in range(4)]
    questions = [
        Question("vqa_attribute", AttributeQA, {"time": t / 2, "task": ""}, phase="vqa", episode=e)
        for e in episodes
        for t in range(20)
    ]
    first = answerer.answer(questions)
    assert dataset.reads == len(episodes)
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(MotionAnswerer(dataset).answer, [questions] * 8))
    assert all(replies == first for replies in again)
    answerer.close()
    answerer.close()
    assert answerer.answer(questions) == first


def test_signals_of_many_episodes_are_not_all_kept(tmp_path):
    dataset = arm(tmp_path, GRASP_WAVE)
    answerer = MotionAnswerer(dataset)
    for i in range(100):
        asked(answerer, "vqa_attribute", AttributeQA, an_episode(100, index=i), time=1.0)
    assert len(answerer._signals) <= 32


def test_unreadable_signals_are_a_reason_not_a_crash(dataset_copy):
    dataset = open_dataset(dataset_copy)
    (episode, *_) = dataset.episodes()
    for shard in dataset.data_files:
        shard.write_bytes(b"PAR1 broken")
    question = Question("plan_subtasks", Segments, {"task": episode.task}, episode=episode)
    (reply,) = MotionAnswerer(dataset).answer([question])
    assert reply.answer is None and reply.reason


# ------------------------------------------------------------------------------------------------ against the truth


def boundary_f1(found, true, within_s=1.0):
    left, hits = list(found), 0
    for t in true:
        near = [f for f in left if abs(f - t) <= within_s]
        if near:
            left.remove(min(near, key=lambda f: abs(f - t)))
            hits += 1
    return 2 * hits / max(1, len(found) + len(true))


def test_generated_scenes_are_segmented_as_they_truly_are(tmp_path):
    from tasks.dataset.generate import generate

    root = generate(tmp_path / "scenes", episodes=3, seconds=16.0, fps=10, size=(32, 24))
    truth = json.loads((tmp_path / "scenes.truth.json").read_text())["episodes"]
    dataset = open_dataset(root)
    answerer = MotionAnswerer(dataset)
    for episode, true in zip(dataset.episodes(), truth, strict=True):
        inputs = {"task": episode.task, "min_subtask_s": 1.5, "max_steps": 8}
        found = asked(answerer, "plan_subtasks", Segments, episode, **inputs).subtasks
        assert [s.text for s in found] == [s["text"] for s in true["subtasks"]]
        starts = [[s.start for s in found[1:]], [s["start"] for s in true["subtasks"][1:]]]
        assert boundary_f1(*starts, within_s=0.5) == 1.0


def test_generated_gripper_answers_are_true(generated_dataset):
    dataset = open_dataset(generated_dataset)
    truth = json.loads(generated_dataset.with_name(f"{generated_dataset.name}.truth.json").read_text())["episodes"]
    answerer, seen = MotionAnswerer(dataset), set()
    for episode, true in zip(dataset.episodes(), truth, strict=True):
        spans = list(zip(true["events"][::2], true["events"][1::2], strict=True))
        for t in episode.times:
            answer = asked(answerer, "vqa_attribute", AttributeQA, episode, time=t)
            if answer and answer.answer.label == "gripper":
                held = any(close["time_s"] <= t < opened["time_s"] for close, opened in spans)
                assert answer.answer.value == ("closed" if held else "open")
                seen.add(answer.answer.value)
    assert seen == {"open", "closed"}


def test_real_recordings_are_segmented():
    dataset = open_dataset(real_dataset("g1-bottle-v3"))
    answerer = MotionAnswerer(dataset)
    for episode in dataset.episodes():
        found = asked(answerer, "plan_subtasks", Segments, episode, task=episode.task).subtasks
        assert [s.text for s in found] == ["pick up the yellow bottle", "put down the yellow bottle"]
        assert 3.0 < found[1].start < 7.5
