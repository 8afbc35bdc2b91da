"""Train-time path through lerobot: its dataset, its loader and collate, its pipeline with this project's step in it.

    python tests/compat/check_render_step.py DATASET FOLDER

DATASET is annotated; FOLDER is an empty one for a saved pipeline. Run by a Python that has lerobot.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any
from unittest import TestCase

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.processor.batch_processor import AddBatchDimensionProcessorStep
from lerobot.processor.pipeline import DataProcessorPipeline, PolicyProcessorPipeline
from lerobot.utils.collate import lerobot_collate_fn
from torch.utils.data import DataLoader, Dataset

from tasks.language.collate import collate
from tasks.language.lerobot_step import STEP_NAME, CuebookRenderMessages, to_batch_or_none

RECIPE = "subtask_mem_vqa_speech"
MESSAGE_KEYS = ("messages", "message_streams", "target_message_indices")
LANGUAGE = {"language_persistent", "language_events"}
BATCH = 8

Json = dict[str, Any]


class Rendered(Dataset):
    """Items of a dataset, each through a pipeline before it is collated."""

    def __init__(self, dataset: LeRobotDataset, pipeline: DataProcessorPipeline) -> None:
        self.dataset, self.pipeline = dataset, pipeline

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Json:
        return self.pipeline(self.dataset[index])


def pipeline_of(*steps: Any) -> DataProcessorPipeline:
    return DataProcessorPipeline(steps=list(steps), name="language")


def messages_of(batch: Json) -> list[Json]:
    """A batch's samples, messages only."""
    return [
        dict(zip(MESSAGE_KEYS, sample, strict=True)) for sample in zip(*(batch[k] for k in MESSAGE_KEYS), strict=True)
    ]


def check_one_sample(dataset: LeRobotDataset, pipeline: DataProcessorPipeline) -> list[Json]:
    """Every frame by itself. The dataset's task, as lerobot hands it over, does not hide its rephrasings."""
    samples = []
    for index in range(len(dataset)):
        item = dataset[index]
        out = pipeline(item)
        assert not LANGUAGE & set(out) and torch.equal(out["action"], item["action"])
        assert all(torch.equal(out[c], item[c]) for c in dataset.meta.camera_keys)
        samples.append({key: out[key] for key in MESSAGE_KEYS})
        assert samples[-1]["target_message_indices"] or "low_level" in samples[-1]["message_streams"]
    asked = {s["messages"][0]["content"] for s in samples if isinstance(s["messages"][0]["content"], str)}
    rephrasings = {r["content"] for r in dataset[0]["language_persistent"] if r["style"] == "task_aug"}
    assert len(rephrasings) > 3 and len(asked & rephrasings) > 3, asked
    assert any(isinstance(s["messages"][0]["content"], list) for s in samples), "no question about a picture"
    assert any("tool_calls" in m for s in samples for m in s["messages"]), "no speech"
    return samples


def check_batches(dataset: LeRobotDataset, pipeline: DataProcessorPipeline, samples: list[Json]) -> None:
    """The same samples in batches: rendered after collating, and rendered by the loader's workers before it."""
    together: list[Json] = []
    for batch in DataLoader(dataset, batch_size=BATCH, collate_fn=collate):
        out = pipeline(batch)
        assert not LANGUAGE & set(out) and len(out["action"]) == len(out["messages"]) == len(out["task"])
        together += messages_of(out)
    assert together == samples
    rendered = Rendered(dataset, pipeline)
    for collate_fn, options in (
        (lerobot_collate_fn, {}),
        (lerobot_collate_fn, {"num_workers": 1, "multiprocessing_context": "spawn"}),
        (collate, {}),
    ):
        loader = DataLoader(rendered, batch_size=BATCH, collate_fn=collate_fn, **options)
        batches = list(loader)
        assert [s for batch in batches for s in messages_of(batch)] == samples, (collate_fn, options)
        assert batches[0]["action"].shape == (BATCH, *dataset[0]["action"].shape)


