"""Samples and batches of a loader: rows become messages, dropped samples leave every field, bad batches are named."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tasks.errors import RecipeError, SettingsError
from tasks.language.batch_fields import BatchError, number
from tasks.language.step_core import DATA, MessageRenderer, MissingFieldError

FPS = 10.0
TASK = "put the cube in the box"
SAY_SUBTASK = {
    "messages": [
        {"role": "user", "content": "${task}", "stream": "high_level"},
        {
            "role": "assistant",
            "content": "${subtask}",
            "stream": "high_level",
            "target": True,
            "if_present": "subtask",
        },
    ]
}
SAY_ONLY_SUBTASK = {"messages": SAY_SUBTASK["messages"][1:]}
PERSISTENT = [
    {"role": "assistant", "content": "grasp", "style": "subtask", "timestamp": 0.5, "camera": None, "tool_calls": None},
    {"role": "assistant", "content": "place", "style": "subtask", "timestamp": 1.0, "camera": None, "tool_calls": None},
]
REPHRASINGS = [
    {"role": "user", "content": f"way {i} of saying it", "style": "task_aug", "timestamp": 0.0} for i in range(4)
]
ACT = {"messages": [{"role": "user", "content": TASK}], "message_streams": ["low_level"], "target_message_indices": []}
MESSAGE_KEYS = {"messages", "message_streams", "target_message_indices"}


def renderer(recipe=SAY_SUBTASK, **options) -> MessageRenderer:
    return MessageRenderer(recipe, **{"fps": FPS, **options})


def transition(**data) -> dict:
    return {
        "observation": {"observation.state": np.zeros(6)},
        "action": np.ones(6),
        "info": {},
        "reward": 0.0,
        DATA: data,
    }


def sample(frame: int, persistent=PERSISTENT, **data) -> dict:
    fields = {"timestamp": np.float32(frame / FPS), "language_persistent": persistent, "language_events": []}
    return transition(**{**fields, "task": TASK, "index": frame, **data})


def batch(frames, persistent=PERSISTENT, *, size=None, **data) -> dict:
    size = len(frames) if size is None else size
    fields = {
        "timestamp": np.float32(frames) / FPS,
        "index": np.array(frames),
        "task": [TASK] * size,
        "language_persistent": [persistent] * size,
        "language_events": [[]] * size,
    }
    return {
        "observation": {"observation.state": np.arange(size * 2.0).reshape(size, 2), "deep": {"x": np.arange(size)}},
        "action": np.arange(size * 3.0).reshape(size, 3),
        "reward": np.arange(size) * 1.0,
        "done": False,
        "info": {},
        DATA: {**fields, **data},
    }


def said(rendered) -> str:
    return rendered[DATA]["messages"][-1]["content"]


# --- one sample ----------------------------------------------------------------------------------------------------


def test_rows_become_messages_and_everything_else_stays():
    given = sample(7, task_index=3)
    out = renderer()(given)
    assert out[DATA]["messages"] == [{"role": "user", "content": TASK}, {"role": "assistant", "content": "grasp"}]
    assert out[DATA]["message_streams"] == ["high_level", "high_level"] and out[DATA]["target_message_indices"] == [1]
    assert set(out[DATA]) == {"timestamp", "task", "index", "task_index"} | MESSAGE_KEYS
    assert all(out[key] is given[key] for key in given if key != DATA)
    assert "language_persistent" in given[DATA] and "messages" not in given[DATA]  # the input is not written into


def test_the_frame_is_the_nearest_to_the_time_not_the_one_below():
    late = np.float32(1.0) - np.float32(1e-6)  # a float32 hair before the row's time: the same frame
    assert said(renderer()(sample(0, timestamp=late))) == "place"
    assert said(renderer()(sample(9))) == "grasp"


def test_the_frame_index_counts_where_the_sample_has_one():
    assert said(renderer()(sample(5, frame_index=np.array([10])))) == "place"


@pytest.mark.parametrize(
    "columns", [{}, {"language_persistent": None}, {"language_persistent": [], "language_events": []}]
)
def test_a_sample_without_rows_asks_for_its_task(columns):
    given = transition(task=TASK, **columns)
    assert renderer()(given)[DATA] == {"task": TASK, **ACT}
    assert renderer()(transition(task=TASK, **columns) | {"action": None})["action"] is None


@pytest.mark.parametrize("data", [{}, {"language_events": []}, {"task": None}, {"task": " "}, {"task": []}])
def test_a_sample_without_rows_and_task_stays_as_it_is(data):
    given = transition(**data)
    assert renderer()(given) is given
    assert renderer()({DATA: None, "action": 1}) == {DATA: None, "action": 1}


def test_what_has_messages_already_is_not_rendered_again():
    once = renderer()(sample(7))
    assert renderer()(once) is once


def test_rows_that_the_recipe_cannot_use_give_the_bare_task_or_drop_the_sample():
    before = sample(2)  # no subtask in force yet
    assert {k: renderer()(before)[DATA][k] for k in ACT} == ACT
    assert renderer()(sample(2, task=None)) is None
    assert said(renderer(context={"task": TASK})(sample(2, task=None))) == TASK


def test_rows_without_timestamp_are_a_key_error_that_says_what_to_do():
    given = sample(7)
    del given[DATA]["timestamp"]
    with pytest.raises(KeyError, match="timestamp") as caught:
        renderer()(given)
    assert isinstance(caught.value, MissingFieldError) and "timestamp column" in str(caught.value)


# --- task and draws ------------------------------------------------------------------------------------------------


def asked(rendered) -> str:
    return rendered[DATA]["messages"][0]["content"]


def test_the_datasets_task_gives_way_to_rephrasings():
    rows = [*REPHRASINGS, *PERSISTENT]
    tasks = {asked(renderer()(sample(7, rows, episode_index=e))) for e in range(64)}
    assert tasks == {row["content"] for row in REPHRASINGS}


def test_only_the_option_overrides_rephrasings():
    override = renderer(task_override="do it")
    assert asked(override(sample(7, [*REPHRASINGS, *PERSISTENT]))) == "do it"
    assert asked(override(transition(task=TASK))) == "do it"


def test_draws_follow_episode_and_frame_not_the_place_in_the_dataset():
    rows = [*REPHRASINGS, *PERSISTENT]
    render = renderer()
    for episode in range(20):
        here = asked(render(sample(7, rows, episode_index=episode, index=1)))
        assert here == asked(render(sample(7, rows, episode_index=np.int64(episode), index=99, frame_index=7)))
    assert len({asked(render(sample(7, rows, index=i))) for i in range(64)}) == 4  # no episode: the index parts them


def test_an_epoch_draws_anew_and_the_seed_too():
    rows = [*REPHRASINGS, *PERSISTENT]
    frames = [sample(7, rows, episode_index=e) for e in range(16)]
    render = renderer()
    first = [asked(render(f)) for f in frames]
    render.epoch.number = 1
    second = [asked(render(f)) for f in frames]
    render.epoch.number = 0
    assert first != second and first == [asked(render(f)) for f in frames]
    assert first != [asked(renderer(seed=1)(f)) for f in frames]


def test_states_are_read_once_an_episode_and_anew_when_they_change():
    render, mine = renderer(), [dict(row) for row in PERSISTENT]
    assert said(render(sample(7, mine, episode_index=0))) == "grasp"
    mine[0]["content"] = "mend"  # in place: what is held is no part of the caller's rows
    assert said(render(sample(7, mine, episode_index=0))) == "mend"
    assert said(render(sample(7, PERSISTENT, episode_index=0))) == "grasp"
    assert said(render(sample(12, PERSISTENT[:1], episode_index=0))) == "grasp"


def test_events_are_those_of_the_sample_alone():
    recipe = {"messages": [dict(SAY_SUBTASK["messages"][1], content="${interjection}", if_present="interjection")]}
    wait = {"role": "user", "content": "wait", "style": "interjection", "camera": None, "tool_calls": None}
    render = renderer(recipe)
    assert said(render(sample(7, episode_index=0, language_events=[wait]))) == "wait"
    assert said(render(sample(7, episode_index=0))) == TASK  # the same frame, now without


# --- a batch -------------------------------------------------------------------------------------------------------


def test_a_batch_renders_each_sample_by_its_own_fields():
    given = batch([7, 12], episode_index=np.array([0, 1]))
    given[DATA]["task"] = ["first", "second"]
    out = renderer()(given)
    assert [m[0]["content"] for m in out[DATA]["messages"]] == ["first", "second"]
    assert [m[1]["content"] for m in out[DATA]["messages"]] == ["grasp", "place"]
    assert out[DATA]["message_streams"] == [["high_level"] * 2] * 2 and out[DATA]["target_message_indices"] == [
        [1],
        [1],
    ]
    assert not {"language_persistent", "language_events"} & set(out[DATA])
    assert out["action"] is given["action"] and out[DATA]["timestamp"] is given[DATA]["timestamp"]  # nothing was cut


def test_a_batch_renders_as_its_samples_do():
    rows = [*REPHRASINGS, *PERSISTENT]
    render, frames = renderer(), list(range(0, 20, 3))
    together = render(batch(frames, rows, episode_index=np.full(len(frames), 4)))
    for i, frame in enumerate(frames):
        alone = render(sample(frame, rows, episode_index=4))
        assert all(alone[DATA][key] == together[DATA][key][i] for key in MESSAGE_KEYS)


def test_dropped_samples_leave_every_field_of_the_batch():
    given = batch(
        [2, 7, 3, 12], names=["a", "b", "c", "d"], pair=(1, 2, 3, 4), nested={"deep": [5, 6, 7, 8], "more": {}}
    )
    given[DATA]["task"] = [None, None, TASK, None]
    out = renderer(SAY_ONLY_SUBTASK)(given)
    assert [m[-1]["content"] for m in out[DATA]["messages"]] == ["grasp", TASK, "place"]
    assert out["action"].tolist() == given["action"][[1, 2, 3]].tolist()
    assert out["observation"]["observation.state"].tolist() == [[2, 3], [4, 5], [6, 7]]
    assert out["observation"]["deep"]["x"].tolist() == [1, 2, 3] and out["reward"].tolist() == [1, 2, 3]
    assert out["done"] is False and out["info"] == {}
    assert out[DATA]["names"] == ["b", "c", "d"] and out[DATA]["pair"] == (2, 3, 4)
    assert out[DATA]["nested"] == {"deep": [6, 7, 8], "more": {}} and out[DATA]["index"].tolist() == [7, 3, 12]
    assert out[DATA]["task"] == [None, TASK, None]


def test_tensors_are_cut_too():
    torch = pytest.importorskip("torch")
    given = batch([2, 7], timestamp=torch.tensor([0.2, 0.7]), index=torch.tensor([2, 7]), task=None)
    given["action"] = torch.arange(6.0).reshape(2, 3)
    out = renderer(SAY_ONLY_SUBTASK)(given)
    assert out["action"].tolist() == [[3, 4, 5]] and out[DATA]["index"].tolist() == [7]
    assert said(renderer()(sample(0, timestamp=torch.tensor([1.0]), index=torch.tensor(3)))) == "place"


def test_a_batch_of_which_nothing_renders_is_dropped():
    assert renderer(SAY_ONLY_SUBTASK)(batch([0, 1], task=None)) is None
    assert renderer()(batch([7, 8], task=None)) is None  # the recipe speaks of a task
    assert renderer()(batch([0, 1], [], task=[None, None])) is None


def test_a_sample_without_rows_in_a_batch_asks_for_its_task():
    out = renderer()(batch([7, 7], language_persistent=[PERSISTENT, None]))
    assert [m[-1]["content"] for m in out[DATA]["messages"]] == ["grasp", TASK]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"language_events": [[]]}, "1 in language_events"),
        ({"language_events": []}, "0 in language_events"),
        ({"language_events": PERSISTENT}, "rows in language_events"),
        ({"names": ["a", "b", "c"]}, "names"),
        ({"nested": {"deep": [1]}}, "nested.deep"),
        ({"task": [TASK]}, "task"),
        ({"timestamp": np.float32([0.7])}, "timestamp"),
        ({"extra": np.zeros((3, 4))}, "extra"),
    ],
)
def test_fields_that_do_not_fit_are_named_whether_or_not_anything_is_dropped(fields, named):
    for frames in ([7, 12], [0, 12]):
        with pytest.raises(ValueError, match=named) as caught:
            renderer()(batch(frames, **fields))
        assert isinstance(caught.value, BatchError)


def test_a_batch_without_columns_asks_for_its_tasks():
    given = transition(task=["one", "two"])
    out = renderer()(given)
    assert out[DATA]["messages"] == [[{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]]
    assert out[DATA]["message_streams"] == [["low_level"]] * 2 and out[DATA]["target_message_indices"] == [[], []]
    assert renderer()(transition(task=[None, None])) is None
    with pytest.raises(ValueError, match="1 of 2"):
        renderer()(transition(task=["one", None]))


def test_a_datasets_batch_that_lost_its_columns_is_told_of_once(caplog):
    render = renderer()
    with caplog.at_level(logging.WARNING):
        render(transition(task=["one"]))  # a robot's own batch has no times: nothing to say
        assert not caplog.records
        for _ in range(2):
            render(transition(task=["one"], timestamp=np.float32([0.1])))
    assert len(caplog.records) == 1 and "lerobot_collate_fn" in caplog.text


# --- settings ------------------------------------------------------------------------------------------------------


class Meta:
    fps, camera_keys = 10, ["observation.images.front", "observation.images.wrist"]


class Loader:
    meta = Meta()


@pytest.mark.parametrize("context", [{"fps": 10, "camera_keys": Meta.camera_keys}, Meta(), Loader()])
def test_fps_and_cameras_come_from_the_dataset(context):
    render = MessageRenderer(SAY_SUBTASK, context=context)
    assert render.fps == 10 and render.cameras == tuple(Meta.camera_keys)
    assert renderer(context=context, fps=30, cameras=()).fps == 30


@pytest.mark.parametrize("fps", [None, 0, -1, "30", float("inf"), float("nan"), True])
def test_no_usable_fps_is_an_error_at_once(fps):
    with pytest.raises(SettingsError, match="frames per second"):
        MessageRenderer(SAY_SUBTASK, fps=fps)


def test_a_wrong_recipe_is_an_error_at_once():
    with pytest.raises(RecipeError):
        renderer({"messages": []})


@pytest.mark.parametrize("value", [np.zeros(2), [1, 2], "x", None, True])
def test_a_number_is_one_number(value):
    with pytest.raises(ValueError):
        number(value, "index")


def test_a_renderer_travels_to_another_process():
    there = pickle.loads(pickle.dumps(renderer()))
    assert said(there(sample(7))) == "grasp"


def test_without_lerobot_the_step_names_its_extra():
    code = "import sys; sys.modules['lerobot'] = None; import tasks.language.lerobot_step"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode and "pip install 'cuebook[lerobot]'" in done.stderr and "3.12" in done.stderr


def test_the_core_loads_neither_torch_nor_lerobot():
    code = (
        "import sys, tasks.language.step_core; print([m for m in ('torch', 'lerobot', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
