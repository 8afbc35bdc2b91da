"""The fields of one batch: one sample's share of each, only some samples of all, plain numbers out of any array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.errors import BatchError
from tasks.language.resolve import scalar


def cut(value: Any, keep: list[int], size: int, name: str) -> Any:
    """Only the samples to keep, of a batch's array, list, or mapping of such; a scalar or text belongs to them all.

    An array is whatever has a `shape` and can be indexed by a list. Raises BatchError when an array or list has another
    length than the batch, even where all samples are kept.
    """
    if isinstance(value, Mapping):
        return {key: cut(item, keep, size, f"{name}.{key}") for key, item in value.items()}
    if not _is_divided(value, size, name) or len(keep) == size:
        return value
    return type(value)(value[i] for i in keep) if isinstance(value, list | tuple) else value[keep]


def of_sample(value: Any, i: int, size: int, name: str) -> Any:
    """A batch's field for one sample. Raises BatchError as `cut` does."""
    return value[i] if _is_divided(value, size, name) else value


def _is_divided(value: Any, size: int, name: str) -> bool:
    """Whether a field has an entry a sample; not so a scalar, a text, or anything unknown."""
    if isinstance(value, list | tuple):
        length = len(value)
    elif getattr(value, "shape", None):
        length = int(value.shape[0])
    else:
        return False
    if length != size:
        raise BatchError(f"want {size} entries in {name}", str(length), "collate every field with one entry a sample")
    return True


def number(value: Any, name: str) -> int | float:
    """A plain number: of a Python, NumPy or torch scalar, or of a list or array of one. Raises BatchError."""
    try:
        plain = value.item() if hasattr(value, "item") else scalar(value)
    except (ValueError, RuntimeError) as err:  # several entries
        remedy = "collate the language columns too, or neither"
        raise BatchError(f"want one number as {name}", f"{value!r}"[:80], remedy) from err
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise BatchError(f"want a number as {name}", f"{plain!r}"[:80], "pass the dataset's own column")
    return plain
