"""Labels as `annotation.*` on each frame: indices into meta/tasks.parquet (the GR00T flavour of LeRobot datasets).

What a column means is in its name only: `annotation.human.action.task_description` says what is being done,
`annotation.human.validity` whether the frame may be used. The latter points into the tasks too, yet is no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.dataset.episode import Episode
from tasks.dataset.episodes import TASKS_PATH
from tasks.dataset.layout import Dataset
from tasks.dataset.record_files import tasks_table
from tasks.dataset.shards import open_parquet, read_columns
from tasks.errors import DatasetError, RowError, SettingsError
from tasks.interchange.additions import Additions
from tasks.interchange.form import FormOptions
from tasks.interchange.frame_index import (
    check_texts,
    data_columns,
    frame_indices,
    frame_values,
    read_texts,
    table_bytes,
    text_column,
)
from tasks.interchange.labels import NONE, Found, from_indices, to_indices
from tasks.interchange.stored import EpisodeLabels
from tasks.language.styles import PERSISTENT, style, styles

PREFIX = "annotation."
VALIDITY = ("valid", "validity")
DESCRIPTION = f"{PREFIX}human.action.task_description"  # where GR00T's own datasets say what is being done
MAP_EXAMPLE = f"--gr00t.map={DESCRIPTION}=subtask"


class Gr00t:
    """The form, opened: which column becomes which style."""

    def __init__(self, reader: _Reader, columns: Mapping[str, str], choices: Sequence[str], *, chosen: bool) -> None:
        self.columns, self.choices = dict(columns), list(choices)
        self._reader, self._chosen = reader, chosen

    @staticmethod
    def is_in(dataset: Dataset) -> bool:
        """Whether the data shards have columns of that name that may hold texts."""
        return bool(_text_columns(dataset))

    @classmethod
    def open(cls, dataset: Dataset, episodes: Sequence[Episode], options: FormOptions) -> Gr00t:
        """Take the map, or choose by what the columns say. Raises SettingsError, DatasetError."""
        reader = _Reader(dataset)
        if options.gr00t_map is not None:
            columns = parse_map(options.gr00t_map, _columns(dataset))
            return cls(reader, columns, [f"{c} -> {s}" for c, s in columns.items()], chosen=False)
        columns, choices = _choose(reader, dataset, episodes)
        return cls(reader, columns, choices, chosen=True)

    def read(self, episode: Episode) -> dict[str, Found]:
        """Labels by style. A column that was not asked for and repeats the task of an episode says nothing of it."""
        found: dict[str, Found] = {}
        for column, name in self.columns.items():
            here = self._reader.read(episode, column)
            if self._chosen and _repeats_task(here, episode):
                continue
            labels = found[name].labels + here.labels if name in found else here.labels
            found[name] = Found(labels, here.unlabelled)
        return found


class _Reader:
    """Columns of indices, or of texts, by episode."""

    def __init__(self, dataset: Dataset) -> None:
        self._path = dataset.root / TASKS_PATH
        self._texts: dict[int, str] | None = None

    def read(self, episode: Episode, column: str) -> Found:
        """The labels that a column gives an episode."""
        schema = open_parquet(episode.data_path).schema_arrow
        if column in schema.names and _is_text(schema.field(column).type):
            words = pc.utf8_trim_whitespace(frame_values(episode, column).cast(pa.string())).dictionary_encode()
            texts = dict(enumerate(words.dictionary.to_pylist()))
            indices = pc.fill_null(words.indices, NONE).to_numpy(zero_copy_only=False).astype(np.int64)
            indices[np.isin(indices, [i for i, text in texts.items() if not text])] = NONE
            return from_indices(indices, texts)
        indices = frame_indices(episode, column)
        check_texts(indices, self.texts, episode, column, TASKS_PATH)
        return from_indices(indices, self.texts)

    @property
    def texts(self) -> dict[int, str]:
        """The dataset's tasks, read once."""
        if self._texts is None:
            if not self._path.is_file():
                want = f"want the texts of {PREFIX}* in {TASKS_PATH}"
                raise DatasetError(want, f"no {self._path}", "restore it, or download the dataset again")
            self._texts = read_texts(self._path, "task")
        return self._texts


def parse_map(text: str, columns: Sequence[str]) -> dict[str, str]:
    """`COLUMN=STYLE,…` to a mapping. Raises SettingsError with the nearest column where one is unknown."""
    chosen: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        column, equals, name = (p.strip() for p in part.rpartition("="))
        if not equals or not column or not name:
            raise SettingsError("want COLUMN=STYLE,… as --gr00t.map", repr(part), f"for example {MAP_EXAMPLE}")
        if column not in columns:
            near = get_close_matches(column, columns, n=1, cutoff=0.0)
            remedy = f"did you mean {near[0]}?" if near else "the dataset has no such columns; give another --from"
            raise SettingsError(f"want a column {PREFIX}* of the data shards in --gr00t.map", column, remedy)
        if column in chosen:
            raise SettingsError("want each column once in --gr00t.map", column, "name one style for it")
        chosen[column] = _persistent(name)
    if not chosen:
        raise SettingsError("want a column in --gr00t.map", repr(text), f"for example {MAP_EXAMPLE}")
    for name in sorted(set(chosen.values()) - {"task_aug"}):
        twice = [c for c, s in chosen.items() if s == name]
        if len(twice) > 1:
            raise SettingsError(f"want one column for the style {name}", ", ".join(twice), "leave one out")
    return chosen


