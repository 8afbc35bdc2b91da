"""Samples with chat turns made into a batch: turns stay lists, everything else becomes tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.errors import BatchError
from tasks.language.styles import EVENTS, PERSISTENT

LIST_KEYS = ("messages", "message_streams", "target_message_indices", PERSISTENT, EVENTS)


def collate(batch: Sequence[Any]) -> Any:
    """A batch of samples without those that are None; None when all are. The `collate_fn` of a torch DataLoader.

    Rendered turns and raw language columns become lists with one entry a sample; all else is torch's own default.
    Raises BatchError (a ValueError) when only some of the samples have such a key. Needs torch.
    """
    from torch.utils.data import default_collate

    kept = [sample for sample in batch if sample is not None]
    if not kept:
        return None
    if not all(isinstance(sample, Mapping) for sample in kept):
        return default_collate(kept)
    lists = {key: _entries(kept, key) for key in LIST_KEYS if any(key in sample for sample in kept)}
    if not lists:
        return default_collate(kept)
    rest = [{key: value for key, value in sample.items() if key not in lists} for sample in kept]
    return (default_collate(rest) if rest[0] else {}) | lists


def _entries(samples: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    missing = [i for i, sample in enumerate(samples) if key not in sample]
    if missing:
        got = f"none in {len(missing)} of {len(samples)}, first in sample {missing[0]} of those kept"
        raise BatchError(f"want {key} in every sample of a batch or in none", got, "render all samples by one recipe")
    return [sample[key] for sample in samples]
