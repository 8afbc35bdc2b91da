"""Labels as `subtask_index` on each frame, with the texts in meta/subtasks.parquet (LeRobot up to 0.5 reads these)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.dataset.episode import Episode
from tasks.dataset.layout import Dataset
from tasks.dataset.record_files import tasks_table
from tasks.errors import DatasetError
from tasks.interchange.additions import Additions
from tasks.interchange.form import FormOptions
from tasks.interchange.frame_index import check_texts, data_columns, frame_indices, read_texts, table_bytes
from tasks.interchange.labels import Found, from_indices, to_indices
from tasks.interchange.stored import EpisodeLabels

COLUMN = "subtask_index"
TEXTS_PATH = Path("meta/subtasks.parquet")


class SubtaskIndex:
    """The form, opened. Frames of -1, null or NaN have no label."""

    def __init__(self, texts: dict[int, str]) -> None:
        self._texts = texts
        self.choices = [f"{COLUMN} of the data shards, texts of {TEXTS_PATH} -> subtask"]

    @staticmethod
    def is_in(dataset: Dataset) -> bool:
        """Whether the data shards have the column."""
        return COLUMN in data_columns(dataset)

    @classmethod
    def open(cls, dataset: Dataset, episodes: Sequence[Episode], options: FormOptions) -> SubtaskIndex:
        """Read the texts. Raises DatasetError when the column or the table is missing."""
        if not cls.is_in(dataset):
            want = f"want column {COLUMN} in the data shards"
            raise DatasetError(want, f"columns {', '.join(data_columns(dataset))}", "give another --from")
        path = dataset.root / TEXTS_PATH
        if not path.is_file():
            want = f"want the texts of {COLUMN} in {TEXTS_PATH}"
            raise DatasetError(want, f"no such file in {dataset.root}", "restore it, or download the dataset again")
        return cls(read_texts(path, "subtask"))

    def read(self, episode: Episode) -> dict[str, Found]:
        """The episode's subtasks."""
        indices = frame_indices(episode, COLUMN)
        check_texts(indices, self._texts, episode, COLUMN, str(TEXTS_PATH))
        return {"subtask": from_indices(indices, self._texts)}


def additions(dataset: Dataset, episodes: Sequence[EpisodeLabels]) -> Additions:
    """The column, and the table of its texts in the order of their first use."""
    texts = dict.fromkeys(label.text for e in episodes for label in e.labels)
    index_of = {text: i for i, text in enumerate(texts)}  # loaders take row i of the table for index i
    column, table = COLUMN in data_columns(dataset), (dataset.root / TEXTS_PATH).exists()
    return Additions(
        column=COLUMN,
        values={e.episode.episode_index: to_indices(e.labels, e.episode.frames, index_of) for e in episodes},
        files={TEXTS_PATH: table_bytes(tasks_table(index_of, "subtask"))},
        present=f"{COLUMN if column else TEXTS_PATH} in {dataset.root}" if column or table else None,
    )
