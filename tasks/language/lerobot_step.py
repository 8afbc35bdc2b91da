"""The step that renders language columns inside a LeRobot processor pipeline.

    step = CuebookRenderMessages(recipe="subtask_mem", dataset_ctx=dataset.meta)
    pipeline = DataProcessorPipeline(steps=[step, …])

Importing this module registers the step as `cuebook_render_messages`; import it before a saved pipeline is loaded.
LeRobot's own `to_batch_processor` adds the batch dimension to what the step makes; it drops rows, so it comes after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.language.recipe import Recipe
from tasks.language.step_core import MessageRenderer, Transition

try:
    from lerobot.processor.converters import transition_to_batch
    from lerobot.processor.pipeline import ProcessorStep, ProcessorStepRegistry
except ModuleNotFoundError as err:
    raise ModuleNotFoundError(
        f"want LeRobot for its processor step\n  got: {err}\n"
        "  do: pip install 'cuebook[lerobot]' (Python 3.12 or newer); without LeRobot use tasks.language.view",
        name=err.name,
    ) from err

STEP_NAME = "cuebook_render_messages"


@ProcessorStepRegistry.register(name=STEP_NAME)
@dataclass(kw_only=True)
class CuebookRenderMessages(ProcessorStep):
    """Replaces `language_persistent` and `language_events` of a transition, or a batch of them, by rendered messages.

    Adds `messages`, `message_streams` and `target_message_indices`: one list each, in a batch one list a sample.
    Raises RecipeError on a recipe that cannot render and SettingsError where neither `fps` nor `dataset_ctx` tells fps.
    """

    recipe: Recipe | Mapping[str, Any] | Path | str  # a YAML file, the name of a canonical recipe, or its mapping
    dataset_ctx: Any = None  # a LeRobotDataset or its meta: tells fps and cameras; not saved, what it tells is
    fps: float | None = None
    cameras: Sequence[str] | None = None  # keys of the cameras for recipes with `cameras: all`
    seed: int = 0  # of the draws among components and rephrasings
    on_ambiguous: Literal["raise", "skip"] = "raise"  # rows that contradict each other: stop, or leave a component out
    task_override: str | None = None  # stands for every sample's task and for its rephrasings

    def __post_init__(self) -> None:
        self._renderer = MessageRenderer(
            self.recipe,
            context=self.dataset_ctx,
            fps=self.fps,
            cameras=self.cameras,
            seed=self.seed,
            on_ambiguous=self.on_ambiguous,
            task_override=self.task_override,
        )

    def __call__(self, transition: Transition) -> Transition | None:
        """The rendered transition, cut to the samples that render; None when none does and none has a task.

        Raises KeyError without `timestamp`, ValueError when fields of a batch do not fit each other, or where rows
        contradict each other.
        """
        return self._renderer(transition)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew from here on: components and rephrasings, for each frame. Reaches a DataLoader's workers too."""
        self._renderer.epoch.number = epoch

    def get_config(self) -> dict[str, Any]:
        """All that builds this step again, as JSON; fps and cameras as the dataset told them."""
        return {
            "recipe": self._renderer.recipe.model_dump(mode="json", exclude_unset=True),
            "fps": self._renderer.fps,
            "cameras": list(self._renderer.cameras),
            "seed": self.seed,
            "on_ambiguous": self.on_ambiguous,
            "task_override": self.task_override,
        }

    def transform_features(self, features: dict[Any, Any]) -> dict[Any, Any]:
        """The features as they are: messages are no feature of a policy."""
        return features


def to_batch_or_none(transition: Transition | None) -> dict[str, Any] | None:
    """A pipeline's `to_output` that hands a dropped sample on as None, for a collate function to leave out.

    Only a sample without a task is ever dropped; LeRobot's own converter refuses it, and so would steps after this one.
    """
    return None if transition is None else transition_to_batch(dict(transition))
