"""A dataset answers: what was recorded comes back bit by bit, and a robot that follows it is followed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.decode import decode_request
from serving.errors import PolicyError
from serving.manifest import ModelSettings
from serving.policies.base import Moment, PolicySpec, Request, SessionInfo
from serving.policies.registry import load_policy
from serving.policies.replay import Recording, ReplayPolicy
from serving.record import RequestRecord
from serving.reply import chunk_body
from serving.session import Agreement, Session
from serving.wire import features
from serving.wire.errors import MessageError
from serving.wire.header import Header, MessageType
from serving.wire.limits import DEFAULT_LIMITS
from serving.wire.messages import ActionChunk, Observation, decode, encode
from serving.wire.tensors import decode_tensor, encode_tensor
from tests.conftest import real_dataset

INFO = SessionInfo("s", "robot")


def load(folder: Path, **options: object) -> ReplayPolicy:
    policy = load_policy(ModelSettings(repo_or_path=str(folder), options=options))
    assert isinstance(policy, ReplayPolicy)
    return policy


def recorded(folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """States and actions by episode, read without the code under test."""
    table = pa.concat_tables([pq.read_table(p) for p in sorted((folder / "data").rglob("*.parquet"))])
    episodes = table["episode_index"].to_numpy()
    columns = [np.array(table[key].to_pylist(), np.float32) for key in ("observation.state", "action")]
    return {int(e): (columns[0][episodes == e], columns[1][episodes == e]) for e in np.unique(episodes)}


def ask(policy: ReplayPolicy, session, state: np.ndarray, task: str = "") -> np.ndarray:
    prepared = session.prepare(Request(Moment(np.asarray(state, np.float32), {}), task=task))
    chunk = session.finish(policy.predict([prepared])[0])
    assert chunk.model is chunk.robot and chunk.robot.shape == (policy.spec.chunk_size, policy.spec.action_dim)
    return chunk.robot


def expected(actions: np.ndarray, frame: int, rows: int) -> np.ndarray:
    """The next actions; behind the end the last one again."""
    return actions[np.minimum(np.arange(frame, frame + rows), len(actions) - 1)]


def made(states: list[list[float]], fps: float = 10.0, **spec: object) -> ReplayPolicy:
    """A policy over one made-up episode whose actions are the frame numbers."""
    array = np.array(states, np.float32)
    actions = np.arange(len(array), dtype=np.float32)[:, None]
    declared = {"chunk_size": 3, "state_dim": array.shape[1], "action_dim": 1, **spec}
    spec_ = PolicySpec(
        policy_type="replay", model_repo="x", model_revision="", action_names=(), cameras=(), fps=fps, shared=True,
        **declared,
    )  # fmt: skip
    return ReplayPolicy([Recording(0, "", array, actions)], spec_)


@pytest.mark.parametrize("rows", [1, 50])
def test_walking_through_real_recordings_gives_the_recorded_actions_bit_exactly(rows: int) -> None:
    folder = real_dataset("g1-bottle-v3")
    policy = load(folder, chunk_size=rows)
    episodes = recorded(folder)
    assert len(episodes) == 5
    for states, actions in episodes.values():
        session = policy.open_session(INFO)
        for frame, state in enumerate(states):
            assert ask(policy, session, state).tobytes() == expected(actions, frame, rows).tobytes()


def test_walking_through_generated_episodes_with_rests_gives_the_recorded_actions(generated_dataset: Path) -> None:
    policy = load(generated_dataset, chunk_size=8)
    for episode, (states, actions) in recorded(generated_dataset).items():
        session = policy.open_session(SessionInfo("s", "r", tags={"replay_episode": str(episode)}))
        for frame, state in enumerate(states):
            assert ask(policy, session, state).tobytes() == expected(actions, frame, 8).tobytes()


def test_a_robot_that_asks_every_tenth_frame_is_followed_through_the_right_episode() -> None:
    folder = real_dataset("g1-bottle-v3")
    policy, episodes = load(folder), recorded(folder)
    sessions = {e: policy.open_session(INFO) for e in episodes}
    for frame in range(0, 340, 10):  # all robots at once, each in its own episode
        for e, (states, actions) in episodes.items():
            assert np.array_equal(ask(policy, sessions[e], states[frame]), expected(actions, frame, 50))


def test_sensor_noise_does_not_throw_a_robot_off_the_recording() -> None:
    folder = real_dataset("g1-bottle-v3")
    policy = load(folder, episodes=[2], chunk_size=1)
    states, _ = recorded(folder)[2]
    rng = np.random.default_rng(0)
    noise = 0.02 * states.std(axis=0)
    session = policy.open_session(INFO)
    for frame in range(0, len(states), 6):
        place = session.prepare(Request(Moment(states[frame] + np.float32(rng.normal(0, noise)), {})))
        assert abs(place.frame - frame) <= 6


def test_what_is_declared_is_what_the_dataset_says() -> None:
    folder = real_dataset("g1-bottle-v3")
    spec = load(folder).spec
    info = json.loads((folder / "meta/info.json").read_text())
    assert spec.action_names == tuple(info["features"]["action"]["names"][0]) and spec.action_names[0][0] == "k"
    assert (spec.state_dim, spec.action_dim, spec.fps, spec.chunk_size) == (26, 26, 30.0, 50)
    assert [(c.name, c.height, c.width) for c in spec.cameras] == [("observation.images.cam_high", 480, 640)]
    assert spec.shared and spec.mixed_delays and spec.batch_max > 16 and not spec.rtc
    assert spec.policy_type == "replay" and len(spec.checkpoint_hash) == 64


def test_the_hash_tells_recordings_apart_and_stays_the_same(generated_dataset: Path) -> None:
    first, again = load(generated_dataset), load(generated_dataset)
    assert first.spec.checkpoint_hash == again.spec.checkpoint_hash
    assert load(generated_dataset, episodes=[0]).spec.checkpoint_hash != first.spec.checkpoint_hash


def test_equal_states_in_a_row_are_walked_through() -> None:
    policy = made([[0], [0], [0], [1], [1], [0]])
    session = policy.open_session(INFO)
    places = [session.prepare(Request(Moment(np.float32([s]), {}))).frame for s in (0, 0, 0, 1, 1, 0)]
    assert places == [0, 1, 2, 3, 4, 5]


def test_the_same_frame_again_stays_and_a_robot_put_back_is_found() -> None:
    policy = made([[float(i)] for i in range(20)])
    session = policy.open_session(INFO)
    places = [session.prepare(Request(Moment(np.float32([s]), {}))).frame for s in (4, 4, 9, 2, 3)]
    assert places == [4, 4, 9, 2, 3]


def test_a_state_that_comes_back_later_is_matched_ahead_not_behind() -> None:
    there_and_back = [[float(i)] for i in (0, 1, 2, 3, 4, 3, 2, 1, 0)]
    policy = made(there_and_back)
    session = policy.open_session(INFO)
    places = [session.prepare(Request(Moment(np.float32([s[0]]), {}))).frame for s in there_and_back]
    assert places == list(range(9))


def test_episodes_that_begin_alike_are_told_apart_as_soon_as_they_part(generated_dataset: Path) -> None:
    policy, episodes = load(generated_dataset, chunk_size=8), recorded(generated_dataset)
    homes = {e: states[0].tobytes() for e, (states, _) in episodes.items()}
    assert homes[0] == homes[1]  # they start in the same pose
    states, actions = episodes[1]
    parted = next(i for i, (a, b) in enumerate(zip(states, episodes[0][0], strict=False)) if not np.array_equal(a, b))
    session = policy.open_session(INFO)
    for frame, state in enumerate(states):
        chunk = ask(policy, session, state)
        assert frame < parted or np.array_equal(chunk, expected(actions, frame, 8))


def test_units_of_large_numbers_do_not_drown_the_others() -> None:
    policy = made([[0.0, 1000.0], [0.1, 1010.0], [0.2, 1000.0]])
    session = policy.open_session(INFO)
    assert session.prepare(Request(Moment(np.float32([0.2, 1001.0]), {}))).frame == 2


def test_a_new_episode_forgets_the_place_and_sessions_do_not_share_theirs() -> None:
    folder = real_dataset("g1-bottle-v3")
    policy, episodes = load(folder), recorded(folder)
    one, other = policy.open_session(INFO), policy.open_session(INFO)
    ask(policy, one, episodes[0][0][100])
    assert np.array_equal(ask(policy, other, episodes[3][0][50]), expected(episodes[3][1], 50, 50))
    assert np.array_equal(ask(policy, one, episodes[0][0][101]), expected(episodes[0][1], 101, 50))
    one.reset()
    assert np.array_equal(ask(policy, one, episodes[4][0][7]), expected(episodes[4][1], 7, 50))


def test_only_the_episodes_asked_for_answer(generated_dataset: Path) -> None:
    episodes = recorded(generated_dataset)
    policy = load(generated_dataset, episodes=[1], chunk_size=4)
    assert [r.episode_index for r in policy.recordings] == [1]
    tagged = load(generated_dataset, chunk_size=4)
    session = tagged.open_session(SessionInfo("s", "r", tags={"replay_episode": "2"}))
    ask(tagged, session, episodes[0][0][0])
    assert session._places[0].recording == 2
    with pytest.raises(MessageError, match="replay_episode"):
        tagged.open_session(SessionInfo("s", "r", tags={"replay_episode": "77"}))


def test_the_task_chooses_among_episodes(generated_dataset: Path) -> None:
    policy = load(generated_dataset, chunk_size=4)
    other = policy.recordings[2]
    assert other.task and other.task != policy.recordings[0].task
    session = policy.open_session(INFO)
    ask(policy, session, policy.recordings[0].states[0], task=other.task)
    assert session._places[0].recording == 2


def test_behind_the_end_stands_the_last_action_or_zeros(generated_dataset: Path) -> None:
    states, actions = recorded(generated_dataset)[0]
    held, zeros = load(generated_dataset, chunk_size=6), load(generated_dataset, chunk_size=6, after_end="zeros")
    chunk = ask(held, held.open_session(INFO), states[-3])
    assert np.array_equal(chunk[:3], actions[-3:]) and np.array_equal(chunk[3:], np.repeat(actions[-1:], 3, axis=0))
    chunk = ask(zeros, zeros.open_session(INFO), states[-3])
    assert np.array_equal(chunk[:3], actions[-3:]) and not chunk[3:].any()


def test_cameras_by_option(generated_dataset: Path) -> None:
    every = [c.name for c in load(generated_dataset).spec.cameras]
    assert len(every) == 2
    assert not load(generated_dataset, cameras="none").spec.cameras
    assert [c.name for c in load(generated_dataset, cameras=[every[1]]).spec.cameras] == [every[1]]
    with pytest.raises(PolicyError, match=every[0]):
        load(generated_dataset, cameras=["observation.images.nose"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chunksize": 5}, "did you mean chunk_size"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"episodes": [99]}, "99"),
        ({"episodes": []}, "episodes"),
        ({"action_key": "actions"}, "action_key"),
        ({"after_end": "loop"}, "after_end"),
    ],
)
def test_wrong_options_are_named(generated_dataset: Path, options: dict, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        load(generated_dataset, **options)


def test_more_than_the_memory_allowed_is_refused_before_reading(generated_dataset: Path, monkeypatch) -> None:
    from tasks.dataset.layout import Dataset

    info = json.loads((generated_dataset / "meta/info.json").read_text())
    monkeypatch.setattr(Dataset, "columns", lambda *_: pytest.fail("read anyway"))
    frames, dim = info["total_frames"], info["features"]["action"]["shape"][0]
    assert frames * dim * 8 < 1 << 20
    monkeypatch.setattr("serving.policies.replay.BYTES_PER_VALUE", 1 << 20)
    with pytest.raises(PolicyError, match="memory_mib_max"):
        load(generated_dataset, memory_mib_max=1)


@pytest.mark.parametrize("key", ["action", "observation.state"])
def test_nan_in_a_recording_is_refused_with_its_place(dataset_copy: Path, key: str) -> None:
    path = next((dataset_copy / "data").rglob("*.parquet"))
    table = pq.read_table(path)
    rows = np.array(table[key].to_pylist(), np.float32)
    rows[5, 1] = np.nan
    column = pa.array(list(rows), type=table.schema.field(key).type)
    pq.write_table(table.set_column(table.column_names.index(key), table.schema.field(key), column), path)
    with pytest.raises(PolicyError, match="frame 5 of episode 0"):
        load(dataset_copy)


def test_an_old_dataset_is_refused_with_the_converter() -> None:
    with pytest.raises(PolicyError, match="convert"):
        load(real_dataset("gr1-pick-place-v2"))


def test_a_dataset_without_rows_is_refused(generated_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(generated_dataset / "meta", tmp_path / "d/meta")
    with pytest.raises(PolicyError, match="data"):
        load(tmp_path / "d")


def test_recorded_actions_survive_the_wire_bit_exactly() -> None:
    """From an encoded observation to a decoded chunk, as daemon and client do it."""
    folder = real_dataset("g1-bottle-v3")
    policy = load(folder, cameras="none")
    states, actions = recorded(folder)[1]
    session = Session(
        "robot", Agreement(frozenset(features.ALL)), policy.open_session(INFO), publisher=None, opened_s=1.0
    )
    header = Header(1, MessageType.OBSERVATION, 1, 0, 0, 0)
    for frame in range(0, len(states), 25):
        body = encode(Observation(state=encode_tensor(states[frame])))
        request = decode_request(body, session, policy.spec, DEFAULT_LIMITS, "")
        raw = policy.predict([session.policy.prepare(request)])[0]
        answer = chunk_body(session.policy.finish(raw), session, header, RequestRecord("s", "robot", 1, 0), 0.0)
        chunk = decode_tensor(decode(answer, ActionChunk).chunk_robot, "chunk_robot", DEFAULT_LIMITS)
        assert chunk.tobytes() == expected(actions, frame, 50).tobytes()
