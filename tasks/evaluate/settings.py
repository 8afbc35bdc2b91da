"""Settings of the judge: who is asked whether two labels mean the same."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.settings import AnnotateSettings, Section, VlmSettings


class JudgeSettings(VlmSettings):
    """As the vlm settings of an annotation run, but off unless a backend is named."""

    backend: Literal["off", "openai", "transformers", "vllm", "replay"] = Field(  # type: ignore[assignment]
        "off", description="who judges labels; off: nobody"
    )


class EvaluateSettings(Section):
    """What `annotate eval` takes besides its two sides."""

    judge: JudgeSettings = JudgeSettings()


def judge_run(judge: JudgeSettings) -> AnnotateSettings:
    """The judge as the model of a run, for the answerer factory."""
    return AnnotateSettings.model_validate({"vlm": judge.model_dump()})
