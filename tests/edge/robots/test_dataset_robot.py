"""A recorded episode plays the robot: frame by frame as it is driven, pictures and all, and differences are counted."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge.errors import RobotError, SettingsError
from edge.robots.dataset import DatasetOptions, DatasetRobot
from edge.robots.registry import make_robot
from edge.robots.watch import check_reading
from tasks.dataset.generate import generate
from tasks.dataset.layout import open_dataset
from tests.conftest import real_dataset


def recorded(root: Path, episode: int = 0) -> tuple[np.ndarray, np.ndarray]:
    dataset = open_dataset(root)
    (found,) = dataset.episodes([episode])
    columns = dataset.columns(found, ["observation.state", "action"])
    return tuple(np.array(c, np.float32).reshape(found.frames, -1) for c in columns.values())  # type: ignore[return-value]


def robot(root: Path, **options: object) -> DatasetRobot:
    made = make_robot("dataset", {"root": str(root), **options})
    assert isinstance(made, DatasetRobot)
    made.connect()
    return made


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames."""
    return generate(tmp_path_factory.mktemp("short") / "rec", episodes=2, seconds=1.0, fps=10, size=(64, 48))


def test_features_are_known_before_it_is_connected(short: Path) -> None:
    features = make_robot("dataset", {"root": str(short)}).features
    info = open_dataset(short).info
    assert features.fps == info.fps == 10
    assert features.robot_type == "tabletop_sim"
    assert list(features.state_names) == info.features["observation.state"]["names"]
    assert features.action_names == features.state_names
    assert set(features.cameras) == {k.removeprefix("observation.images.") for k in open_dataset(short).cameras}
    assert set(features.cameras.values()) == {(48, 64)}  # height, width


def test_a_real_episode_driven_by_its_own_actions_is_equal_at_every_step() -> None:
    root = real_dataset("g1-bottle-v3")
    states, actions = recorded(root, 3)
    driven = robot(root, episode=3, tolerance=0.0)
    waits_ms = []
    for state, action in zip(states, actions, strict=True):
        assert not driven.done
        start = time.perf_counter()
        reading = driven.read()
        waits_ms.append((time.perf_counter() - start) * 1e3)
        check_reading(reading, driven.features)
        assert (reading.state == state).all()
        driven.send(action)
        time.sleep(0.004)  # a control loop eight times as fast as the recording
    driven.read()
    assert driven.done
    result = driven.comparison()
    assert (result.steps, result.equal, result.max) == (len(actions), len(actions), 0.0)
    assert list(result.frames) == list(range(len(actions)))
    assert np.percentile(waits_ms, 50) < 1.0  # the pictures lay ready
    driven.disconnect()


def test_pictures_are_those_recorded_at_that_frame(generated_dataset: Path) -> None:
    from tasks.dataset.video import Clip, Scaler

    driven = robot(generated_dataset, episode=1)
    dataset = open_dataset(generated_dataset)
    (episode,) = dataset.episodes([1])
    _, actions = recorded(generated_dataset, 1)
    seen = []
    for action in actions:
        seen.append(driven.read().images)
        driven.send(action)
    for key in dataset.cameras:
        ref = episode.videos[key]
        clip = Clip(ref.path, ref.from_s, ref.from_s + episode.end_s, episode.fps)
        for row in (len(actions) - 1, 17, 0):  # asked one by one, out of order: no way to be off by one alike
            ((_, frame),) = clip.read([ref.from_s + episode.times[row]])
            picture = Scaler().rgb(frame, frame.width, frame.height)
            assert (seen[row][key.removeprefix("observation.images.")] == picture).all()
    driven.disconnect()


def test_it_stands_still_while_nothing_is_sent(short: Path) -> None:
    driven = robot(short)
    states, actions = recorded(short)
    first = driven.read()
    assert all(driven.read().images is first.images and (driven.read().state == states[0]).all() for _ in range(5))
    driven.send(actions[0])
    assert driven.frame == 0  # the step ends when the robot is read again
    assert (driven.read().state == states[1]).all()
    assert driven.read().captured_s > first.captured_s
    driven.disconnect()


def test_of_several_commands_in_a_step_the_last_is_compared(short: Path) -> None:
    driven = robot(short)
    _, actions = recorded(short)
    driven.read()
    driven.send(actions[0])
    for before, action in itertools.pairwise(actions):
        driven.read()
        for part in (1 / 3, 2 / 3):
            driven.send(before + np.float32(part) * (action - before))
        driven.send(action)
    driven.read()
    assert driven.done
    assert driven.comparison().equal == len(actions)
    driven.disconnect()


def test_differences_are_counted_per_joint_and_named(short: Path) -> None:
    driven = robot(short)
    _, actions = recorded(short)
    for frame, action in enumerate(actions):
        driven.read()
        off = np.zeros_like(action)
        off[2] = {4: 0.5, 6: -1.0}.get(frame, 0.0)
        driven.send(action + off)
    driven.read()
    result = driven.comparison()
    name = driven.features.action_names[2]
    assert (result.steps, result.equal) == (10, 8)
    assert result.worst == f"{name} at frame 6"
    joints = {j.name: j for j in result.joints}
    assert joints[name].max == pytest.approx(1.0, abs=1e-4)
    assert joints[name].mean == pytest.approx(0.15, abs=1e-4)
    assert joints[driven.features.action_names[0]].max == 0.0
    assert result.differences[6, 2] == pytest.approx(-1.0, abs=1e-4)
    assert "8 of 10" in result.line() and name in result.line()
    assert json.loads(json.dumps(driven.report()))["equal"] == 8
    driven.disconnect()


