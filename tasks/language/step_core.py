"""A loader's samples, one or a batch: their language columns replaced by rendered chat messages.

Samples are LeRobot's transitions, plain nested mappings. Neither torch nor LeRobot is imported here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tasks.errors import BatchError, MissingFieldError, SettingsError
from tasks.language.batch_fields import cut, number, of_sample
from tasks.language.epoch import SharedEpoch
from tasks.language.loader_rows import LoaderTables
from tasks.language.recipe import Recipe, load_recipe
from tasks.language.render import Renderer, Sample, task_alone
from tasks.language.resolve import nearest_frame, rows_of, scalar
from tasks.language.styles import EVENTS, PERSISTENT

DATA = "complementary_data"  # where a transition keeps all but observation, action, reward and their like
TASK, TIME, FRAME, EPISODE, INDEX = "task", "timestamp", "frame_index", "episode_index", "index"
COLUMNS = (PERSISTENT, EVENTS)
SAMPLE_KEYS = tuple(Sample.__annotations__)

log = logging.getLogger(__name__)

Transition = Mapping[Any, Any]


class MessageRenderer:
    """Renders transitions by a recipe that is loaded and compiled once."""

    def __init__(
        self,
        recipe: Recipe | Mapping[str, Any] | Path | str,
        *,
        context: Any = None,
        fps: float | None = None,
        cameras: Sequence[str] | None = None,
        seed: int = 0,
        on_ambiguous: Literal["raise", "skip"] = "raise",
        task_override: str | None = None,
    ) -> None:
        """`fps`, `cameras` and a task for samples without one come from `context` where they are not given: a
        LeRobotDataset, its metadata, or a mapping with `fps`, `camera_keys`, `task`. `task_override` stands for every
        sample's task and its rephrasings. Raises RecipeError, and SettingsError when there is no fps."""
        self.recipe = load_recipe(recipe)
        self.fps = _checked_fps(_from_context(context, "fps") if fps is None else fps)
        self.cameras = tuple((_from_context(context, "camera_keys") or ()) if cameras is None else cameras)
        self.epoch = SharedEpoch()
        self._tables = LoaderTables(self.fps)
        self._task, self._override = _from_context(context, TASK), task_override
        self._renderer = Renderer(self.recipe, cameras=self.cameras, seed=seed, on_ambiguous=on_ambiguous)
        self._warned = False

    def __call__(self, transition: Transition) -> Transition | None:
        """The transition with messages instead of rows; None when nothing of it can be rendered.

        A batch (one list of rows a sample) is cut, in all its fields, to the samples that render. Where there are no
        rows, or none that the recipe can use, the policy is asked for the bare task. Raises MissingFieldError without
        `timestamp`, BatchError when fields disagree on the number of samples, AmbiguousRowsError.
        """
        data = transition.get(DATA) or {}
        persistent, events = (data.get(column) for column in COLUMNS)
        if _is_empty(persistent) and _is_empty(events):
            return self._without_rows(transition, data)
        if _is_batch(persistent) or _is_batch(events):
            return self._batch(transition, data)
        sample = self._sample(data)
        return None if sample is None else {**transition, DATA: {**_without_columns(data), **sample}}

    def _batch(self, transition: Transition, data: Mapping[str, Any]) -> Transition | None:
        size = _batch_size(data)
        fields = {key: data[key] for key in (*COLUMNS, TIME, FRAME, EPISODE, INDEX, TASK) if data.get(key) is not None}
        samples = {
            i: sample
            for i in range(size)
            if (sample := self._sample({key: of_sample(v, i, size, key) for key, v in fields.items()})) is not None
        }
        keep = list(samples)
        others = {key: cut(value, keep, size, key) for key, value in transition.items() if key != DATA}
        rest = cut(_without_columns(data), keep, size, DATA)
        return {**others, DATA: {**rest, **_columns(samples.values())}} if samples else None

    def _sample(self, data: Mapping[str, Any]) -> Sample | None:
        """One sample's messages; its bare task where the recipe has nothing to say at this frame."""
        if data.get(TIME) is None:
            remedy = "keep the dataset's timestamp column beside the language columns"
            raise MissingFieldError("want timestamp in a sample with language rows", "none", remedy)
        time_s = number(data[TIME], TIME)
        frame = nearest_frame(time_s, self.fps) if data.get(FRAME) is None else int(number(data[FRAME], FRAME))
        # Where no episode is known its index in the dataset stands in, so that draws still differ between episodes.
        identity = INDEX if data.get(EPISODE) is None else EPISODE
        episode = 0 if data.get(identity) is None else int(number(data[identity], identity))
        table = self._tables.at(frame, episode, data.get(PERSISTENT), rows_of(data.get(EVENTS), time_s))
        task = self._task_of(data.get(TASK))
        sample = self._renderer.render(
            table, frame, episode=episode, epoch=self.epoch.number, task=task, task_override=self._override
        )
        return self._bare(task) if sample is None else sample

    def _without_rows(self, transition: Transition, data: Mapping[str, Any]) -> Transition | None:
        """The bare task; the transition as it is when there is no task, or when it has messages already."""
        given = data.get(TASK)
        is_batch = isinstance(given, list | tuple) and len(given) > 0
        if "messages" in data:
            return transition
        if not is_batch:
            sample = self._bare(self._task_of(given or None))
            return transition if sample is None else {**transition, DATA: {**_without_columns(data), **sample}}
        self._warn_of_lost_columns(data)
        samples = [self._bare(self._task_of(task)) for task in given]
        if not any(samples):
            return None
        if not all(samples):
            got = f"none in {samples.count(None)} of {len(samples)}"
            remedy = "give every episode a task, or none"
            raise BatchError("want a task in every sample of a batch without language rows", got, remedy)
        return {**transition, DATA: {**_without_columns(data), **_columns(s for s in samples if s)}}

    def _task_of(self, given: Any) -> str | None:
        """The dataset's task for a sample; None when there is none or it is blank."""
        task = self._task if given is None else scalar(given)
        return task if isinstance(task, str) and task.strip() else None

    def _bare(self, task: str | None) -> Sample | None:
        """Act on the task, say nothing."""
        text = task if self._override is None else self._override
        return None if text is None else task_alone(text)

    def _warn_of_lost_columns(self, data: Mapping[str, Any]) -> None:
        """Say it once when a dataset's batch (it has times) has no language columns at all."""
        if self._warned or TIME not in data or any(column in data for column in COLUMNS):
            return
        self._warned = True
        log.warning(
            "a batch has no language columns, so its samples ask for the bare task; LeRobot 0.6's lerobot_collate_fn "
            "drops them: use tasks.language.collate.collate, or render each sample before it is collated"
        )


