"""From settings to the answerer they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.answers.ledger import LEDGER_NAME
from tasks.answers.question import Answerer, Note, unnoted
from tasks.errors import SettingsError
from tasks.settings import AnnotateSettings, VlmSettings
from tasks.staging import staging_path

if TYPE_CHECKING:
    from tasks.dataset.layout import Dataset

IN_PROCESS = frozenset({"transformers", "vllm"})  # backends that load a model, which takes minutes
ASKS_A_MODEL = IN_PROCESS | {"openai"}  # backends whose answers cost something
SERVER_LOGS = "servers"  # inside the staging folder


def ledger_path(settings: AnnotateSettings) -> Path | None:
    """Where calls are recorded: as set, else in the staging folder when a model is asked, else nowhere."""
    if settings.vlm.record_path is not None:
        return settings.vlm.record_path
    return staging_path(settings) / LEDGER_NAME if settings.vlm.backend in ASKS_A_MODEL else None


def make_answerer(settings: AnnotateSettings, dataset: Dataset, note: Note = unnoted) -> Answerer:
    """The answerer of `vlm.backend`; `note` is told of its calls. Raises SettingsError; asks nobody yet."""
    vlm = settings.vlm
    if vlm.auto_serve and vlm.backend != "openai":
        raise SettingsError(
            "--vlm.backend=openai with --vlm.auto_serve",
            f"--vlm.backend={vlm.backend}, which needs no server",
            "leave out one of the two",
        )
    if vlm.backend == "openai":
        from tasks.answers.openai import OpenAIAnswerer

        return OpenAIAnswerer(vlm, note, staging_path(settings) / SERVER_LOGS if vlm.auto_serve else None)
    if vlm.backend == "replay":
        from tasks.answers.replay import ReplayAnswerer

        return ReplayAnswerer(_replayed(vlm), vlm.model_id, note)
    if vlm.backend in IN_PROCESS:
        from tasks.answers.local import local_answerer

        return local_answerer(vlm, note)
    from tasks.answers.motion import MotionAnswerer

    return MotionAnswerer(dataset, note)


def _replayed(vlm: VlmSettings) -> Path:
    path = vlm.replay_path
    if path is None:
        raise SettingsError(
            "a ledger for --vlm.backend=replay",
            "no --vlm.replay_path",
            "pass --vlm.replay_path=LEDGER.jsonl, or the staging folder of an earlier run",
        )
    if vlm.record_path is not None and vlm.record_path.resolve() in (path.resolve(), (path / LEDGER_NAME).resolve()):
        raise SettingsError(
            "two files for --vlm.replay_path and --vlm.record_path", str(path), "record into another file"
        )
    return path