def test_beyond_the_tolerance_the_run_ends_and_the_joint_is_named(short: Path) -> None:
    driven = robot(short, tolerance=0.1)
    _, actions = recorded(short)
    driven.read()
    driven.send(actions[0] + np.float32(0.05))
    driven.read()
    driven.send(actions[1] + np.float32(0.2))
    with pytest.raises(RobotError, match=r"within 0.1[\s\S]*frame 1[\s\S]*tolerance"):
        driven.read()
    assert not driven.comparison().within_tolerance
    driven.disconnect()


def test_what_comes_after_the_end_is_not_compared(short: Path) -> None:
    driven = robot(short)
    _, actions = recorded(short)
    for action in actions:
        driven.read()
        driven.send(action)
    last = driven.read()
    driven.send(actions[-1] + 7)
    assert driven.read().images is last.images
    assert driven.done
    assert driven.comparison().equal == driven.comparison().steps == 10
    driven.disconnect()


def test_an_episode_begins_again_from_its_first_frame(short: Path) -> None:
    driven = robot(short)
    states, actions = recorded(short)
    first = driven.read()
    for action in actions[:4]:
        driven.read()
        driven.send(action)
    driven.begin_episode()
    again = driven.read()
    assert (again.state == states[0]).all()
    assert all((again.images[name] == image).all() for name, image in first.images.items())
    assert driven.comparison().steps == 3  # the fourth had not ended
    driven.disconnect()


def test_a_loop_never_ends(short: Path) -> None:
    driven = robot(short, loop=True)
    states, actions = recorded(short)
    for turn in range(35):
        reading = driven.read()
        assert (reading.state == states[turn % 10]).all()
        driven.send(actions[turn % 10])
    driven.read()
    assert not driven.done
    assert driven.comparison().equal == 35
    assert list(driven.comparison().frames) == [0, 1, 2, 3, 4]  # of the pass under way
    driven.disconnect()


def test_decoding_is_bounded_and_ends_with_the_robot(generated_dataset: Path) -> None:
    from edge.robots.reel import AHEAD

    before = threading.active_count()
    driven = robot(generated_dataset)
    assert all(len(reel._ahead) <= AHEAD for reel in driven._reels.values())
    assert threading.active_count() > before
    driven.disconnect()
    driven.disconnect()
    assert threading.active_count() == before
    with pytest.raises(RobotError, match="connected"):
        driven.read()


def test_pictures_stored_in_the_shard_are_played_too(tmp_path: Path) -> None:
    root = generate(tmp_path / "stored", episodes=1, seconds=1.0, fps=10, size=(64, 48), stored="image")
    driven = robot(root)
    reading = driven.read()
    check_reading(reading, driven.features)
    assert len(reading.images) == len(driven.features.cameras) > 0
    driven.disconnect()


def test_a_damaged_video_is_an_error_that_names_the_camera(tmp_path: Path) -> None:
    root = generate(tmp_path / "damaged", episodes=1, seconds=1.0, fps=10, size=(64, 48))
    camera = open_dataset(root).cameras[0]
    for path in (root / "videos" / camera).rglob("*.mp4"):
        path.write_bytes(path.read_bytes()[:100])
    made = make_robot("dataset", {"root": str(root)})
    with pytest.raises(RobotError, match=camera):
        made.connect()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--robot.root"),
        ({"root": "x", "repo_id": "a/b"}, "both"),
        ({"root": "x", "revision": "main"}, "repo_id"),
        ({"rot": "x"}, "did you mean --robot.root"),
        ({"root": "x", "episode": -1}, "--robot.episode"),
        ({"root": "x", "episode": "three"}, "three"),
        ({"root": "x", "tolerance": -1}, "--robot.tolerance"),
        ({"root": "x", "tolerance": 1, "loop": True}, "take --robot.loop away"),
        ({"root": "x", "camras": "all"}, "did you mean --robot.cameras"),
    ],
)
def test_wrong_options_name_the_flag(options: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make_robot("dataset", options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"episode": 7}, "7"),
        ({"cameras": ["frnt"]}, "front"),
        ({"state_key": "observation.stat"}, "observation.state"),
        ({"action_key": "actoin"}, "did you mean action"),
    ],
)
def test_what_the_recording_lacks_is_named(short: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(RobotError, match=said):
        make_robot("dataset", {"root": str(short), **options})


def test_a_folder_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RobotError, match="LeRobot v3 dataset"):
        DatasetRobot(DatasetOptions(root=tmp_path))


@pytest.mark.parametrize("action", [np.zeros(3, np.float32), np.full(6, np.nan, np.float32)])
def test_actions_that_cannot_be_sent_are_refused(short: Path, action: np.ndarray) -> None:
    driven = robot(short, cameras="none")
    driven.read()
    if action.size != 3:
        action = np.full(len(driven.features.action_names), np.nan, np.float32)
    with pytest.raises(RobotError, match=r"numbers"):
        driven.send(action)
    driven.disconnect()


def test_a_hub_dataset_that_was_downloaded_is_played_without_asking_the_hub(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    folder = tmp_path / "datasets" / "acme" / "rec"
    shutil.copytree(short, folder)
    folder.with_name("rec.download.json").write_text("{}")
    monkeypatch.setenv("CUEBOOK_HOME", str(tmp_path))
    made = make_robot("dataset", {"repo_id": "acme/rec", "episode": 1})
    assert made.features.action_names == make_robot("dataset", {"root": str(short)}).features.action_names
    with pytest.raises(RobotError, match="USER/NAME"):
        make_robot("dataset", {"repo_id": "../x"})
