"""From settings to the answerer they name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.answers.question import Answerer
from tasks.errors import SettingsError
from tasks.settings import AnnotateSettings

if TYPE_CHECKING:
    from tasks.dataset.layout import Dataset


def make_answerer(settings: AnnotateSettings, dataset: Dataset) -> Answerer:
    """The answerer of `vlm.backend`, recording if `vlm.record_path` is set. Raises SettingsError; asks nobody yet."""
    vlm = settings.vlm
    inner = _answerer(settings, dataset)
    if vlm.record_path is None:
        return inner
    from tasks.answers.replay import RecordingAnswerer

    return RecordingAnswerer(inner, vlm.record_path)


def _answerer(settings: AnnotateSettings, dataset: Dataset) -> Answerer:
    vlm = settings.vlm
    if vlm.auto_serve and vlm.backend != "openai":
        raise SettingsError(
            "--vlm.backend=openai with --vlm.auto_serve",
            f"--vlm.backend={vlm.backend}, which needs no server",
            "leave out one of the two",
        )
    if vlm.backend == "openai":
        from tasks.answers.openai import OpenAIAnswerer

        return OpenAIAnswerer(vlm)
    if vlm.backend == "replay":
        from tasks.answers.replay import ReplayAnswerer

        if vlm.replay_path is None:
            raise SettingsError(
                "a recording for --vlm.backend=replay", "no --vlm.replay_path", "pass --vlm.replay_path=FILE.jsonl"
            )
        if vlm.record_path is not None and vlm.record_path.absolute() == vlm.replay_path.absolute():
            raise SettingsError(
                "two files for --vlm.replay_path and --vlm.record_path",
                str(vlm.replay_path),
                "record into another file",
            )
        return ReplayAnswerer(vlm.replay_path, vlm.model_id)
    if vlm.backend in ("transformers", "vllm"):
        from tasks.answers.local import local_answerer

        return local_answerer(vlm)
    from tasks.answers.motion import MotionAnswerer

    return MotionAnswerer(dataset)
