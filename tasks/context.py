"""What the phases of one run share in one process: dataset, answerer, staging, pictures.

It can be rebuilt from the settings alone, so that a Ray or Dask worker makes its own.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tasks.answers.factory import ledger_path, make_answerer
from tasks.answers.ledger import Ledger, LedgerAnswerer
from tasks.answers.question import Answerer, Question, Reply
from tasks.answers.replay import ReplayAnswerer
from tasks.dataset.episode import Episode
from tasks.dataset.frames import EpisodeFrames, FrameStore, Wants
from tasks.dataset.layout import Dataset, open_dataset
from tasks.language.rows import Row
from tasks.settings import AnnotateSettings, PhaseName
from tasks.staging import Staging, staging_path

MIB = 1 << 20


@dataclass
class RunContext:
    """One run in one process. Thread-safe."""

    settings: AnnotateSettings
    dataset: Dataset
    answerer: Answerer
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    episodes: dict[int, Episode] = field(default_factory=dict)
    ledger: Ledger | None = None  # of what is asked; None: no model is asked
    settings_digests: dict[str, str] = field(default_factory=dict)  # per phase, what its keys share
    _stored_rows: dict[int, list[Row]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _phases_left: dict[int, set[str]] = field(default_factory=dict)

    @classmethod
    def open(cls, settings: AnnotateSettings, run_id: str | None = None) -> RunContext:
        """Open dataset and answerer; `settings.root` must be resolved."""
        assert settings.root is not None
        dataset = open_dataset(settings.root)
        run_id = run_id or uuid.uuid4().hex[:12]
        answerer, ledger = _recorded(settings, dataset, run_id)
        context = cls(_as_replayed(settings, answerer), dataset, answerer, run_id, ledger=ledger)
        context.episodes = {e.episode_index: e for e in dataset.episodes(settings.only_episodes)}
        return context

    @cached_property
    def staging(self) -> Staging:
        """The staging folder."""
        return Staging(staging_path(self.settings))

    @cached_property
    def _store(self) -> FrameStore:
        return FrameStore(self.settings.executor.frame_cache_mib * MIB)

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """Colour cameras, the default one first."""
        default = self.dataset.default_camera(self.settings.vlm.camera_key)
        return tuple(sorted(self.dataset.cameras, key=lambda c: c != default))

    def frames(self, episode: Episode, wants: dict[str, Wants]) -> EpisodeFrames:
        """The pictures of an episode, shared by its phases."""
        return self._store.open(episode, wants)

    def phase_done(self, episode_index: int, phase: PhaseName) -> None:
        """Forget an episode's pictures once its last phase is done."""
        with self._lock:
            left = self._phases_left.setdefault(episode_index, set(self.settings.phases))
            left.discard(phase)
            done = not left
        if done:
            self._store.release(episode_index)

    def dataset_rows(self, episode: Episode) -> list[Row]:
        """Rows that the dataset already has for an episode."""
        from tasks.language.stored import episode_rows

        known = self._stored_rows.get(episode.episode_index)
        if known is None:
            known = self._stored_rows.setdefault(episode.episode_index, episode_rows(self.dataset, episode))
        return known

    def close(self) -> None:
        """Stop asking and free everything. Idempotent."""
        self.answerer.close()


def _recorded(settings: AnnotateSettings, dataset: Dataset, run_id: str) -> tuple[Answerer, Ledger | None]:
    """The answerer and the ledger that it keeps, if any."""
    path = ledger_path(settings)
    if path is None:
        return make_answerer(settings, dataset), None

    def note(question: Question, reply: Reply) -> None:
        ledger.note(question, reply)

    answerer = make_answerer(settings, dataset, note)
    ledger = Ledger(path, run_id, answerer.model_id, answerer.needs_pictures, answerer.vqa_types)
    return LedgerAnswerer(answerer, ledger), ledger


def _as_replayed(settings: AnnotateSettings, answerer: Answerer) -> AnnotateSettings:
    """Settings that name the recorded model: prompts and coordinates follow the model's name."""
    inner = answerer.inner if isinstance(answerer, LedgerAnswerer) else answerer
    if not isinstance(inner, ReplayAnswerer):
        return settings
    vlm = settings.vlm.model_copy(update={"model_id": inner.recorded_model})
    return settings.model_copy(update={"vlm": vlm})


_contexts: dict[str, RunContext] = {}
_contexts_lock = threading.Lock()


def register(context: RunContext) -> None:
    """Let tasks of this process find the run's context by its id."""
    with _contexts_lock:
        _contexts[context.run_id] = context


def unregister(run_id: str) -> None:
    """Forget a finished run."""
    with _contexts_lock:
        _contexts.pop(run_id, None)


def context_of(run_id: str, settings_json: str) -> RunContext:
    """The run's context in this process; a worker process without one opens its own."""
    with _contexts_lock:
        if run_id not in _contexts:
            _contexts.clear()  # a worker serves one run at a time: the last one's pictures are not needed any more
            _contexts[run_id] = RunContext.open(AnnotateSettings.model_validate_json(settings_json), run_id)
        return _contexts[run_id]


def group_episodes(indices: Sequence[int], phases: int, task_runs_max: int) -> list[list[int]]:
    """Split episodes into equal groups so that groups times phases stays below the limit of task runs."""
    groups_max = max(1, task_runs_max // max(1, phases))
    size = -(-len(indices) // groups_max)
    return [list(indices[i : i + size]) for i in range(0, len(indices), max(1, size))]