def check_a_cut_batch(dataset: LeRobotDataset) -> None:
    """Samples of which nothing renders leave tensors and lists alike."""
    speech = {"role": "assistant", "stream": "high_level", "target": True, "if_present": "speech"}
    step = CuebookRenderMessages(recipe={"messages": [{**speech, "tool_calls_from": "speech"}]}, dataset_ctx=dataset)
    items = [{**dataset[i], "task": None} for i in range(BATCH)]  # a task would stand in
    batch = {**collate([dataset[i] for i in range(BATCH)]), "task": [None] * BATCH}
    out = pipeline_of(step)(batch)
    assert out["index"].tolist() == [0] and out["action"].shape[0] == 1 and len(out["messages"]) == 1
    assert torch.equal(out["observation.state"], batch["observation.state"][:1])
    alone = DataProcessorPipeline(steps=[step], to_output=to_batch_or_none)
    assert [alone(item) is None for item in items] == [False] + [True] * (BATCH - 1)
    assert alone({key: values[1:] for key, values in batch.items()}) is None


def check_columns_lost_in_collating(dataset: LeRobotDataset) -> None:
    """lerobot's collate drops raw language columns: the step asks for the bare task, and says so once."""
    pipeline = pipeline_of(CuebookRenderMessages(recipe=RECIPE, dataset_ctx=dataset.meta))
    with TestCase().assertLogs("tasks.language.step_core", "WARNING") as logs:
        for batch in DataLoader(dataset, batch_size=BATCH, collate_fn=lerobot_collate_fn):
            assert not LANGUAGE & set(batch)
            assert pipeline(batch)["messages"] == [[{"role": "user", "content": task}] for task in batch["task"]]
    assert len(logs.output) == 1 and "lerobot_collate_fn" in logs.output[0], logs.output


def check_the_batch_dimension(dataset: LeRobotDataset, step: CuebookRenderMessages) -> None:
    """lerobot's own step wraps what ours makes, also where it begins with a turn without target."""
    out = pipeline_of(step, AddBatchDimensionProcessorStep())(dataset[1])
    alone = pipeline_of(step)(dataset[1])
    assert all(out[key] == [alone[key]] for key in MESSAGE_KEYS) and out["action"].shape[0] == 1
    act = pipeline_of(step, AddBatchDimensionProcessorStep())({"task": "tidy up", "action": torch.zeros(7)})
    assert act["messages"] == [[{"role": "user", "content": "tidy up"}]] and act["target_message_indices"] == [[]]


def check_saving(dataset: LeRobotDataset, pipeline: DataProcessorPipeline, folder: Path, samples: list[Json]) -> None:
    """A saved pipeline has all it needs: no dataset, no recipe file."""
    pipeline.save_pretrained(folder)
    saved = json.loads((folder / "language.json").read_text())["steps"]
    assert [s["registry_name"] for s in saved] == [STEP_NAME] and saved[0]["config"]["fps"] == dataset.fps
    for kind in (DataProcessorPipeline, PolicyProcessorPipeline):
        loaded = kind.from_pretrained(folder, config_filename="language.json")
        again = [loaded(dataset[i]) for i in range(0, len(dataset), 7)]
        assert [{k: out[k] for k in MESSAGE_KEYS} for out in again] == samples[::7]
        assert loaded.get_config() == pipeline.get_config()
    override = {STEP_NAME: {"recipe": "subtask", "seed": 3}}
    other = DataProcessorPipeline.from_pretrained(folder, config_filename="language.json", overrides=override)
    assert other.steps[0].seed == 3 and list(other.get_config()["steps"][0]["config"]["recipe"]["blend"])
    assert other.get_config() != pipeline.get_config()


def main() -> int:
    logging.getLogger().setLevel(logging.ERROR)
    dataset, folder = LeRobotDataset("local/check", root=sys.argv[1], video_backend="pyav"), Path(sys.argv[2])
    step = CuebookRenderMessages(recipe=RECIPE, dataset_ctx=dataset.meta)
    pipeline = pipeline_of(step)
    features: Json = {"anything": 1}
    assert pipeline.transform_features(features) == features
    samples = check_one_sample(dataset, pipeline)
    check_batches(dataset, pipeline, samples)
    check_a_cut_batch(dataset)
    check_columns_lost_in_collating(dataset)
    check_the_batch_dimension(dataset, step)
    check_saving(dataset, pipeline, folder, samples)
    print(f"{len(samples)} samples, alone and in batches")
    return 0


if __name__ == "__main__":
    sys.exit(main())
