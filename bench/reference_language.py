"""The reference's way to rendered samples, for bench_language: run by a Python that has lerobot.

    python bench/reference_language.py < {"recipe": …, "rows": […], "times": […], "task": …, "root": …, "indices": […]}

Prints median microseconds: rendering an episode's rows that are in memory, and from a frame's number to the rendered
sample by the cheapest of three ways to the dataset's item.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from lerobot.configs.recipe import TrainingRecipe
from lerobot.datasets.language_render import render_sample
from lerobot.datasets.lerobot_dataset import LeRobotDataset

WARM = 200  # untimed calls before the timed ones
NEEDED = ["language_persistent", "language_events", "timestamp", "index", "task_index"]


def median_us(call: Callable[[Any], Any], arguments: Iterable[Any]) -> float:
    """Median time of one call."""
    arguments = list(arguments)
    for argument in arguments[:WARM]:
        call(argument)
    spans = []
    for argument in arguments:
        start = time.perf_counter()
        call(argument)
        spans.append(time.perf_counter() - start)
    return statistics.median(spans) * 1e6


def main() -> None:
    """Measure what standard input asks for."""
    asked = json.load(sys.stdin)
    recipe = TrainingRecipe.from_dict(asked["recipe"])

    def render(frame: tuple[int, float]) -> Any:
        index, t = frame
        return render_sample(
            recipe=recipe, persistent=asked["rows"], events=[], t=t, sample_idx=index, task=None,
            dataset_ctx={"task": asked["task"]},
        )  # fmt: skip

    def sample_of(item: dict[str, Any]) -> Any:
        task = {"task": tasks[int(item["task_index"])]}
        return render_sample(
            recipe=recipe, persistent=item["language_persistent"], events=item["language_events"],
            t=float(item["timestamp"]), sample_idx=int(item["index"]), dataset_ctx=task,
        )  # fmt: skip

    dataset = LeRobotDataset("local/bench", root=asked["root"], video_backend="pyav")
    tasks = list(dataset.meta.tasks.index)
    columns = dataset.hf_dataset.select_columns(NEEDED)
    plain = columns.with_format(None)
    ways = {
        "raw item": lambda i: sample_of(dataset.get_raw_item(i)),
        "needed columns": lambda i: sample_of(columns[i]),
        "needed columns, no tensors": lambda i: sample_of(plain[i]),
    }
    found = {name: median_us(way, asked["indices"]) for name, way in ways.items()}
    way = min(found, key=found.__getitem__)
    render_us = median_us(render, enumerate(asked["times"]))
    print(json.dumps({"render_us": render_us, "item_us": found[way], "way": way, "all": found}))


if __name__ == "__main__":
    main()
