"""generate(): a LeRobot v3 dataset of pick-and-place demonstrations, with the truth beside it.

`<out>.truth.json` lies beside the folder, never inside: {fps, seconds, codec, seed, size, cameras, episodes: [{
episode_index, task, frames, target, moved, things,
subtasks: [{text, start, end}]        seconds; the approach belongs to the pick, the retreat to the put
events: [{kind, time_s, frame, thing}]  kind "close" or "open"; frame is the first at or after the time
boxes: {camera: {thing: [[first_frame, last_frame, x0, y0, x1, y1]]}}  pixels, x1 and y1 excluded; things may be hidden
}]}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks.dataset.draw import CAMERAS, View, thing_boxes
from tasks.dataset.record import DatasetRecorder, camera_feature, vector_feature
from tasks.dataset.scene import STATE_NAMES, TASK_KINDS, Job, Story, draw_job, draw_story

NOISE_PATTERNS = 8  # sensor noise is drawn once and shown in turn
SECONDS_PER_OBJECT = 5.0
MOVED_MAX = 3
TASKS_MIN = 3
ROBOT_TYPE = "tabletop_sim"


def generate(
    out: Path,
    *,
    episodes: int = 6,
    seconds: float = 8.0,
    fps: float = 10,
    codec: str = "h264",
    size: tuple[int, int] = (320, 240),
    seed: int = 0,
    moved: int | None = None,
    noise: float = 2.0,
    gop: int | None = None,
    stored: str = "video",
    data_files_size_in_mb: float = 100,
    video_files_size_in_mb: float = 200,
) -> Path:
    """Record `episodes` demonstrations into `out` and return it; the same arguments give the same dataset.

    `size` is (width, height); `moved` objects per episode (None: by length); `noise` in grey levels; `gop` frames from
    keyframe to keyframe (None: 2); `stored` "video" or "image". Raises DatasetError when `out` is not empty or the
    codec unknown.
    """
    out = Path(out)
    motors = vector_feature(STATE_NAMES)
    cameras = {camera.key: camera_feature(size, stored=stored) for camera in CAMERAS}
    count = moved or int(np.clip(round(seconds / SECONDS_PER_OBJECT), 1, MOVED_MAX))
    jobs = _jobs(seed, max(TASKS_MIN, episodes // 2), count)
    patterns = _noise_patterns(seed, noise, size)
    truths = []
    with DatasetRecorder(
        out,
        fps=fps,
        features={"observation.state": motors, "action": motors, **cameras},
        robot_type=ROBOT_TYPE,
        codec=codec,
        gop=gop,
        data_files_size_in_mb=data_files_size_in_mb,
        video_files_size_in_mb=video_files_size_in_mb,
    ) as recorder:
        for episode in range(episodes):
            rng = np.random.default_rng([seed, 1, episode])
            story = draw_story(rng, jobs[episode % len(jobs)], seconds)
            views = {camera.key: View(camera, size, story, rng) for camera in CAMERAS}
            truths.append(_record(recorder, episode, story, views, fps, size, patterns))
        truth = {
            "fps": fps,
            "seconds": seconds,
            "codec": codec,
            "seed": seed,
            "size": list(size),
            "cameras": list(cameras),
        }
        truth_path(out).write_text(json.dumps(truth | {"episodes": truths}, separators=(",", ":")) + "\n")
    return out


def truth_path(dataset: Path) -> Path:
    """Where the truth about a generated dataset lies."""
    return dataset.with_name(f"{dataset.name}.truth.json")


def _jobs(seed: int, count: int, moved: int) -> list[Job]:
    """The dataset's tasks; kinds take turns, and several episodes may share a task."""
    return [draw_job(np.random.default_rng([seed, 0, i]), TASK_KINDS[i % len(TASK_KINDS)], moved) for i in range(count)]


def _noise_patterns(seed: int, noise: float, size: tuple[int, int]) -> list[np.ndarray]:
    if noise <= 0:
        return []
    rng = np.random.default_rng([seed, 2])
    return [
        np.repeat(rng.normal(0.0, noise, (size[1], size[0], 1)).round().astype(np.int16), 3, axis=2)
        for _ in range(NOISE_PATTERNS)
    ]


def _record(
    recorder: DatasetRecorder,
    episode: int,
    story: Story,
    views: dict[str, View],
    fps: float,
    size: tuple[int, int],
    patterns: list[np.ndarray],
) -> dict[str, Any]:
    """Record one episode; returns its truth. The action is the state one frame later."""
    frames = round(story.seconds * fps)
    times = np.arange(frames + 1) / fps
    states = story.gripper(times).astype(np.float32)
    poses = story.poses(times[:frames])
    held = [story.held(t) for t in times[:frames]]
    streams = [view.pictures(states[:frames], poses, held) for view in views.values()]
    for i, pictures in enumerate(zip(*streams, strict=True)):
        noisy = [_noisy(picture, patterns, i * len(views) + c) for c, picture in enumerate(pictures)]
        signals = {"observation.state": states[i], "action": states[i + 1]}
        recorder.add_frame(signals | dict(zip(views, noisy, strict=True)))
    recorder.save_episode(story.job.text)
    return _truth(episode, story, poses, fps, size)


def _noisy(picture: np.ndarray, patterns: list[np.ndarray], number: int) -> np.ndarray:
    if not patterns:
        return picture
    noisy = picture + patterns[number * 3 % len(patterns)]
    return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)


def _truth(episode: int, story: Story, poses: np.ndarray, fps: float, size: tuple[int, int]) -> dict[str, Any]:
    events = []
    for grip in story.grips:
        for kind, time_s in (("close", grip.close_s), ("open", grip.open_s)):
            frame = int(np.ceil(time_s * fps - 1e-9))
            events.append({"kind": kind, "time_s": time_s, "frame": frame, "thing": story.things[grip.thing].name})
    return {
        "episode_index": episode,
        "task": story.job.text,
        "frames": poses.shape[1],
        "target": story.job.target,
        "moved": [story.things[grip.thing].name for grip in story.grips],
        "things": [thing.name for thing in story.things],
        "subtasks": list(story.subtasks),
        "events": events,
        "boxes": {
            camera.key: {
                thing.name: _runs(thing_boxes(camera, size, thing, poses[i])) for i, thing in enumerate(story.things)
            }
            for camera in CAMERAS
        },
    }


def _runs(boxes: np.ndarray) -> list[list[int]]:
    """Run-length code of boxes per frame: [first_frame, last_frame, x0, y0, x1, y1]."""
    starts = np.flatnonzero(np.r_[True, (boxes[1:] != boxes[:-1]).any(axis=1)])
    ends = np.r_[starts[1:], len(boxes)] - 1
    return [[int(a), int(b), *map(int, boxes[a])] for a, b in zip(starts, ends, strict=True)]
