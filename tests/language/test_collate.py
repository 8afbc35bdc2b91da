"""Batches: turns stay lists, the rest is what torch would have made."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.language.collate import LIST_KEYS, collate

torch = pytest.importorskip("torch")
from torch.utils.data import default_collate  # noqa: E402


def sample(i: int, **more) -> dict:
    turns = [{"role": "user", "content": f"do {i}"}] * i
    rendered = {"messages": turns, "message_streams": ["low_level"] * i, "target_message_indices": list(range(i))}
    return {"index": i, "action": np.full(3, i, np.float32), "task": f"task {i}", **rendered, **more}


def equal(a, b) -> bool:
    """Same structure, types and values, for batches of tensors at any depth."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_turns_of_different_lengths_stay_lists_and_the_rest_becomes_tensors():
    batch = collate([sample(1), sample(3)])
    assert [len(m) for m in batch["messages"]] == [1, 3] and batch["messages"][1][0]["content"] == "do 3"
    assert batch["message_streams"] == [["low_level"], ["low_level"] * 3]
    assert batch["target_message_indices"] == [[0], [0, 1, 2]]
    assert batch["action"].shape == (2, 3) and batch["action"].dtype == torch.float32
    assert batch["index"].tolist() == [1, 3] and batch["task"] == ["task 1", "task 3"]


def test_raw_language_columns_stay_lists():
    rows = [{"role": "user", "content": None, "tool_calls": None}]  # torch's default fails on None
    batch = collate([{"x": 1.0, "language_persistent": rows, "language_events": []}] * 2)
    assert batch["language_persistent"] == [rows, rows] and batch["language_events"] == [[], []]
    assert equal(batch["x"], torch.tensor([1.0, 1.0], dtype=torch.float64))


def test_samples_that_are_none_are_left_out():
    assert collate([None, sample(2), None])["index"].tolist() == [2]
    assert equal(collate([None, torch.ones(2)]), torch.ones(1, 2))
    assert collate([None, None]) is None


@pytest.mark.parametrize(
    "batch",
    [
        [torch.ones(2), torch.zeros(2)],
        [1, 2],
        [{"a": torch.ones(2), "b": {"c": 1.5, "d": "x"}}, {"a": torch.zeros(2), "b": {"c": 2.5, "d": "y"}}],
        [(torch.ones(1), np.float32(3)), (torch.ones(1), np.float32(4))],
    ],
)
def test_without_turns_it_is_torchs_default(batch):
    assert equal(collate(batch), default_collate(batch))


def test_turns_alone_make_a_batch():
    only = {"messages": [], "message_streams": [], "target_message_indices": []}
    assert collate([only, only]) == {key: [[], []] for key in only}


@pytest.mark.parametrize("key", LIST_KEYS)
@pytest.mark.parametrize("first", [False, True])
def test_a_key_in_only_some_samples_is_an_error(key, first):
    have, lack = (
        sample(1, language_persistent=[], language_events=[]),
        sample(2, language_persistent=[], language_events=[]),
    )
    del lack[key]
    with pytest.raises(ValueError, match=f"{key} in every sample"):
        collate([lack, have] if first else [have, lack])