def _persistent(name: str) -> str:
    known = ", ".join(s.name for s in styles() if s.column == PERSISTENT)
    try:
        kind = style(name)
    except RowError as err:
        raise SettingsError("want a style in --gr00t.map", err.got, f"use one of {known}") from err
    if kind.column != PERSISTENT:
        raise SettingsError("want a style that holds over time in --gr00t.map", name, f"use one of {known}")
    return name


def _columns(dataset: Dataset) -> list[str]:
    return [c for c in data_columns(dataset) if c.startswith(PREFIX)]


def _text_columns(dataset: Dataset) -> list[str]:
    return [c for c in _columns(dataset) if not set(c.casefold().split(".")) & set(VALIDITY)]


def _choose(reader: _Reader, dataset: Dataset, episodes: Sequence[Episode]) -> tuple[dict[str, str], list[str]]:
    """The column that says most beyond the task, and a sentence about each."""
    spans: dict[str, int] = {}
    texts = _text_columns(dataset)
    said = [f"{c} is skipped: it says which frames are valid" for c in _columns(dataset) if c not in texts]
    for column in texts:
        try:
            found = [(e, reader.read(e, column)) for e in episodes]
        except DatasetError as err:
            said.append(f"{column} is skipped: {err.wanted}, got {err.got}")
            continue
        spans[column] = sum(len(f.labels) for e, f in found if not _repeats_task(f, e))
        if not spans[column]:
            said.append(f"{column} is skipped: it only repeats the task of each episode")
    best = max(spans, key=lambda c: spans[c], default=None)
    if best is None or not spans[best]:
        got = "; ".join(said) or f"no column {PREFIX}*"
        raise DatasetError(f"want a column {PREFIX}* that says more than the task", got, f"name one: {MAP_EXAMPLE}")
    others = [f"{c} is not imported; add {c}=STYLE to --gr00t.map" for c, n in spans.items() if n and c != best]
    return {best: "subtask"}, [f"{best} -> subtask", *others, *said]


def _repeats_task(found: Found, episode: Episode) -> bool:
    return not found.labels or (len(found.labels) == 1 and found.labels[0].text == episode.task.strip())


def _is_text(kind: pa.DataType) -> bool:
    while hasattr(kind, "value_type"):  # lists, and texts as a dictionary
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def additions(dataset: Dataset, episodes: Sequence[EpisodeLabels], column: str) -> Additions:
    """The column, and the tasks table with the texts it lacks. A frame without a label keeps its own task."""
    if not column.startswith(PREFIX):
        raise SettingsError(
            f"want a column name that begins with {PREFIX}", column, f"say --gr00t.column={DESCRIPTION}"
        )
    path = dataset.root / TASKS_PATH
    known = read_texts(path, "task") if path.is_file() else {}
    index_of = {text: i for i, text in reversed(known.items()) if text}
    new: dict[str, int] = {}
    for text in dict.fromkeys(label.text for e in episodes for label in e.labels):
        if text not in index_of:
            new[text] = index_of[text] = max([NONE, *known, *new.values()]) + 1
    return Additions(
        column=column,
        values={e.episode.episode_index: _values(dataset, e, index_of) for e in episodes},
        files={Path(TASKS_PATH): table_bytes(_extended(path, new))},
        info={"total_tasks": len(known) + len(new)},
        present=f"{column} in {dataset.root}" if column in data_columns(dataset) else None,
    )


def _values(dataset: Dataset, episode: EpisodeLabels, index_of: Mapping[str, int]) -> np.ndarray:
    values = to_indices(episode.labels, episode.episode.frames, index_of)
    if (values == NONE).any() and "task_index" in data_columns(dataset):
        tasks = dataset.columns(episode.episode, ["task_index"])["task_index"].reshape(-1)
        values = np.where(values == NONE, tasks, values).astype(np.int64)
    return values


def _extended(path: Path, new: Mapping[str, int]) -> pa.Table:
    """The tasks table with more rows, otherwise as it was."""
    if not path.is_file():
        return tasks_table(new)
    file = open_parquet(path)
    table = read_columns(file, path, file.schema_arrow.names)
    text = text_column(table.schema, "task")
    given = {"task_index": list(new.values()), text: list(new)}
    arrays = [pa.array(given.get(f.name, [None] * len(new)), f.type) for f in table.schema]
    return pa.concat_tables([table, pa.Table.from_arrays(arrays, schema=table.schema)])
