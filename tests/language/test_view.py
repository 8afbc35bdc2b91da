"""The view that training reads: which frame is which sample, what is in it, and that workers all see the same."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.dataset.layout import open_dataset
from tasks.errors import AmbiguousRowsError, RecipeError, SettingsError
from tasks.language import view as view_module
from tasks.language.collate import collate
from tasks.language.recipe import load_recipe
from tasks.language.render import Renderer
from tasks.language.rows import Row
from tasks.language.view import LanguageDataset
from tests.language.conftest import Annotated
from tests.language.plain import annotate, dataset

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores

MEMORY = "subtask_mem"
KEYS = ["episode_index", "frame_index", "index", "timestamp", "task"]
RENDERED = ["messages", "message_streams", "target_message_indices"]
REHEARSED = {  # draws differ between epochs on nearly every frame
    "blend": {
        name: {"weight": 1, "messages": [{"role": "user", "content": name + ": ${task}", "stream": "low_level"}]}
        for name in ("one", "two", "three")
    }
}
QUIET = {  # renders only where somebody speaks
    "messages": [
        {
            "role": "assistant",
            "stream": "high_level",
            "target": True,
            "if_present": "speech",
            "tool_calls_from": "speech",
        }
    ]
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all views of this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def memory(tabletop: Annotated, cache: Path) -> LanguageDataset:
    """The generated dataset by the memory recipe, with both numeric columns."""
    return LanguageDataset(tabletop.root, MEMORY, columns=("action", "observation.state"), cache_dir=cache)


def said(samples: Sequence[dict[str, Any] | None]) -> list[str]:
    """What samples say, to be compared; arrays by their text."""
    return [repr(sample) for sample in samples]


def test_samples_are_all_frames_in_order(tabletop, memory):
    frames = [(e.episode.episode_index, f) for e in tabletop.episodes for f in range(e.episode.frames)]
    samples = list(memory)
    assert len(samples) == len(memory) == len(frames) == 120
    assert [(s["episode_index"], s["frame_index"]) for s in samples] == frames
    assert [s["index"] for s in samples] == list(range(120))
    assert [s["timestamp"] for s in samples] == [t for e in tabletop.episodes for t in e.episode.times]
    assert {s["episode_index"]: s["task"] for s in samples} == {
        e.episode.episode_index: e.episode.task for e in tabletop.episodes
    }
    assert all(list(s) == [*KEYS, "action", "observation.state", *RENDERED] for s in samples)


def test_indices_count_from_both_ends_and_end(memory):
    assert said([memory[-1], memory[-120], memory[np.int64(7)]]) == said([memory[119], memory[0], memory[7]])
    for outside in (120, -121):
        with pytest.raises(IndexError, match=f"below 120, got {outside}"):
            memory[outside]
    with pytest.raises(TypeError):
        memory["0"]  # type: ignore[index]


@pytest.mark.parametrize("name", ["tabletop", "humanoid"])
def test_a_sample_is_what_the_renderer_makes_of_the_episodes_rows(name, request, cache):
    annotated = request.getfixturevalue(name)
    view = LanguageDataset(annotated.root, MEMORY, seed=3, cache_dir=cache)
    renderer = Renderer(load_recipe(MEMORY), cameras=annotated.cameras, seed=3)
    for labelled in annotated.episodes:
        index, table = labelled.episode.episode_index, labelled.table
        for frame in range(0, labelled.episode.frames, 3):
            wanted = renderer.render(table, frame, episode=index, epoch=2, task=labelled.episode.task)
            got = view.sample(index, frame, epoch=2)
            assert wanted is not None and {key: got[key] for key in RENDERED} == wanted
    assert set(renderer.counts) == set(renderer.names)  # every component was drawn


def test_columns_are_those_of_the_shards(tabletop, cache, monkeypatch):
    monkeypatch.setattr(view_module, "COLUMNS_HELD_MAX_BYTES", 2000)  # one episode at a time
    view = LanguageDataset(tabletop.root, MEMORY, columns=("action",), cache_dir=cache)
    (shard,) = open_dataset(tabletop.root).data_files
    table = pq.read_table(shard, columns=["index", "action"])
    actions = dict(zip(table["index"].to_pylist(), table["action"].to_pylist(), strict=True))
    for i in (*range(0, 120, 7), 5, 119, 0):
        action = view[i]["action"]
        assert action.dtype == np.float32 and action.tolist() == actions[i]


def test_samples_are_the_callers_own(memory):
    before = said([memory[60]])
    sample = memory[60]
    sample["action"][:] = 99
    sample["messages"][0]["content"] = "spoiled"
    sample["messages"].clear()
    assert said([memory[60]]) == before


def test_some_episodes_in_any_order(tabletop, memory, cache):
    view = LanguageDataset(tabletop.root, MEMORY, episodes=[2, 0, 2], cache_dir=cache)
    assert len(view) == 80
    assert [view[i]["episode_index"] for i in (0, 39, 40, -1)] == [0, 0, 2, 2]
    assert view[45]["messages"] == memory[85]["messages"] and view[45]["index"] == 85
    with pytest.raises(SettingsError, match="episode of this view"):
        view.sample(1, 0)
    with pytest.raises(IndexError, match="below 40, got 40"):
        view.sample(2, 40)
    with pytest.raises(IndexError):
        view.sample(2, -1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": [0, 9]}, "3 episodes, 0 to 2"),
        ({"episodes": []}, "at least one episode"),
        ({"columns": ["actions"]}, "want columns of .*action"),
        ({"columns": ["observation.images.front"]}, "numeric"),
        ({"columns": ["timestamp"]}, "in every sample"),
        ({"columns": ["language_events"]}, "numeric"),
    ],
)
def test_impossible_settings_are_clear_errors(tabletop, cache, settings, message):
    with pytest.raises(SettingsError, match=message):
        LanguageDataset(tabletop.root, MEMORY, cache_dir=cache, **settings)


def test_a_wrong_recipe_is_found_before_anything_is_read(tmp_path):
    with pytest.raises(RecipeError):
        LanguageDataset(tmp_path / "nowhere", {"messages": []})


def test_where_nothing_renders_the_task_alone_is_left(tabletop, cache):
    view = LanguageDataset(tabletop.root, QUIET, cache_dir=cache)
    speaking, silent = view[0], view[1]
    assert speaking["messages"][0]["tool_calls"] and speaking["target_message_indices"] == [0]
    assert silent["messages"] == [{"role": "user", "content": silent["task"]}] and silent["task"]
    assert (silent["message_streams"], silent["target_message_indices"]) == (["low_level"], [])


def test_without_a_task_such_frames_are_none_and_left_out_of_batches(tabletop, cache, tmp_path):
    root = Path(shutil.copytree(tabletop.root, tmp_path / "copy"))
    (root / "meta/tasks.parquet").unlink()
    view = LanguageDataset(root, QUIET, cache_dir=cache)
    assert view[0]["task"] == "" and view[1] is None
    pytest.importorskip("torch")
    assert collate([view[i] for i in range(10)])["frame_index"].tolist() == [0]


def test_an_epoch_draws_anew_and_a_seed_too(tabletop, cache):
    view = LanguageDataset(tabletop.root, REHEARSED, cache_dir=cache)
    first = said(view)
    assert said(view) == first and view.epoch == 0
    view.set_epoch(1)
    second = said(view)
    assert sum(a != b for a, b in zip(first, second, strict=True)) > 60
    assert said([view.sample(1, 3, epoch=0)]) == first[43:44]
    view.set_epoch(0)
    assert said(view) == first != said(LanguageDataset(tabletop.root, REHEARSED, seed=1, cache_dir=cache))


def test_a_pickle_is_small_has_the_epoch_and_goes_its_own_way(tabletop, cache):
    view = LanguageDataset(tabletop.root, REHEARSED, cache_dir=cache)
    list(view)
    view.set_epoch(4)
    pickled = pickle.dumps(view)
    copy = pickle.loads(pickled)
    assert copy.epoch == 4 and said(copy) == said(view) and len(pickled) < 20_000
    view.set_epoch(5)
    assert copy.epoch == 4


def test_a_child_that_sets_an_epoch_leaves_its_parents_alone(tabletop, cache):
    view = LanguageDataset(tabletop.root, REHEARSED, cache_dir=cache)
    context = multiprocessing.get_context("fork")
    seen = context.Queue()

    def train_apart() -> None:
        view.set_epoch(3)
        seen.put((view.epoch, said([view[0]])))

    child = context.Process(target=train_apart)
    child.start()
    assert seen.get(timeout=60) == (3, said([view.sample(0, 0, epoch=3)]))
    child.join()
    assert view.epoch == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_that_contradict_each_other_raise_or_are_left_out(tmp_path, cache, workers):
    twice = [Row("assistant", text, "subtask", 0.0) for text in ("lift", "push")]
    root = annotate(dataset(tmp_path / "data", [[3]]), {0: [*twice, Row("assistant", "none yet", "memory", 0.0)]})
    both = {
        name: {"weight": 1, "messages": [{"role": "user", "content": f"${{{name}}}", "stream": "low_level"}]}
        for name in ("subtask", "memory")
    }
    with pytest.raises(AmbiguousRowsError, match=r"(?s)style=subtask.*2 rows"):
        afresh(taken, LanguageDataset(root, {"blend": both}, cache_dir=cache), workers)
    forgiving = LanguageDataset(root, {"blend": both}, on_ambiguous="skip", cache_dir=cache)
    assert {sample["messages"][0]["content"] for sample in afresh(taken, forgiving, workers)} == {"none yet"}


def test_torch_is_not_imported():
    code = "import sys, tasks.language.view, tasks.language.collate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- in a loader ---------------------------------------------------------------------------------------------------


def same(sample: dict[str, Any]) -> dict[str, Any]:
    """A collate function that keeps one sample as it is."""
    (only,) = sample
    return only


def loader(view: LanguageDataset, workers: int, start: str | None = "fork", **more: Any):  # type: ignore[no-untyped-def]
    """A loader that gives samples one by one."""
    data = pytest.importorskip("torch").utils.data
    context = start if workers else None
    return data.DataLoader(
        view, batch_size=1, collate_fn=same, num_workers=workers, multiprocessing_context=context, **more
    )


def taken(view: LanguageDataset, workers: int, start: str | None = "fork") -> list[dict[str, Any]]:
    """All samples of a loader."""
    return list(loader(view, workers, start))


def afresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """A function's value, from a process that nothing else has run in: Prefect, once used, lets no fork end well."""
    pytest.importorskip("torch")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(timeout=120)


