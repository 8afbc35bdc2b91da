"""Walk a dataset with lerobot's own loader. Run by a Python that has lerobot; needs nothing of this project.

    python tests/compat/check_loader.py DATASET [--language] [--frames 3]

Exit code 0 when every item reads back as the files say, 1 with the first difference otherwise.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from lerobot.datasets.language_render import active_at
from lerobot.datasets.lerobot_dataset import LeRobotDataset

PICTURE_TOLERANCE = 1.5 / 255  # mean difference between two decoders of one frame
ROW_KEYS = {"role", "content", "style", "camera", "tool_calls"}
LANGUAGE = {"language_persistent", "language_events"}
PERSISTENT_STYLES = {"subtask", "plan", "memory", "task_aug", "motion"}
EVENT_STYLES = {"interjection", "vqa", "trace", None}
VIEW_STYLES = {"vqa", "trace"}


class Difference(Exception):
    """The loader gave something else than the files hold."""


def want(condition: object, message: str) -> None:
    if not condition:
        raise Difference(message)


class Walk:
    """One dataset, as files and as lerobot sees it."""

    def __init__(self, root: Path, frames_each: int) -> None:
        self.root, self.frames_each = root, frames_each
        self.info = json.loads((root / "meta/info.json").read_text())
        self.fps = self.info["fps"]
        self.dataset = LeRobotDataset("local/check", root=root, video_backend="pyav")
        rows = [pd.read_parquet(p) for p in sorted((root / "meta/episodes").rglob("*.parquet"))]
        self.episodes = pd.concat(rows).sort_values("episode_index").to_dict("records")
        self.tasks = {
            int(row["task_index"]): task for task, row in pd.read_parquet(root / "meta/tasks.parquet").iterrows()
        }
        self.cameras = [k for k, f in self.info["features"].items() if f["dtype"] in ("video", "image")]

    def totals(self) -> None:
        want(
            len(self.dataset) == self.info["total_frames"],
            f"{len(self.dataset)} items, {self.info['total_frames']} frames",
        )
        want(self.dataset.num_episodes == len(self.episodes) == self.info["total_episodes"], "number of episodes")
        want(set(self.dataset.meta.features) == set(self.info["features"]), "features of info.json")

    def signals(self) -> None:
        """Every frame's bookkeeping columns, without any video."""
        table = self.dataset.hf_dataset.with_format("numpy").remove_columns(
            [c for c in self.dataset.hf_dataset.column_names if c in LANGUAGE or c in self.cameras]
        )[:]
        for episode in self.episodes:
            a, b = int(episode["dataset_from_index"]), int(episode["dataset_to_index"])
            name = f"episode {episode['episode_index']}"
            want(b - a == episode["length"], f"{name}: {b - a} rows, length {episode['length']}")
            want((table["episode_index"][a:b] == episode["episode_index"]).all(), f"{name}: rows of another episode")
            want((table["index"][a:b] == np.arange(a, b)).all(), f"{name}: index is not continuous")
            want((table["frame_index"][a:b] == np.arange(b - a)).all(), f"{name}: frame_index is not continuous")
            late = np.abs(table["timestamp"][a:b] - np.arange(b - a) / self.fps).max()
            want(late < 1e-3, f"{name}: timestamps off by {late} s")

    def pictures(self) -> None:
        """Some frames of each episode through the loader, against a plain decode of the same file from its start."""
        samples: dict[Path, dict[int, tuple[int, str]]] = defaultdict(dict)
        for episode in self.episodes:
            length = int(episode["length"])
            for row in np.unique(np.linspace(0, length - 1, self.frames_each).astype(int)):
                item = int(episode["dataset_from_index"]) + int(row)
                self._check_item(item, int(row), episode)
                for camera in self.cameras:
                    if self.info["features"][camera]["dtype"] == "video":
                        path, at = self._place(episode, camera, int(row))
                        samples[path][at] = (item, camera)
        for path, wanted in samples.items():
            self._compare(path, wanted)

    def _check_item(self, index: int, row: int, episode: dict[str, Any]) -> None:
        item = self.dataset[index]
        name = f"item {index} (episode {episode['episode_index']}, frame {row})"
        want(item["episode_index"] == episode["episode_index"] and item["frame_index"] == row, f"{name}: wrong frame")
        want(item["task"] == self.tasks[int(item["task_index"])], f"{name}: task {item['task']!r}")
        want(item["task"] in list(episode["tasks"]), f"{name}: task {item['task']!r} is not one of its episode's")
        for camera in self.cameras:
            height, width, channels = self.info["features"][camera]["shape"]
            want(
                tuple(item[camera].shape) == (channels, height, width), f"{name}: {camera} {tuple(item[camera].shape)}"
            )
        for key in ("observation.state", "action"):
            if key in self.info["features"]:
                want(item[key].numel() == np.prod(self.info["features"][key]["shape"]), f"{name}: {key}")

    def _place(self, episode: dict[str, Any], camera: str, row: int) -> tuple[Path, int]:
        """The mp4 and the number of the frame in it."""
        chunk, file = (int(episode[f"videos/{camera}/{k}_index"]) for k in ("chunk", "file"))
        path = self.info["video_path"].format(video_key=camera, chunk_index=chunk, file_index=file)
        return self.root / path, round(episode[f"videos/{camera}/from_timestamp"] * self.fps) + row

    def _compare(self, path: Path, wanted: dict[int, tuple[int, str]]) -> None:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number not in wanted:
                    continue
                index, camera = wanted.pop(number)
                info = self.info["features"][camera].get("info") or {}
                if info.get("is_depth_map") or info.get("video.is_depth_map"):
                    continue
                loaded = self.dataset[index][camera].numpy().transpose(1, 2, 0)
                off = np.abs(loaded - frame.to_ndarray(format="rgb24") / 255).mean()
                want(
                    off < PICTURE_TOLERANCE,
                    f"item {index}: {camera} differs by {off:.3f} from frame {number} of {path.name}",
                )
        want(not wanted, f"{path}: no frames {sorted(wanted)}")

    def language(self) -> None:
        """Both columns on every frame, through the loader's own features."""
        for column in LANGUAGE:
            want(
                self.info["features"].get(column, {}).get("dtype") == "language",
                f"info.json: no language feature {column}",
            )
        events = 0
        for episode in self.episodes:
            a, b = int(episode["dataset_from_index"]), int(episode["dataset_to_index"])
            items = [self.dataset.hf_dataset[i] for i in range(a, b)]
            times = [float(item["timestamp"]) for item in items]
            events += self._episode_language(f"episode {episode['episode_index']}", items, times)
            whole = self.dataset[a]
            want(whole["language_persistent"] == items[0]["language_persistent"], "an item lacks its persistent rows")
            want(whole["language_events"] == items[0]["language_events"], "an item lacks its event rows")
        want(events > 0, "no event row in the whole dataset")

    def _episode_language(self, name: str, items: list[dict[str, Any]], times: list[float]) -> int:
        persistent = items[0]["language_persistent"]
        want(isinstance(persistent, list) and persistent, f"{name}: no persistent rows")
        for item in items:
            want(
                item["language_persistent"] == persistent,
                f"{name}: persistent rows differ at frame {item['frame_index']}",
            )
        for row in persistent:
            want(set(row) == ROW_KEYS | {"timestamp"}, f"{name}: fields {sorted(row)}")
            want(row["style"] in PERSISTENT_STYLES, f"{name}: style {row['style']!r} among persistent rows")
            want(row["timestamp"] in times, f"{name}: {row['style']} at {row['timestamp']} is on no frame")
            want(row["camera"] is None and row["content"], f"{name}: {row}")
        for t in times:
            subtask = active_at(t, persistent=persistent, style="subtask")
            want(subtask is not None, f"{name}: no active subtask at {t}")
        for item in items:
            self._check_events(f"{name}, frame {int(item['frame_index'])}", item["language_events"])
        opening = [row for row in items[0]["language_events"] if row["style"] is None]
        want(len(opening) == 1, f"{name}: {len(opening)} speech atoms on the first frame, want 1")
        return sum(len(item["language_events"]) for item in items)

    def _check_events(self, name: str, rows: list[dict[str, Any]]) -> None:
        pairs: dict[tuple[str, str], int] = defaultdict(int)
        for row in rows:
            want(set(row) == ROW_KEYS, f"{name}: fields {sorted(row)}")
            want(row["style"] in EVENT_STYLES, f"{name}: style {row['style']!r} among event rows")
            if row["style"] in VIEW_STYLES:
                want(row["camera"] in self.cameras, f"{name}: camera {row['camera']!r}")
                pairs[row["camera"], row["role"]] += 1
            else:
                want(row["camera"] is None, f"{name}: {row['style']} with camera {row['camera']!r}")
            if row["style"] == "vqa" and row["role"] == "assistant":
                want(isinstance(json.loads(row["content"]), dict), f"{name}: {row['content']!r}")
            if row["style"] is None:
                self._check_speech(name, row["tool_calls"])
        for (camera, role), count in pairs.items():
            other = "assistant" if role == "user" else "user"
            want(count == 1 and pairs.get((camera, other)) == 1, f"{name}: vqa on {camera} is no pair")

    @staticmethod
    def _check_speech(name: str, calls: list[Any]) -> None:
        want(isinstance(calls, list) and len(calls) == 1, f"{name}: tool_calls {calls!r}")
        call = json.loads(calls[0]) if isinstance(calls[0], str) else calls[0]
        want(call["function"]["name"] == "say", f"{name}: calls {call!r}")
        want(call["function"]["arguments"]["text"].strip(), f"{name}: says nothing")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--language", action="store_true", help="also check the language columns")
    parser.add_argument("--frames", type=int, default=3, help="frames per episode that are decoded")
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    walk = Walk(args.dataset.resolve(), args.frames)
    checks = [walk.totals, walk.signals, walk.pictures] + ([walk.language] if args.language else [])
    try:
        for check in checks:
            check()
    except Difference as difference:
        print(f"{args.dataset}: {check.__name__}: {difference}", file=sys.stderr)
        return 1
    print(f"{args.dataset}: {len(walk.episodes)} episodes, {len(walk.dataset)} frames, {walk.cameras}: all as stored")
    return 0


if __name__ == "__main__":
    sys.exit(main())
