"""What an export adds to a dataset, and the one commit that adds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.dataset.commit import begin
from tasks.dataset.layout import Dataset
from tasks.errors import DatasetError
from tasks.interchange.columns import FEATURE, write_with_column
from tasks.interchange.labels import NONE
from tasks.language.info import edit_info_text
from tasks.language.shard import Shard, read_shard
from tasks.write import INFO, PROVENANCE


@dataclass
class Additions:
    """One column of the data shards, files made anew, and entries of info.json."""

    column: str | None = None
    values: Mapping[int, np.ndarray] = field(default_factory=dict)  # episode_index -> int64 (frames,)
    files: dict[Path, bytes] = field(default_factory=dict)  # by path inside the dataset
    info: dict[str, Any] = field(default_factory=dict)  # top-level entries
    present: str | None = None  # what of it the dataset has already

    def check_new(self, *, replace: bool) -> None:
        """Raise DatasetError when the dataset has such labels already, unless they may be replaced."""
        if self.present and not replace:
            raise DatasetError(
                "want a dataset without labels of that form", self.present, "pass --replace to put new ones there"
            )


def add(dataset: Dataset, additions: Additions, *, output: Path | None, provenance: dict[str, Any]) -> Path:
    """Add all of it in place, or in a new dataset at `output`, or nothing. Raises DatasetError, CommitError.

    Call it under `lock_dataset` of the folder it writes.
    """
    shards = [read_shard(p, drop_subtask_index=False) for p in dataset.data_files] if additions.column else []
    files = [s.path.relative_to(dataset.root) for s in shards]
    edited = bool(additions.info or additions.column)
    replaced = [*files, *additions.files, PROVENANCE, *([INFO] if edited else [])]
    with begin(dataset.root, output, replaced) as transaction:
        for shard, path in zip(shards, files, strict=True):
            values = _values(shard, additions.values)
            write_with_column(shard.path, transaction.path(path), additions.column or "", values)
        for path, data in additions.files.items():
            transaction.write(path, data)
        if edited:
            text = (dataset.root / INFO).read_text(encoding="utf-8")
            transaction.write(INFO, edit_info_text(text, lambda info: _edited(info, additions)).encode())
        transaction.write(PROVENANCE, (json.dumps(provenance, indent=2, ensure_ascii=False) + "\n").encode())
        return transaction.commit()


def _values(shard: Shard, by_episode: Mapping[int, np.ndarray]) -> np.ndarray:
    values = np.full(shard.runs[-1].stop if shard.runs else 0, NONE, dtype=np.int64)
    for run in shard.runs:
        values[run.start : run.stop] = by_episode.get(run.episode, NONE)
    return values


def _edited(info: dict[str, Any], additions: Additions) -> dict[str, Any]:
    features = dict(info.get("features") or {})
    if additions.column:
        features[additions.column] = FEATURE
    return {**info, **additions.info, "features": features}
