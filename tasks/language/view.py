"""An annotated dataset as training sees it: one rendered sample a frame, without pictures."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.dataset.layout import Dataset
from tasks.errors import SettingsError
from tasks.language.epoch import SharedEpoch
from tasks.language.recent import Recent
from tasks.language.recipe import Recipe, load_recipe
from tasks.language.render import Renderer, task_alone
from tasks.language.row_file import Progress
from tasks.language.row_store import open_rows

COLUMNS_HELD_MAX_BYTES = 64 << 20  # of numeric columns, in each process
SAMPLE_KEYS = ("episode_index", "frame_index", "index", "timestamp", "task")  # in every sample
NUMERIC = ("float", "int", "uint", "bool")  # how dtypes begin whose columns can be asked for

Columns = dict[str, np.ndarray]


class LanguageDataset:
    """Frames of the chosen episodes, episodes ascending, frames ascending. Works as a map-style dataset of torch.

    A sample is a dict of `episode_index`, `frame_index`, `index` (ints), `timestamp` (seconds), `task` (the dataset's,
    "" when it has none), the columns asked for (arrays of one frame), and `messages`, `message_streams`,
    `target_message_indices`. Where nothing renders, the task alone is the sample's only message; without a task the
    sample is None, which `collate` leaves out.
    """

    def __init__(
        self,
        root: Dataset | Path | str,
        recipe: Recipe | Mapping[str, Any] | Path | str,
        *,
        episodes: Sequence[int] | None = None,
        columns: Sequence[str] = (),
        seed: int = 0,
        on_ambiguous: Literal["raise", "skip"] = "raise",
        cache_dir: Path | str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`episodes`: their indices, all by default. `columns`: numeric features such as `action`.

        The first opening reads the dataset once, see `open_rows`. Raises DatasetError, SettingsError, RecipeError.
        """
        recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        self.rows = open_rows(root, cache_dir=cache_dir, progress=progress)
        self._columns = _checked(columns, self.rows.dataset)
        self._renderer = Renderer(recipe, cameras=self.rows.dataset.cameras, seed=seed, on_ambiguous=on_ambiguous)
        if episodes is not None and not len(episodes):
            raise SettingsError("want at least one episode", "an empty list", "name some, or leave `episodes` out")
        chosen = self.rows.episode_indices if episodes is None else sorted(set(map(int, episodes)))
        self._positions = [self.rows.position(episode) for episode in chosen]
        self._chosen = frozenset(self._positions)
        *self._starts, self._frames = accumulate(map(self.rows.frames, self._positions), initial=0)
        self._held: Recent[int, Columns] = Recent(COLUMNS_HELD_MAX_BYTES)
        self._epoch = SharedEpoch()

    def __len__(self) -> int:
        """How many frames."""
        return self._frames

    def __getitem__(self, i: int) -> dict[str, Any] | None:
        """The sample of the i-th frame, counted from the end when negative. Raises IndexError outside."""
        i = operator.index(i)
        at = i + len(self) if i < 0 else i
        if not 0 <= at < len(self):
            raise IndexError(f"want a frame below {len(self)}, got {i}")
        nth = bisect_right(self._starts, at) - 1
        return self._sample(self._positions[nth], at - self._starts[nth], self.epoch)

    def sample(self, episode_index: int, frame: int, epoch: int | None = None) -> dict[str, Any] | None:
        """The sample of a frame by its 0-based position in an episode, as drawn in an epoch (by default the one set).

        Raises SettingsError when the episode is not in this view, IndexError when it has no such frame.
        """
        position = self.rows.position(episode_index)
        if position not in self._chosen:
            raise SettingsError("want an episode of this view", f"{episode_index}", "name it in `episodes`")
        if not 0 <= frame < self.rows.frames(position):
            raise IndexError(f"want a frame below {self.rows.frames(position)}, got {frame}")
        return self._sample(position, frame, self.epoch if epoch is None else epoch)

    @property
    def epoch(self) -> int:
        """The epoch whose draws are rendered."""
        return self._epoch.number

    def set_epoch(self, number: int) -> None:
        """Draw anew: other components and rephrasings. Reaches worker processes that already run."""
        self._epoch.number = operator.index(number)

    def _sample(self, position: int, frame: int, epoch: int) -> dict[str, Any] | None:
        rows = self.rows
        episode_index, task = rows.episode_indices[position], rows.task(position)
        rendered = self._renderer.render(
            rows.table(position), frame, episode=episode_index, epoch=epoch, task=task or None
        )
        if rendered is None:
            if not task:
                return None
            rendered = task_alone(task)
        frame_index, index, timestamp = rows.numbers(position, frame)
        sample: dict[str, Any] = {
            "episode_index": episode_index,
            "frame_index": frame_index,
            "index": index,
            "timestamp": timestamp,
            "task": task,
        }
        if self._columns:
            columns = self._held.get(position, self._read_columns)
            sample.update((name, np.array(values[frame])) for name, values in columns.items())
        sample.update(rendered)
        return sample

    def _read_columns(self, position: int) -> tuple[Columns, int]:
        read = self.rows.dataset.columns(self.rows.episode(position), self._columns)
        columns = {name: np.array(values) for name, values in read.items()}  # not views of a whole shard's column
        return columns, sum(values.nbytes for values in columns.values())


def _checked(columns: Sequence[str], dataset: Dataset) -> tuple[str, ...]:
    features = dataset.info.features
    numeric = [
        name
        for name, feature in features.items()
        if str(feature.get("dtype")).startswith(NUMERIC) and name not in SAMPLE_KEYS
    ]
    for name in columns:
        if name not in numeric:
            got = f"{name!r}" + (", which is in every sample" if name in SAMPLE_KEYS else "")
            raise SettingsError(f"want columns of {', '.join(numeric)}", got, "name numeric features")
    return tuple(dict.fromkeys(columns))
