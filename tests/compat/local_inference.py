"""A checkpoint as lerobot itself runs it on the robot's own machine, and made-up observations for both sides.

Nothing of `serving` is in here: this is what served answers are held against.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.rtc import RTCConfig
from lerobot.policies.utils import prepare_observation_for_inference

ROBOT_TYPE = "scripted"


@dataclass(frozen=True)
class Seen:
    """What a robot sees at one control step."""

    state: np.ndarray
    images: dict[str, np.ndarray]

    @property
    def observation(self) -> dict[str, np.ndarray]:
        return {"observation.state": self.state.copy(), **{k: v.copy() for k, v in self.images.items()}}


def seen(config: PreTrainedConfig, seed: int) -> Seen:
    """A random state and random pictures."""
    draw = np.random.default_rng(seed)
    size = {name: (f.shape[1], f.shape[2], 3) for name, f in config.image_features.items()}
    state = draw.normal(size=config.robot_state_feature.shape).astype(np.float32)
    return Seen(state, {name: draw.integers(0, 256, shape, dtype=np.uint8) for name, shape in size.items()})


class Local:
    """Network and processors of a checkpoint, loaded by lerobot's own factory."""

    def __init__(self, folder: Path, rtc: RTCConfig | None = None) -> None:
        self.config = PreTrainedConfig.from_pretrained(folder)
        self.policy: PreTrainedPolicy = get_policy_class(self.config.type).from_pretrained(folder, config=self.config)
        if rtc is not None:
            self.config.rtc_config = rtc
            self.policy.init_rtc_processor()
        self.before, self.after = make_pre_post_processors(self.config, pretrained_path=str(folder))

    def prepared(self, what: Seen, task: str) -> dict[str, Any]:
        """Through the preprocessor, as lerobot's engines do it."""
        batch = prepare_observation_for_inference(what.observation, torch.device("cpu"), task, ROBOT_TYPE)
        return self.before({**batch, "task": [task]})

    def chunk(self, what: Seen, task: str, seed: int = 0, **continues: Any) -> tuple[np.ndarray, np.ndarray]:
        """One chunk before and after the postprocessor."""
        batch = self.prepared(what, task)
        torch.manual_seed(seed)
        with torch.no_grad():
            actions = self.policy.predict_action_chunk(batch, **continues)
        model = actions.squeeze(0).numpy().copy()
        return model, self.after(actions).squeeze(0).numpy()

    def action(self, what: Seen, task: str, seed: int = 0) -> np.ndarray:
        """The next action by its own queue, after the postprocessor."""
        batch = self.prepared(what, task)
        torch.manual_seed(seed)
        with torch.inference_mode():
            return self.after(self.policy.select_action(batch)).squeeze(0).numpy()


@contextmanager
def seeded(policy: Any, seed: int) -> Iterator[None]:
    """Within, each call of a policy's `predict_action_chunk` begins with the same random numbers."""
    plain = policy.predict_action_chunk

    def call(*args: Any, **kwargs: Any) -> torch.Tensor:
        torch.manual_seed(seed)
        return plain(*args, **kwargs)

    policy.predict_action_chunk = call
    try:
        yield
    finally:
        policy.predict_action_chunk = plain
