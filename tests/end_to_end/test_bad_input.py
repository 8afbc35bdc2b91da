"""Bad input ends in a clear error, an exit code, and a dataset that is untouched byte by byte."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import real_dataset
from tests.end_to_end.annotate import annotate, contents, run
from tests.end_to_end.conftest import flags


def refused(root: Path, *flags: str, code: int = 1) -> str:
    """The message of a run that must be refused and change nothing."""
    before = contents(root) if root.is_dir() else None
    got, answer = run(root, *flags)
    assert got == code, answer
    assert (contents(root) if root.is_dir() else None) == before
    return answer["message"]


def edit_info(root: Path, **changes: object) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            info.pop(key)
        else:
            info[key] = value
    path.write_text(json.dumps(info))


def test_folder_that_is_no_dataset(tmp_path):
    assert "info.json" in refused(tmp_path)


def test_folder_that_does_not_exist(tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere")


def test_v2_dataset_names_the_converter(dataset_copy):
    edit_info(dataset_copy, codebase_version="v2.1")
    message = refused(dataset_copy)
    assert "v2.1" in message and "convert_dataset_v21_to_v30" in message


def test_real_v2_dataset_names_the_reason():
    message = refused(real_dataset("gr1-pick-place-v2"))
    assert "v2.0" in message


def test_info_without_features(dataset_copy):
    edit_info(dataset_copy, features=None)
    assert "features" in refused(dataset_copy)


def test_broken_info(dataset_copy):
    (dataset_copy / "meta/info.json").write_text('{"codebase_version": "v3.0", ')
    assert "info.json" in refused(dataset_copy)


def test_corrupt_parquet(dataset_copy):
    shard = next(dataset_copy.glob("data/**/*.parquet"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert shard.name in refused(dataset_copy)


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage"])
def test_video_that_cannot_be_read(dataset_copy, damage, bad_server):
    video = next(dataset_copy.glob("videos/**/*.mp4"))
    data = video.read_bytes()
    video.unlink()
    if damage != "missing":
        video.write_bytes(data[: len(data) // 3] if damage == "truncated" else b"not a video at all" * 100)
    message = refused(dataset_copy, *flags(bad_server("ok")))
    assert video.name in message


def test_timestamps_that_do_not_increase(dataset_copy):
    import pyarrow as pa
    import pyarrow.parquet as pq

    shard = next(dataset_copy.glob("data/**/*.parquet"))
    table = pq.read_table(shard)
    times = table["timestamp"].to_pylist()
    times[3] = times[2]
    column = table.schema.get_field_index("timestamp")
    pq.write_table(table.set_column(column, "timestamp", pa.array(times, pa.float32())), shard)
    assert "timestamp" in refused(dataset_copy)


def test_dataset_without_episodes(dataset_copy):
    import pyarrow.parquet as pq

    for shard in dataset_copy.glob("data/**/*.parquet"):
        pq.write_table(pq.read_table(shard).slice(0, 0), shard)
    for meta in dataset_copy.glob("meta/episodes/**/*.parquet"):
        pq.write_table(pq.read_table(meta).slice(0, 0), meta)
    edit_info(dataset_copy, total_episodes=0, total_frames=0)
    assert "episode" in refused(dataset_copy)


def test_unknown_episode(dataset_copy):
    assert "99" in refused(dataset_copy, "--only_episodes=0,99", code=2)


def test_unknown_camera_names_the_nearest(dataset_copy):
    message = refused(dataset_copy, "--vlm.camera_key=observation.images.frnt", code=2)
    assert "observation.images.front" in message


@pytest.mark.parametrize(
    "flag", ["--plan.max_stepz=3", "--vlm.backend=oracle", "--phases=", "--refresh=vqa --phases=plan"]
)
def test_wrong_flags_are_answered_at_once(dataset_copy, flag):
    began = time.monotonic()
    refused(dataset_copy, *flag.split(), code=2)
    assert (
        time.monotonic() - began < 30
    )  # the bar of 2 s is measured in bench; this only catches a run that starts work


def test_a_model_in_process_is_not_loaded_by_every_worker(dataset_copy):
    code, answer = run(dataset_copy, "--vlm.backend=transformers", "--executor.runner=ray")
    assert code == 2 and "auto_serve" in answer["message"]


def test_foreign_staging_is_refused_and_kept(dataset_copy, tmp_path):
    staging = tmp_path / "staging"
    assert run(dataset_copy, f"--staging_dir={staging}")[0] == 0
    other = tmp_path / "other"
    shutil.copytree(dataset_copy, other)
    edit_info(other, fps=7, robot_type="other")
    kept = contents(staging)
    assert "staging" in refused(other, f"--staging_dir={staging}")
    assert contents(staging) == kept


def test_half_written_staging_is_made_again(dataset_copy):
    assert run(dataset_copy)[0] == 0
    rows = contents(dataset_copy)
    plan = dataset_copy / ".annotate_staging/episode_000000/plan.jsonl"
    plan.write_bytes(plan.read_bytes()[:40])
    (plan.parent / "vqa.receipt.json").unlink()
    code, summary = run(dataset_copy)
    assert code == 0
    assert summary["phases"]["plan"] == {"done": 1, "cached": 2}
    assert summary["phases"]["vqa"] == {"done": 1, "cached": 2}
    again = contents(dataset_copy)
    assert {k: v for k, v in again.items() if k.startswith("data")} == {
        k: v for k, v in rows.items() if k.startswith("data")
    }


def test_dataset_inside_the_hub_cache_needs_an_output(dataset_copy, tmp_path):
    hub = tmp_path / "hub"
    snapshot = hub / "datasets--x--y/snapshots/0123456789abcdef0123456789abcdef01234567"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(dataset_copy, snapshot)
    before = contents(snapshot)
    done = annotate("run", f"--root={snapshot}", "--engine=inline", env={"HF_HUB_CACHE": str(hub)})
    assert done.returncode == 1 and "--output" in done.stderr
    out = tmp_path / "out"
    done = annotate("run", f"--root={snapshot}", f"--output={out}", "--engine=inline", env={"HF_HUB_CACHE": str(hub)})
    assert done.returncode == 0, done.stderr
    assert contents(snapshot) == before
    assert not {p.stat().st_ino for p in out.rglob("*.mp4")} & {p.stat().st_ino for p in snapshot.rglob("*.mp4")}
