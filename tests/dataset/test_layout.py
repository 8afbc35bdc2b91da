"""Opening a dataset: what is accepted, what is refused and with which words, cameras, columns, videos."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.dataset.layout import open_dataset
from tasks.errors import DatasetError, DatasetVersionError, SettingsError, VideoError
from tests.conftest import real_dataset
from tests.dataset.media import CAMERA, HEIGHT, WIDTH, TinyDataset, feature, video_feature


@pytest.fixture
def tiny(tmp_path: Path) -> TinyDataset:
    return TinyDataset(tmp_path / "set")


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Every file with size and time."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in root.rglob("*")}


# --- meta/info.json ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v3.0", "v3.1"])
def test_v3_labels_are_read(tiny: TinyDataset, version: str) -> None:
    tiny.info["codebase_version"] = version
    info = open_dataset(tiny.write()).info
    assert (info.version, info.fps, info.total_episodes, info.total_frames) == (version, 10.0, 3, 19)
    assert info.raw == tiny.info


@pytest.mark.parametrize(
    ("version", "kind", "words"),
    [
        (
            "v2.1",
            DatasetVersionError,
            r"got: v2\.1[\s\S]*lerobot\.datasets\.v30\.convert_dataset_v21_to_v30 --repo-id=",
        ),
        ("v2.0", DatasetVersionError, r"v2\.1 first[\s\S]*convert_dataset_v20_to_v21[\s\S]*convert_dataset_v21_to_v30"),
        ("v1.6", DatasetVersionError, "convert_dataset_v21_to_v30"),
        ("v4.0", DatasetError, r"got: v4\.0"),
        ("", DatasetError, "no version"),
    ],
)
def test_other_versions_are_refused(tiny: TinyDataset, version: str, kind: type, words: str) -> None:
    tiny.info["codebase_version"] = version
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(tiny.write())
    assert caught.type is kind


def test_the_real_v2_recording_is_refused_with_the_reason() -> None:
    with pytest.raises(DatasetVersionError, match=r"got: v2\.0[\s\S]*convert it to v2\.1 first"):
        open_dataset(real_dataset("gr1-pick-place-v2"))


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no meta/info\.json"):
        open_dataset(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="is a file"):
        open_dataset(tmp_path / "file")


@pytest.mark.parametrize("text", ["{", "", "[]", "\x00\x01"])
def test_a_corrupt_info(tiny: TinyDataset, text: str) -> None:
    (tiny.write() / "meta/info.json").write_text(text)
    with pytest.raises(DatasetError, match=r"info\.json"):
        open_dataset(tiny.root)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("features", None, "want features"),
        ("features", {}, "want features"),
        ("features", {"action": 3}, "want features"),
        ("fps", 0, "want fps > 0"),
        ("fps", -10, "want fps > 0"),
        ("fps", None, "want fps > 0"),
        ("fps", "30", "want fps > 0"),
        ("fps", float("nan"), "want fps > 0"),
    ],
)
def test_info_without_what_is_needed(tiny: TinyDataset, key: str, value: object, words: str) -> None:
    tiny.info[key] = value
    before = snapshot(tiny.write())
    with pytest.raises(DatasetError, match=words):
        open_dataset(tiny.root)
    assert snapshot(tiny.root) == before


# --- cameras -------------------------------------------------------------------------------------------------------


def test_only_colour_videos_are_cameras(tiny: TinyDataset) -> None:
    features = tiny.info["features"]
    features["observation.images.depth_a"] = video_feature(info={"is_depth_map": True})
    features["observation.images.depth_b"] = video_feature(info={"video.is_depth_map": True})
    features["observation.images.depth_c"] = video_feature(video_info={"video.is_depth_map": True})
    features["observation.images.colour"] = video_feature(info={"video.is_depth_map": False})
    features["observation.images.stored"] = feature("image", (3, 48, 64), ["channels", "height", "width"])
    dataset = open_dataset(tiny.write())
    assert dataset.cameras == (CAMERA, "observation.images.colour")
    assert dataset.image_cameras == ("observation.images.stored",)
    assert dataset.camera_sizes[CAMERA] == (WIDTH, HEIGHT)
    assert dataset.default_camera(None) == CAMERA
    assert dataset.default_camera("observation.images.colour") == "observation.images.colour"
    for key, words in [
        ("observation.images.frnt", f"say {CAMERA}"),
        ("observation.images.stored", "stored as images"),
        ("observation.images.depth_a", "depth, not colour"),
    ]:
        with pytest.raises(SettingsError, match=words):
            dataset.default_camera(key)


def test_no_colour_camera_at_all(tiny: TinyDataset) -> None:
    tiny.info["features"][CAMERA]["dtype"] = "image"
    dataset = open_dataset(tiny.write())
    assert dataset.default_camera(None) is None
    assert [e.videos for e in dataset.episodes()] == [{}, {}, {}]
    dataset.check_videos(dataset.episodes())


@pytest.mark.parametrize(
    ("shape", "names", "size"),
    [
        ([48, 64, 3], ["height", "width", "channel"], (64, 48)),
        ([3, 48, 64], ["channels", "height", "width"], (64, 48)),
        ([3, 48, 64], None, (64, 48)),
        ([48, 64, 3], None, (64, 48)),
        ([], None, (0, 0)),
    ],
)
def test_camera_sizes(tiny: TinyDataset, shape: list[int], names: list[str] | None, size: tuple[int, int]) -> None:
    tiny.info["features"][CAMERA].update(shape=shape, names=names)
    assert open_dataset(tiny.write()).camera_sizes == {CAMERA: size}


# --- names and columns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "flat"),
    [
        (["x", "y"], ["x", "y"]),
        ([["x", "y"]], ["x", "y"]),
        ({"motors": ["x", "y"]}, ["x", "y"]),
        ({"left": ["x"], "right": ["y"]}, ["x", "y"]),
        ({"y": 1, "x": 0}, ["x", "y"]),
        (["only one"], []),
        (None, []),
    ],
)
def test_feature_names(tiny: TinyDataset, names: object, flat: list[str]) -> None:
    tiny.info["features"]["action"]["names"] = names
    assert open_dataset(tiny.write()).feature_names("action") == flat


@pytest.mark.parametrize("group_per_episode", [True, False])
def test_columns_of_one_episode(tiny: TinyDataset, group_per_episode: bool) -> None:
    dataset = open_dataset(tiny.write(group_per_episode=group_per_episode))
    episode = dataset.episodes()[1]
    assert episode.row_group == (1 if group_per_episode else None)
    got = dataset.columns(episode, ["observation.state", "action", "index"])
    np.testing.assert_array_equal(got["observation.state"], np.arange(12, 28, dtype=np.float32).reshape(8, 2))
    np.testing.assert_array_equal(got["action"], got["observation.state"] + 1)
    np.testing.assert_array_equal(got["index"], np.arange(6, 14))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32(), 2), pa.large_list(pa.float64()), pa.list_(pa.list_(pa.float32()))]
)
def test_vectors_of_any_list_type(tiny: TinyDataset, kind: pa.DataType) -> None:
    nested = pa.types.is_list(kind) and pa.types.is_list(kind.value_type)
    tiny.columns["action"] = pa.array([[[i], [i + 0.5]] if nested else [i, i + 0.5] for i in range(19)], kind)
    dataset = open_dataset(tiny.write())
    got = dataset.columns(dataset.episodes()[2], ["action"])["action"]
    np.testing.assert_array_equal(got, [[i, i + 0.5] for i in range(14, 19)])


def test_columns_that_cannot_be_had(tiny: TinyDataset) -> None:
    tiny.columns["action"] = [[1.0, 2.0]] * 17 + [[1.0], [1.0, 2.0, 3.0]]
    dataset = open_dataset(tiny.write())
    first, *_, last = dataset.episodes()
    assert dataset.columns(first, ["action"])["action"].shape == (6, 2)
    with pytest.raises(DatasetError, match="vectors of one length"):
        dataset.columns(last, ["action"])
    with pytest.raises(DatasetError, match="no such column"):
        dataset.columns(first, ["observation.effort"])


# --- videos --------------------------------------------------------------------------------------------------------


def test_whole_videos_pass_and_a_missing_one_is_named(tiny: TinyDataset) -> None:
    dataset = open_dataset(tiny.write(video=True))
    episodes = dataset.episodes()
    dataset.check_videos(episodes)
    tiny.video.unlink()
    with pytest.raises(VideoError, match=r"file-000\.mp4[\s\S]*missing[\s\S]*episodes 1, 2"):
        dataset.check_videos(episodes[1:])
    dataset.check_videos(episodes, cameras=[])


def test_a_video_too_short_names_the_episodes_it_cuts(tiny: TinyDataset) -> None:
    tiny.episodes[f"videos/{CAMERA}/to_timestamp"][2] = 9.0
    dataset = open_dataset(tiny.write(video=True))
    with pytest.raises(VideoError, match="episode 2 cannot be shown whole"):
        dataset.check_videos(dataset.episodes())


# --- the whole thing -----------------------------------------------------------------------------------------------


def test_a_dataset_and_its_episodes_travel_between_processes(tiny: TinyDataset) -> None:
    dataset = open_dataset(tiny.write())
    episode = dataset.episodes()[1]
    there, episode_there = pickle.loads(pickle.dumps((dataset, episode)))
    assert (there.root, there.cameras, episode_there.times) == (dataset.root, dataset.cameras, episode.times)
    assert episode_there.digest == episode.digest != ""


def test_the_real_recording() -> None:
    dataset = open_dataset(real_dataset("g1-bottle-v3"))
    episodes = dataset.episodes()
    assert [e.frames for e in episodes] == [393, 343, 357, 368, 410]
    assert {e.task for e in episodes} == {"Pick up the yellow bottle on the table."}
    assert dataset.camera_sizes == {"observation.images.cam_high": (640, 480)}
    assert dataset.feature_names("action")[-1] == "kRightHandThumbRotation"
    assert dataset.columns(episodes[3], ["action"])["action"].shape == (368, 26)
    assert [e.videos["observation.images.cam_high"].path.name for e in episodes] == [
        f"file-{i:03d}.mp4" for i in (0, 0, 1, 1, 2)
    ]
    dataset.check_videos(episodes)


def test_listing_writes_nothing(tiny: TinyDataset) -> None:
    before = snapshot(tiny.write(video=True))
    dataset = open_dataset(tiny.root)
    episodes = dataset.episodes()
    dataset.check_videos(episodes)
    assert all(e.digest for e in episodes)
    assert snapshot(tiny.root) == before
    assert json.loads((tiny.root / "meta/info.json").read_text()) == tiny.info


def test_a_column_whose_name_begins_another(tiny: TinyDataset) -> None:
    tiny.columns = {"action.delta": [[0.0, 0.0]] * 19, **tiny.columns}
    dataset = open_dataset(tiny.write())
    got = dataset.columns(dataset.episodes()[0], ["action"])["action"]
    np.testing.assert_array_equal(got, np.arange(12, dtype=np.float32).reshape(6, 2) + 1)
