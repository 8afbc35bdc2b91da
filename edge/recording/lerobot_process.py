"""The process in which LeRobot's writer runs: python -m edge.recording.lerobot_process REQUEST.json."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge.recording.columns import cameras_of
from edge.recording.lerobot import Request
from edge.recording.part import SpooledEpisode, read_part
from edge.recording.pictures import decoded
from edge.recording.plan import Plan

REPO_ID_NONE = "local/rollout"


def main(path: str) -> None:
    """Add the parts of a request to a dataset, one episode each."""
    logging.getLogger("lerobot").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    request = msgspec.json.decode(Path(path).read_bytes(), type=Request)
    dataset = _open(request)
    for part in request.parts:
        episode = read_part(Path(part), request.plan)
        if episode is not None:
            for frame in _frames(request.plan, episode):
                dataset.add_frame(frame)
            dataset.save_episode(parallel_encoding=False)
    dataset.finalize()


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing comes but the end
    os._exit(1)


def _open(request: Request) -> Any:
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    plan = request.plan
    repo_id = plan.repo_id or REPO_ID_NONE
    encoder = RGBEncoderConfig(vcodec=plan.codec, g=plan.gop)
    # pictures by way of files: its streaming encoder drops frames that come faster than they are encoded
    if request.resume:
        return LeRobotDataset.resume(repo_id, root=request.out, rgb_encoder=encoder)
    features = {name: feature | {"shape": tuple(feature["shape"])} for name, feature in plan.features.items()}
    fps = int(plan.fps) if plan.fps == int(plan.fps) else plan.fps
    return LeRobotDataset.create(
        repo_id, fps, features, root=request.out, robot_type=plan.robot_type, rgb_encoder=encoder,
        video_files_size_in_mb=max(1, int(plan.video_mb_max)),
    )  # fmt: skip


def _frames(plan: Plan, episode: SpooledEpisode) -> Any:
    columns, begin = episode.columns(), episode.begin
    pictures = [
        decoded(begin.codec, begin.extradata[i], episode.packets(i)) for i in range(len(cameras_of(plan.features)))
    ]
    for number, (task, *seen) in enumerate(zip(episode.tasks, *pictures, strict=True)):
        frame: dict[str, Any] = dict(zip(episode.cameras, seen, strict=True))
        for name, values in columns.items():
            value = values[number]
            frame[name] = value if isinstance(value, str) or np.ndim(value) else np.array([value], values.dtype)
        yield frame | {"task": task}


if __name__ == "__main__":
    main(sys.argv[1])