@pytest.mark.parametrize(
    ("workers", "start"), [(0, None), (1, "fork"), (4, "fork"), pytest.param(4, "spawn", marks=pytest.mark.slow)]
)
def test_samples_are_the_same_whatever_the_workers(memory, workers, start):
    assert said(afresh(taken, memory, workers, start)) == said(list(memory))


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_new_epoch_reaches_workers_that_live_on(tabletop, cache, start):
    view = LanguageDataset(tabletop.root, REHEARSED, cache_dir=cache)
    wanted = [said(view)]
    view.set_epoch(1)
    wanted.append(said(view))
    assert afresh(two_epochs, tabletop.root, cache, start) == wanted
    assert wanted[0] != wanted[1]


def two_epochs(root: Path, cache: Path, start: str) -> list[Any]:
    """What the same two workers give in each of two epochs."""
    view = LanguageDataset(root, REHEARSED, cache_dir=cache)
    alive = loader(view, 2, start, persistent_workers=True)
    first = said(list(alive))
    view.set_epoch(1)
    return [first, said(list(alive))]


def byte_tokens(batch: dict[str, Any], length: int = 120):  # type: ignore[no-untyped-def]
    """Bytes of all turns in a row, and which of them are learned."""
    import torch

    tokens = torch.zeros(len(batch["messages"]), length, dtype=torch.long)
    learned = torch.zeros(len(batch["messages"]), length, dtype=torch.bool)
    for row, (turns, targets) in enumerate(zip(batch["messages"], batch["target_message_indices"], strict=True)):
        at = 0
        for i, turn in enumerate(turns):
            data = list(f"{turn['role']}: {turn['content']}\n".encode())[: length - at]
            tokens[row, at : at + len(data)] = torch.tensor(data, dtype=torch.long)
            learned[row, at : at + len(data)] = i in targets
            at += len(data)
    return tokens, learned


