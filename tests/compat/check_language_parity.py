"""Render the same rows by lerobot's renderer and by this project's, component by component, frame by frame.

    python tests/compat/check_language_parity.py DATASET

Run by a Python that has lerobot. Exit code 1 with the first difference that `intended_differences` does not list.
Where lerobot's sample contains an empty text, this project renders nothing or leaves the turn out; where no target turn
remains but a low-level one does, lerobot renders nothing. Such frames are counted. Everywhere else samples are equal.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lerobot.datasets.language_render as theirs
from lerobot.configs.recipe import TrainingRecipe
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from tasks.language.recipe import canonical_recipes, load_recipe
from tasks.language.render import Renderer
from tasks.language.resolve import EpisodeTable, rows_of
from tests.compat.hand_made import CAMERAS, FPS, FRAMES, TASK, episode
from tests.compat.parity_recipes import RECIPES, Json

# Components of the canonical recipes that lerobot's recipes cannot say, and why.
NOT_SAYABLE = {
    "subtask.low_level_execution": "learns actions alone: no target turn",
    "subtask_mem.low_level_execution": "learns actions alone: no target turn",
    "subtask_mem_vqa_speech.low_level_execution": "learns actions alone: no target turn",
    "pi05_hirobot.high_level_subtask": "blocks that are left out without their text",
    "pi05_hirobot.low_level_execution": "blocks that are left out without their text",
    "pi05_hirobot.opening_plan": "a turn that is left out where a row is there",
    "subtask_mem_vqa_speech.speech_acknowledgement": "a turn that is left out where a row is there",
}


class Difference(Exception):
    """The two renderers give something else."""


def want(condition: object, message: str) -> None:
    if not condition:
        raise Difference(message)


@dataclass(frozen=True)
class Frame:
    """One frame's rows, as lerobot's renderer takes them and as this project does."""

    name: str
    persistent: list[Json]
    events: list[Json]
    time_s: float
    table: EpisodeTable
    frame: int
    task: str


def main() -> int:
    logging.getLogger().setLevel(logging.ERROR)
    dataset = LeRobotDataset("local/check", root=sys.argv[1], video_backend="pyav")
    try:
        # Half a frame for both: a tenth of a second, whatever the fps, is one of the intended differences.
        theirs.EMITTED_AT_TOLERANCE_S = 0.5 / FPS
        counts = compare(list(hand_made()), CAMERAS)
        unseen = len(components(CAMERAS)) - counts["components"]
        want(not unseen, f"{unseen} components render nowhere in the rows made up for them")
        theirs.EMITTED_AT_TOLERANCE_S = 0.5 / dataset.fps
        counts += compare(list(recorded(dataset)), tuple(dataset.meta.camera_keys))
    except Difference as difference:
        print(difference, file=sys.stderr)
        return 1
    print(json.dumps(counts))
    return 0


def hand_made() -> Iterator[Frame]:
    for number in range(4):
        made = episode(number)
        table = table_of(made.persistent, made.events, FPS)
        for frame in range(FRAMES):
            yield Frame(
                f"made {number}:{frame}", made.persistent, made.events[frame], frame / FPS + 1e-4, table, frame, TASK
            )


def recorded(dataset: LeRobotDataset) -> Iterator[Frame]:
    """Every frame of an annotated dataset, its rows as lerobot's loader gives them; rephrasings are left out."""
    for meta in dataset.meta.episodes:
        items = [dataset.hf_dataset[i] for i in range(meta["dataset_from_index"], meta["dataset_to_index"])]
        persistent = [row for row in items[0]["language_persistent"] if row["style"] != "task_aug"]
        table = table_of(persistent, [item["language_events"] for item in items], dataset.fps)
        task = meta["tasks"][0]
        for frame, item in enumerate(items):
            name = f"episode {meta['episode_index']}:{frame}"
            yield Frame(name, persistent, item["language_events"], float(item["timestamp"]), table, frame, task)


def table_of(persistent: list[Json], events: list[list[Json]], fps: float) -> EpisodeTable:
    here = [(frame, row) for frame, rows in enumerate(events) for row in rows_of(rows)]
    return EpisodeTable.at_fps(rows_of(persistent), here, fps)


