"""Real-time chunking over the wire held against lerobot's own engine, cycle by cycle, to the last bit.

    python tests/compat/check_serving_rtc.py FOLDER CHECK...

The engine runs as it is: its thread, its action queue, its re-anchoring. Only its clock is scripted, so that the delays
are known, and its random numbers, so that both sides draw alike. Run by a Python that has lerobot.
"""

from __future__ import annotations

import logging
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lerobot.policies.rtc import RTCConfig
from lerobot.rollout.inference import rtc as engine_module
from lerobot.rollout.inference.rtc import RTCInferenceEngine

from serving.wire.tensors import encode_tensor
from tests.compat import tiny_checkpoints as tiny
from tests.compat.check_serving_lerobot import HORIZON, TASK, ask, equal, robot, run_checks, served
from tests.compat.local_inference import ROBOT_TYPE, Local, Seen, seeded, seen

FPS = 0.01  # one control step outlasts any inference here: the engine drops one row a cycle
WAIT_S = 60.0

Chunk = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Cycle:
    """One inference of the engine: what it had left, what it was told, what came of it."""

    left: Chunk | None
    sent: dict[str, Any]
    chunk: Chunk


class Engine:
    """lerobot's engine, one cycle at a time."""

    def __init__(self, checkpoint: Path) -> None:
        self.local = Local(checkpoint, RTCConfig(execution_horizon=HORIZON))
        step = next((s for s in self.local.before.steps if hasattr(s, "exclude_joints")), None)
        if step is not None:
            step.action_names = list(tiny.JOINTS)
        self._merged, self._sent, self.delay = threading.Event(), {}, 0
        engine_module.LatencyTracker = lambda: SimpleNamespace(
            max=lambda: (self.delay - 0.5) / FPS if self.delay else 0, add=lambda _: None, reset=lambda: None
        )
        pictures = {name: {"dtype": "image", "shape": f.shape} for name, f in self.local.config.image_features.items()}
        features = {"observation.state": {"dtype": "float32", "shape": (tiny.DIM,), "names": tiny.JOINTS}, **pictures}
        wrapper = SimpleNamespace(robot_type=ROBOT_TYPE, action_features=dict.fromkeys(tiny.JOINTS, float))
        self._engine = RTCInferenceEngine(
            self.local.policy, self.local.before, self.local.after, wrapper,
            self.local.config.rtc_config, features, TASK, FPS, "cpu",
        )  # fmt: skip
        plain = self.local.policy.predict_action_chunk

        def predict(batch: Any, **told: Any) -> torch.Tensor:
            self._sent = told
            self._engine.pause()  # after this cycle
            torch.manual_seed(0)
            return plain(batch, **told)

        self.local.policy.predict_action_chunk = predict
        self._engine.start()
        self.queue = self._engine.action_queue
        merge = self.queue.merge

        def merged(original: torch.Tensor, processed: torch.Tensor, *rest: Any) -> None:
            merge(original, processed, *rest)
            self._chunk = original.numpy(), processed.numpy()
            self._merged.set()

        self.queue.merge = merged

    def cycle(self, what: Seen, delay: int) -> Cycle:
        """One inference."""
        left = None
        if self.queue.get_left_over() is not None:
            left = self.queue.get_left_over().numpy(), self.queue.get_processed_left_over().numpy()
        self.delay = delay
        pictures = {name.removeprefix("observation.images."): rgb for name, rgb in what.images.items()}
        self._engine.notify_observation({**dict(zip(tiny.JOINTS, what.state, strict=True)), **pictures})
        self._merged.clear()
        self._engine.resume()
        assert self._merged.wait(WAIT_S), "the engine gave no chunk"
        assert self._sent["inference_delay"] == delay
        return Cycle(left, self._sent, self._chunk)

    def execute(self, steps: int) -> None:
        for _ in range(steps):
            assert self._engine.get_action(None) is not None

    def stop(self) -> None:
        self._engine.stop()


def plain(folder: Path) -> dict[str, Any]:
    """Actions as they are."""
    return _parity(tiny.smolvla(folder / "smolvla"))


def relative(folder: Path) -> dict[str, Any]:
    """Actions relative to the state: the tail is seen anew from where the robot stands."""
    return _parity(tiny.smolvla(folder / "smolvla", relative=True))


def pi0(folder: Path) -> dict[str, Any]:
    """Another family, whose own checkpoints have relative actions."""
    return _parity(tiny.pi0(folder / "pi0", relative=True))


def _parity(checkpoint: Path) -> dict[str, Any]:
    """Tails of at least a horizon: equal to the engine's, cycle by cycle. Then those that lerobot fills with zeros."""
    engine = Engine(checkpoint)
    sights = [seen(engine.local.config, n) for n in range(8)]
    model = {"options": {"action_names": tiny.JOINTS}}
    guided = 0
    with served(checkpoint, model) as (service, hub), seeded(service.daemon.policy._network, 0):
        client = robot(service, hub, "left", rtc=True)
        assert client.ack.supports_rtc and client.ack.rtc_execution_horizon == HORIZON
        for sight, delay, steps in zip(sights, (0, 0, 2, 1, 2, 0), (1, 0, 2, 1, 3, 0), strict=False):
            cycle = engine.cycle(sight, delay)
            equal(continued(client, sight, delay, cycle.left), cycle.chunk, f"delay {delay}")
            guided += cycle.sent["prev_chunk_left_over"] is not None
            engine.execute(steps)
        assert guided >= 3
        short_tail(engine, client, sights[6])
        exhausted(engine, client, sights[7])
    engine.stop()
    return {"guided": guided}


def short_tail(engine: Engine, client: Any, sight: Seen) -> None:
    """Two rows left of a horizon of four: guided by two, where the engine takes its filling for actions, too."""
    engine.execute(engine.queue.qsize() - 2)
    cycle = engine.cycle(sight, 1)
    got = continued(client, sight, 1, cycle.left)
    assert torch.count_nonzero(cycle.sent["prev_chunk_left_over"][2:]) == 0
    wanted = engine.local.chunk(sight, TASK, **{**cycle.sent, "execution_horizon": 2})
    equal(got, wanted, "a short tail")
    assert not np.array_equal(got[0], cycle.chunk[0]), "the engine's zeros have no effect: nothing is shown"


def exhausted(engine: Engine, client: Any, sight: Seen) -> None:
    """Nothing left: no prefix, as at the first request, where the engine continues rows of zeros."""
    engine.execute(engine.queue.qsize())
    cycle = engine.cycle(sight, 1)
    assert torch.count_nonzero(cycle.sent["prev_chunk_left_over"]) == 0 and len(cycle.left[0]) == 0
    got = continued(client, sight, 1, cycle.left)
    equal(got, engine.local.chunk(sight, TASK), "an exhausted queue")
    equal(continued(client, sight, 1, None), got, "no prefix at all")
    assert not np.array_equal(got[0], cycle.chunk[0]), "the engine's zeros have no effect: nothing is shown"


def continued(client: Any, sight: Seen, delay: int, left: Chunk | None) -> Chunk:
    """The served answer to what the engine knew."""
    tails = {} if left is None else dict(zip(("prefix_model", "prefix_robot"), map(encode_tensor, left), strict=True))
    return ask(client, sight, inference_delay_steps=delay, **tails)


CHECKS = (plain, relative, pi0)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    folder, *wanted = sys.argv[1:]
    run_checks(CHECKS, Path(folder), wanted)