def make_model(actions: int):  # type: ignore[no-untyped-def]
    """A few thousand weights: bytes in, the next byte and an action out."""
    import torch
    from torch import nn

    class Policy(nn.Module):
        """Reads turns byte by byte."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.read = nn.Embedding(256, 24), nn.GRU(24, 48, batch_first=True)
            self.speak, self.act = nn.Linear(48, 256), nn.Linear(48, actions)

        def forward(self, batch: dict[str, Any]):  # type: ignore[no-untyped-def]
            """The loss: text on targets, actions on every sample that has a low-level turn."""
            tokens, learned = byte_tokens(batch)
            states, _ = self.read(self.embed(tokens))
            nll = nn.functional.cross_entropy(
                self.speak(states[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none"
            )
            text = (nll * learned[:, 1:]).sum() / learned.sum().clamp(min=1)
            acts = torch.tensor(["low_level" in streams for streams in batch["message_streams"]])
            error = (self.act(states.mean(1)) - batch["action"]).square().mean(1)
            return text + (error * acts).sum() / acts.sum().clamp(min=1)

    torch.manual_seed(0)
    return Policy()


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_model_learns_from_rendered_batches(memory, start):
    indices, targets, losses = afresh(train, memory, start)
    assert sorted(indices) == list(range(120))
    assert any(targets)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5]), losses


def train(view: LanguageDataset, start: str) -> tuple[list[int], list[list[int]], list[float]]:
    """Four rounds over a loader's batches: their indices and targets, and the loss of each step."""
    import torch

    torch.set_num_threads(1)  # a model this small is slowed down by more
    batches = list(
        torch.utils.data.DataLoader(
            view, batch_size=24, shuffle=True, num_workers=4, multiprocessing_context=start, collate_fn=collate,
            generator=torch.Generator().manual_seed(0),
        )
    )  # fmt: skip
    model = make_model(batches[0]["action"].shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(4):
        for batch in batches:
            loss = model(batch)
            optimizer.zero_grad()
            loss.backward()
            assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in model.parameters())
            optimizer.step()
            losses.append(loss.item())
    indices = [i for batch in batches for i in batch["index"].tolist()]
    return indices, [t for batch in batches for t in batch["target_message_indices"]], losses