# --- recipes -------------------------------------------------------------------------------------------------------


def components(cameras: tuple[str, ...]) -> dict[str, Json]:
    """Message recipes by name: ours above and the canonical ones, once for each camera, without weights."""
    found = dict(RECIPES)
    for name in canonical_recipes():
        data = load_recipe(name).model_dump(exclude_unset=True)
        for part, component in (data.get("blend") or {"": data}).items():
            found[f"{name}.{part}" if part else name] = component
    return {
        f"{name}@{camera.rsplit('.', 1)[-1]}": for_camera(component, camera)
        for name, component in found.items()
        if name not in NOT_SAYABLE
        for camera in cameras
    }


def for_camera(component: Mapping[str, Any], camera: str) -> Json:
    """A component that sees one camera. Its questions are pinned to it: lerobot looks them up even where unused."""
    text = json.dumps({key: component[key] for key in ("messages", "bindings") if component.get(key)})
    data = json.loads(text.replace("${camera}", camera).replace("CAMERA", camera))
    pinned = {
        "vqa": f"emitted_at(t, style=vqa, role=assistant, camera={camera})",
        "vqa_query": f"emitted_at(t, style=vqa, role=user, camera={camera})",
    }
    return {**data, "bindings": {**pinned, **data.get("bindings", {})}}


def check_what_cannot_be_said() -> None:
    """The list of what lerobot's recipes cannot say is exact: all else is compared."""
    for name in NOT_SAYABLE:
        recipe, part = name.split(".")
        data = for_camera(load_recipe(recipe).model_dump(exclude_unset=True)["blend"][part], CAMERAS[0])
        blocks = [b for turn in data["messages"] if isinstance(turn.get("content"), list) for b in turn["content"]]
        try:
            TrainingRecipe.from_dict(data)
        except (TypeError, ValueError):  # TypeError: a key that its turns do not have
            continue
        want(any("if_present" in block for block in blocks), f"{name}: lerobot's recipes can say it, so compare it")


# --- comparison ----------------------------------------------------------------------------------------------------


def compare(frames: list[Frame], cameras: tuple[str, ...]) -> Counter[str]:
    check_what_cannot_be_said()
    counts: Counter[str] = Counter()
    for name, data in components(cameras).items():
        ours, recipe = Renderer(load_recipe(data), cameras=cameras), TrainingRecipe.from_dict(data)
        equal = 0
        for at in frames:
            mine = ours.render(at.table, at.frame, episode=0, task=at.task)
            other = theirs.render_sample(
                recipe=recipe,
                persistent=at.persistent,
                events=at.events,
                t=at.time_s,
                sample_idx=at.frame,
                dataset_ctx={"task": at.task},
            )
            verdict = judge(mine, other)
            want(verdict, f"{name}, {at.name}\n  lerobot: {other}\n  cuebook: {mine}")
            counts[verdict] += 1
            equal += verdict == "equal"
        counts["components"] += equal > 0
    return counts


def judge(mine: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str | None:
    """What to call the frame; None where the samples differ and may not."""
    if mine == other:
        return "nothing" if mine is None else "equal"
    if other is None and mine is not None and not mine["target_message_indices"]:
        return "actions alone" if "low_level" in mine["message_streams"] else None
    if other is not None and any(map(is_empty, other["messages"])):
        return "empty text" if mine is None or mine == without_empty(other) else None
    return None


def is_empty(message: Mapping[str, Any]) -> bool:
    """Whether a turn, or a block of one, says nothing and calls nothing."""
    content = message.get("content")
    texts = [b["text"] for b in content if "text" in b] if isinstance(content, list) else [content]
    return "" in texts or (None in texts and not message.get("tool_calls"))


def without_empty(sample: Mapping[str, Any]) -> Json:
    """A sample less its empty turns."""
    kept = [i for i, message in enumerate(sample["messages"]) if not is_empty(message)]
    return {
        "messages": [sample["messages"][i] for i in kept],
        "message_streams": [sample["message_streams"][i] for i in kept],
        "target_message_indices": [new for new, i in enumerate(kept) if i in sample["target_message_indices"]],
    }


if __name__ == "__main__":
    sys.exit(main())
