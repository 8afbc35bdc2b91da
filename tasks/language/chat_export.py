"""Rendered samples as chat JSON lines with pictures, to fine-tune a vision-language model on.

Frames are rendered first; only pictures that samples show are decoded, one episode after the other.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tasks.dataset.episode import Episode
from tasks.dataset.layout import Dataset, open_dataset
from tasks.errors import DatasetError, RecipeError, SettingsError, VideoError
from tasks.language.chat_card import cards
from tasks.language.chat_folder import ChatFolder, Part, finished_summary, open_folder, same_settings
from tasks.language.chat_forms import chat_lines, picture_blocks
from tasks.language.chat_images import Album, PictureRef
from tasks.language.chat_options import ChatOptions
from tasks.language.narrow import narrowed
from tasks.language.rates import moments as moments_of
from tasks.language.recipe import Recipe, load_recipe
from tasks.language.render import NOTHING, Renderer, Sample
from tasks.language.resolve import EpisodeTable
from tasks.language.row_store import RowStore, open_rows

NO_TARGET = "no target"  # counted where a sample has no words to learn
FORMAT = 1  # of the files; a killed export of another one begins anew
Progress = Callable[[int, int, int], None]  # episodes done, of so many, samples so far


@dataclass(frozen=True)
class ChatExport:
    """What an export wrote."""

    output: Path
    samples: dict[str, int]  # lines by file name without .jsonl
    components: dict[str, int]  # samples by component
    left_out: dict[str, int]  # frames without a sample, by reason
    images: int
    episodes: int  # with at least one sample
    resumed: int = 0  # episodes taken over from a killed export
    failures: list[tuple[int, str]] = field(default_factory=list)  # episodes left out: index, why
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "output": str(self.output)}


@dataclass(frozen=True)
class _Job:
    """What all episodes share."""

    dataset: Dataset
    rows: RowStore
    positions: dict[int, int]  # of the wanted episodes in the rows, by index
    renderer: Renderer
    album: Album
    options: ChatOptions


def export_chat(
    root: Path | str | Dataset | RowStore,
    recipe: Recipe | Mapping[str, Any] | Path | str,
    output: Path,
    options: ChatOptions | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> ChatExport:
    """Write the samples of an annotated dataset (or of rows opened before, such as a view's) into the new folder
    `output`: train.jsonl (or the names of `options.split`), images/, README.md and export.json.

    A killed export goes on when it is called again alike. An output that is there already is refused, unless
    `overwrite`, or `resume` and it was made of the same settings. Episodes whose video cannot be read are left out and
    named in the result. Raises SettingsError, RecipeError, DatasetError, DatasetBusyError or CommitError.
    """
    options = options or ChatOptions()
    dataset = (
        root.dataset if isinstance(root, RowStore) else root if isinstance(root, Dataset) else open_dataset(Path(root))
    )
    output = Path(output).expanduser().absolute()
    _check_apart(dataset.root, output)
    recipe = _chosen(load_recipe(recipe), dataset, options)
    settings = {
        "format": FORMAT,
        "dataset": _identity(dataset),
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "options": asdict(options),
    }
    if resume and (done := finished_summary(output)) is not None and same_settings(done, settings):
        return _read_back(output, done)
    renderer = Renderer(
        recipe,
        cameras=dataset.cameras,
        seed=options.seed,
        on_ambiguous="skip" if options.skip_ambiguous else "raise",
    )
    rows = root if isinstance(root, RowStore) else open_rows(dataset)
    wanted = rows.episode_indices if options.episodes is None else sorted(set(options.episodes))
    positions = {index: rows.position(index) for index in wanted}
    job = _Job(dataset, rows, positions, renderer, Album(dataset, options.still), options)
    with open_folder(output, settings, overwrite=overwrite) as folder:
        return _export(job, folder, progress)


def _chosen(recipe: Recipe, dataset: Dataset, options: ChatOptions) -> Recipe:
    """The recipe with the components that are wanted; those that never say anything to learn take no part in draws."""
    if options.components:
        recipe = narrowed(recipe, dataset.cameras, options.components)
    if not options.only_targets:
        return recipe
    blend = recipe.blend or {}
    parts = list(blend.values()) or [recipe]
    teaching = [any(turn.target for turn in part.messages or ()) for part in parts]
    if not any(teaching):
        remedy = "set target: true on a turn, or export samples without words to learn as well (--no-only_targets)"
        raise RecipeError("want a turn with target: true", "a recipe that teaches actions only", remedy)
    if not blend:
        return recipe
    return Recipe(blend={name: blend[name] for name, teaches in zip(blend, teaching, strict=True) if teaches})


@dataclass
class _Tally:
    """What the episodes so far came to."""

    files: dict[str, list[str]]
    counts: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    images: int = 0
    episodes: int = 0
    resumed: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, file: str, part: Part) -> None:
        """One more episode."""
        self.files[file] += part.lines
        self.counts.update(part.counts)
        self.samples += part.samples
        self.images += len(part.images)
        self.episodes += bool(part.lines)


def _export(job: _Job, folder: ChatFolder, progress: Progress | None) -> ChatExport:
    began = time.monotonic()
    episodes = job.dataset.episodes(list(job.positions))
    tally = _Tally({f"{name}.jsonl": [] for name in job.options.split})
    for done, episode in enumerate(episodes, 1):
        left = None if job.options.limit is None else job.options.limit - tally.samples
        if left == 0:
            break
        _take(job, folder, episode, left, tally)
        if progress is not None:
            progress(done, len(episodes), tally.samples)
    result = ChatExport(
        folder.output,
        samples={name.removesuffix(".jsonl"): len(lines) for name, lines in tally.files.items()},
        components={name: tally.counts[name] for name in job.renderer.names},
        left_out={reason: tally.counts[reason] for reason in (NOTHING, NO_TARGET)},
        images=tally.images,
        episodes=tally.episodes,
        resumed=tally.resumed,
        failures=tally.failures,
        seconds=round(time.monotonic() - began, 3),
    )
    if not tally.samples:
        folder.discard()
        want = f"want at least one sample from {job.dataset.root}"
        raise DatasetError(want, _why_nothing(result), "see `annotate preview`")
    folder.finish(tally.files, cards(job.options.form, result.samples), {**result.to_json(), "resumed": 0})
    return result


def _take(job: _Job, folder: ChatFolder, episode: Episode, limit: int | None, tally: _Tally) -> None:
    """Add an episode to the tally, made now or finished before; one whose video cannot be read is left out."""
    index = episode.episode_index
    part = folder.part(index)
    if part is not None:
        tally.resumed += 1
    else:
        try:
            part = _make_part(job, folder, episode, limit)
        except VideoError as err:
            folder.forget(index)
            tally.failures.append((index, str(err)))
            return
        folder.finish_part(index, part)
    tally.add(f"{job.options.part_of(index)}.jsonl", part)


def _make_part(job: _Job, folder: ChatFolder, episode: Episode, limit: int | None) -> Part:
    """Render one episode's samples, then write their pictures."""
    part, counts = Part(), Counter[str]()
    files: dict[PictureRef, str] = {}
    for frame, component, sample in _samples(job, episode, counts):
        shown = [job.album.ref(block, frame) for block in picture_blocks(sample)]
        files |= {ref: job.album.file(episode.episode_index, ref) for ref in shown}
        facts = {
            "episode_index": episode.episode_index,
            "frame_index": frame,
            "timestamp": episode.times[frame],
            "component": component,
        }
        lines = chat_lines(job.options.form, sample, [files[ref] for ref in shown], facts)
        part.lines += [json.dumps(line, ensure_ascii=False) for line in lines]
        part.samples += 1
        counts[component] += 1
        if part.samples == limit:
            break
    job.album.write(folder.partial, episode, list(files))
    part.images, part.counts = list(files.values()), dict(counts)
    return part


def _samples(job: _Job, episode: Episode, counts: Counter[str]) -> Iterator[tuple[int, str, Sample]]:
    """(frame, component, sample) of an episode; frames that give none are counted."""
    options, index = job.options, episode.episode_index
    table, task = job.rows.table(job.positions[index]), job.rows.task(job.positions[index])
    for frame in wanted_frames(table, episode.frames, options.stride(episode.fps), options.moments):
        named = job.renderer.render_named(table, frame, episode=index, epoch=options.epoch, task=task)
        if named is None:
            counts[NOTHING] += 1
        elif options.only_targets and not named[1]["target_message_indices"]:
            counts[NO_TARGET] += 1
        else:
            yield frame, *named


def wanted_frames(table: EpisodeTable, frames: int, stride: int, moments: bool) -> list[int]:
    """Every `stride`-th frame, and with `moments` each on which a state begins or something is asked or said."""
    every = range(0, frames, stride)
    if not moments:
        return list(every)
    return sorted({*every, *(f for f in moments_of(table) if 0 <= f < frames)})


def _check_apart(root: Path, output: Path) -> None:
    """An export inside a dataset would become part of it, and one around it could replace it."""
    here, there = root.resolve(), output.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise SettingsError("want an output outside the dataset", str(output), "name a folder beside it")


def _identity(dataset: Dataset) -> dict[str, str]:
    """Where a dataset lies, and a digest of its files' names, sizes and times."""
    digest = blake2b(digest_size=8)
    for path in sorted([*dataset.data_files, *(dataset.root / "meta").rglob("*")]):
        stat = os.stat(path)
        if path.is_file():
            digest.update(f"{path.relative_to(dataset.root)}:{stat.st_size}:{stat.st_mtime_ns}\n".encode())
    return {"root": str(dataset.root.resolve()), "files": digest.hexdigest()}


def _read_back(output: Path, summary: Mapping[str, Any]) -> ChatExport:
    names = [f for f in ChatExport.__dataclass_fields__ if f != "output"]
    given = {name: summary[name] for name in names}
    failures = [(index, why) for index, why in given.pop("failures")]
    return ChatExport(output, **given, failures=failures)


def _why_nothing(result: ChatExport) -> str:
    if result.failures:
        return f"none: {len(result.failures)} episodes failed, the first: {result.failures[0][1]}"
    return (
        f"none: no component can render on {result.left_out[NOTHING]} frames, {result.left_out[NO_TARGET]} say nothing"
    )