def _columns(samples: Any) -> dict[str, list[Any]]:
    """Samples as a batch: one list a key."""
    samples = list(samples)
    return {key: [sample[key] for sample in samples] for key in SAMPLE_KEYS}


def _without_columns(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in COLUMNS}


def _is_empty(column: Any) -> bool:
    return column is None or len(column) == 0


def _is_batch(column: Any) -> bool:
    """Whether a column holds lists of rows, not rows."""
    return column is not None and any(isinstance(item, list | tuple) for item in column)


def _batch_size(data: Mapping[str, Any]) -> int:
    """Samples in a batch. Raises BatchError when the columns disagree, or one holds rows of one sample."""
    sizes = {column: len(data[column]) for column in COLUMNS if data.get(column) is not None}
    loose = [column for column in sizes if any(isinstance(item, Mapping) for item in data[column])]
    if loose or len(set(sizes.values())) > 1:
        got = f"rows in {loose[0]}" if loose else ", ".join(f"{size} in {column}" for column, size in sizes.items())
        raise BatchError("want one list of rows a sample in both language columns", got, "collate both the same way")
    return next(iter(sizes.values()))


def _from_context(context: Any, name: str) -> Any:
    """A key or attribute of the context, or of its `meta`; None where there is none."""
    for holder in (context, getattr(context, "meta", None)):
        value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
        if value is not None:
            return value
    return None


def _checked_fps(given: Any) -> float:
    if isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given) and given > 0:
        return float(given)
    remedy = "pass fps=…, or the dataset's metadata, which has it"
    raise SettingsError("want the dataset's frames per second, to place rows on frames", repr(given), remedy)
