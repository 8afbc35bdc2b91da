"""The engine against lerobot's own RTC engine: the same policy, the same delays, the same actions, tick by tick.

    python tests/compat/check_edge_rtc.py FOLDER CHECK...

Local: lerobot's engine as it is, with its thread, its action queue, its latency tracker. Remote: our engine, and the
whole daemon with the same checkpoint. Both live by one clock that stands still until the script moves it, and each
inference waits until the script lets it go. So a delay of two is two control steps on both sides, and nothing sleeps.
Run by a Python that has lerobot.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lerobot.policies.rtc import RTCConfig
from lerobot.rollout.inference import rtc as engine_module
from lerobot.rollout.inference.rtc import RTCInferenceEngine

from edge import compose, engine, link, worker
from edge.engine import Engine
from edge.robots.base import Reading, RobotFeatures
from edge.settings import InferenceSettings, SafetySettings
from network.memory_transport import MemoryTransport
from tests.compat import tiny_checkpoints as tiny
from tests.compat.check_serving_lerobot import HORIZON, TASK, run_checks, served
from tests.compat.local_inference import ROBOT_TYPE, Local, Seen, seen

FPS = 8.0  # a period that floats hold exactly
ROWS = 8  # of a chunk
WAIT_S = 60.0


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def tick(self) -> None:
        """One control step later."""
        self.now_s += 1 / FPS

    def time_module(self) -> Any:
        """What stands in for `time` in the modules of both engines."""
        return SimpleNamespace(
            monotonic=lambda: self.now_s, perf_counter=lambda: self.now_s, monotonic_ns=lambda: int(self.now_s * 1e9),
            sleep=time.sleep,
        )  # fmt: skip


class Held:
    """Wraps a policy's prediction: equal random numbers each time, and no answer before `release`."""

    def __init__(self, policy: Any, told: Callable[[], None] = lambda: None) -> None:
        self._plain, self._told = policy.predict_action_chunk, told
        self._entered, self._go = threading.Semaphore(0), threading.Semaphore(0)
        self.sent: dict[str, Any] = {}
        policy.predict_action_chunk = self._predict

    def _predict(self, batch: Any, **told: Any) -> torch.Tensor:
        self.sent = told
        self._told()
        self._entered.release()
        assert self._go.acquire(timeout=WAIT_S), "never let go"
        torch.manual_seed(0)
        return self._plain(batch, **told)

    def wait(self) -> None:
        """Until it was asked."""
        assert self._entered.acquire(timeout=WAIT_S), "nobody asked"

    def release(self) -> None:
        """Answer."""
        self._go.release()


class Merges:
    """Tells when a queue took a chunk."""

    def __init__(self, queue: Any) -> None:
        self._plain, self._done = queue.merge, threading.Semaphore(0)
        queue.merge = self._merge

    def _merge(self, *args: Any) -> Any:
        result = self._plain(*args)
        self._done.release()
        return result

    def wait(self) -> None:
        """Until the next one."""
        assert self._done.acquire(timeout=WAIT_S), "no chunk was merged"


class TheirSide:
    """lerobot's engine, asked when the script says so."""

    def __init__(self, checkpoint: Path, clock: Clock) -> None:
        engine_module.time = clock.time_module()
        self.local = Local(checkpoint, RTCConfig(execution_horizon=HORIZON))
        step = next((s for s in self.local.before.steps if hasattr(s, "exclude_joints")), None)
        if step is not None:
            step.action_names = list(tiny.JOINTS)
        pictures = {name: {"dtype": "image", "shape": f.shape} for name, f in self.local.config.image_features.items()}
        features = {"observation.state": {"dtype": "float32", "shape": (tiny.DIM,), "names": tiny.JOINTS}, **pictures}
        wrapper = SimpleNamespace(robot_type=ROBOT_TYPE, action_features=dict.fromkeys(tiny.JOINTS, float))
        self.engine = RTCInferenceEngine(
            self.local.policy, self.local.before, self.local.after, wrapper,
            self.local.config.rtc_config, features, TASK, FPS, "cpu",
        )  # fmt: skip
        self.held = Held(self.local.policy, self.engine.pause)  # paused, lest it asks again by itself
        self.engine.start()
        self.queue = self.engine.action_queue
        self.merges = Merges(self.queue)

    def notify(self, what: Seen) -> None:
        pictures = {name.removeprefix("observation.images."): rgb for name, rgb in what.images.items()}
        self.engine.notify_observation({**dict(zip(tiny.JOINTS, what.state, strict=True)), **pictures})

    def ask(self) -> None:
        self.engine.resume()
        self.held.wait()

    def answer(self) -> None:
        self.held.release()
        self.merges.wait()

    def action(self) -> np.ndarray | None:
        action = self.engine.get_action(None)
        return None if action is None else action.numpy()


class OurSide:
    """Our engine and the daemon, asked when the script says so."""

    def __init__(self, service: Any, hub: Any, sight: Seen, clock: Clock) -> None:
        self._clock = clock
        for module in (engine, worker, link, compose):
            module.time = clock.time_module()
        cameras = {name.removeprefix("observation.images."): rgb.shape[:2] for name, rgb in sight.images.items()}
        joints = tuple(tiny.JOINTS)
        settings = InferenceSettings(jpeg_quality=0, resize=False, client_uuid="arm")
        self.engine = Engine(
            settings, SafetySettings(), RobotFeatures(ROBOT_TYPE, joints, joints, cameras),
            service.daemon.settings.keys, FPS, TASK, dial=lambda: MemoryTransport(hub),
        )  # fmt: skip
        self.held = Held(service.daemon.policy._network)
        self.engine.start()
        assert self.engine.capabilities.supports_rtc and self.engine.capabilities.chunk_size == ROWS
        self.queue = self.engine._desk.queue
        self.merges = Merges(self.queue)

    def notify(self, what: Seen) -> None:
        pictures = {name.removeprefix("observation.images."): rgb for name, rgb in what.images.items()}
        self.engine.notify_observation(Reading(what.state, pictures, self._clock.now_s))

    def ask(self) -> None:
        self.engine.resume()
        self.held.wait()
        self.engine.pause()  # lest it asks again by itself; a chunk on its way is taken

    def answer(self) -> None:
        self.held.release()
        self.merges.wait()

    def action(self) -> np.ndarray | None:
        return self.engine.get_action()


class Both:
    """The two sides on one script."""

    def __init__(self, theirs: TheirSide, ours: OurSide, clock: Clock) -> None:
        self.theirs, self.ours, self.clock = theirs, ours, clock
        self.executed = 0

    def see(self, number: int) -> Seen:
        """Both see the same."""
        what = seen(self.theirs.local.config, number)
        self.theirs.notify(what)
        self.ours.notify(what)
        return what

    def ask(self, number: int) -> Seen:
        """Both ask, from the same sight."""
        what = self.see(number)
        self.theirs.ask()
        self.ours.ask()
        return what

    def answer(self) -> None:
        """Both get their chunk."""
        self.theirs.answer()
        self.ours.answer()

    def tick(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Both execute, and the clock moves on."""
        pair = self.theirs.action(), self.ours.action()
        self.clock.tick()
        return pair

    def equal(self, ticks: int) -> None:
        """So many ticks with actions, the same on both sides to the last bit."""
        for _ in range(ticks):
            theirs, ours = self.tick()
            assert theirs is not None and ours is not None, "a side has no action"
            assert np.array_equal(theirs, ours), f"action {self.executed} differs by {np.abs(theirs - ours).max()}"
            self.executed += 1

    def cycle(self, number: int, delay: int) -> Seen:
        """A request whose answer comes `delay` executed rows later."""
        what = self.ask(number)
        self.equal(delay)
        self.answer()
        return what

    def nothing(self, ticks: int) -> None:
        """So many ticks without an action on either side."""
        assert [self.tick() for _ in range(ticks)] == [(None, None)] * ticks


def plain(folder: Path) -> dict[str, Any]:
    """Actions as they are."""
    return _parity(tiny.smolvla(folder / "smolvla"))


def relative(folder: Path) -> dict[str, Any]:
    """Actions relative to the state: the tail is seen anew from where the robot stands."""
    return _parity(tiny.smolvla(folder / "smolvla", relative=True))


def _parity(checkpoint: Path) -> dict[str, Any]:
    clock = Clock()
    model = {"options": {"action_names": tiny.JOINTS}}
    theirs = TheirSide(checkpoint, clock)
    with served(checkpoint, model) as (service, hub):
        ours = OurSide(service, hub, seen(theirs.local.config, 0), clock)
        both = Both(theirs, ours, clock)
        try:
            delays_and_exhausted(both)
            zeros_for_a_tail(both)
            trimmed_while_nothing_moved(both)
            slow_for_once(both)
            paused_in_flight(both)
        finally:
            ours.engine.stop()
            theirs.engine.stop()
    return {"equal": both.executed}


def delays_and_exhausted(both: Both) -> None:
    """Delays 0, 2 and 1 with a tail of a whole horizon, then a queue that runs dry: not one bit apart."""
    both.cycle(0, 0)
    both.equal(ROWS - HORIZON)
    both.cycle(1, 2)
    assert both.theirs.held.sent["inference_delay"] == 0 and _told_delay(both) == 0
    both.equal(ROWS - 2 - HORIZON)
    both.cycle(2, 1)
    assert both.theirs.held.sent["inference_delay"] == _told_delay(both) == 2
    both.equal(ROWS - 1 - HORIZON)
    both.cycle(3, 0)
    both.equal(ROWS)
    both.nothing(2)


def _told(both: Both) -> dict[str, Any]:
    """What the daemon told the policy of our tail, as for one robot; nothing where there is no tail."""
    told = both.ours.held.sent
    return {name: values[0] for name, values in told.items()}


def _told_delay(both: Both) -> int:
    return int(_told(both)["inference_delay"])


# --- intended differences: each is asserted on both sides ----------------------------------------------------------


def zeros_for_a_tail(both: Both) -> None:
    """lerobot continues rows of zeros when nothing is left; we ask as at the first request."""
    what = both.ask(4)
    assert torch.count_nonzero(both.theirs.held.sent["prev_chunk_left_over"]) == 0
    assert not _told(both)
    both.answer()
    fresh = _chunk(both, what)
    zeros = _chunk(both, what, **both.theirs.held.sent)
    assert not np.array_equal(fresh, zeros)
    pairs = [both.tick() for _ in range(ROWS)]
    assert np.array_equal([theirs for theirs, _ in pairs], zeros)
    assert np.array_equal([ours for _, ours in pairs], fresh)
    both.theirs.engine.reset()  # its zeros are gone, and both begin anew
    both.ours.engine.reset()


def trimmed_while_nothing_moved(both: Both) -> None:
    """Two ticks pass before the first chunk of an episode: lerobot drops two rows that were never late."""
    what = both.ask(5)
    both.nothing(2)
    both.answer()
    fresh = _chunk(both, what)
    pairs = [both.tick() for _ in range(ROWS)]
    assert [theirs is None for theirs, _ in pairs] == [False] * (ROWS - 2) + [True] * 2
    assert np.array_equal([theirs for theirs, _ in pairs[: ROWS - 2]], fresh[2:])
    assert np.array_equal([ours for _, ours in pairs], fresh)
    both.theirs.engine.reset()
    both.ours.engine.reset()


def slow_for_once(both: Both) -> None:
    """One answer is as late as a chunk is long: lerobot plays nothing of it, we what was not executed meanwhile."""
    both.cycle(6, 0)
    both.equal(ROWS - HORIZON)
    what = both.ask(7)
    both.equal(HORIZON)
    both.nothing(ROWS - HORIZON)
    both.answer()
    chunk = _chunk(both, what, **_told(both))
    theirs, ours = zip(*(both.tick() for _ in range(HORIZON)), strict=True)
    assert theirs == (None,) * HORIZON, "as many rows are trimmed as ticks have passed"
    assert np.array_equal(ours, chunk[HORIZON:]), "as many rows are late as were executed"
    both.theirs.engine.reset()
    both.ours.engine.reset()


def paused_in_flight(both: Both) -> None:
    """The control loop does something else while an answer is on its way: lerobot counts that as rows."""
    both.cycle(8, 0)
    both.equal(ROWS - HORIZON)
    what = both.ask(9)
    assert both.theirs.held.sent["inference_delay"] == ROWS, "the longest of the run, for the whole run"
    assert _told_delay(both) == 2, "one slow answer among eight"
    for _ in range(3):
        both.clock.tick()
    both.answer()
    chunk = _chunk(both, what, **_told(both))
    theirs, ours = both.tick()
    assert np.array_equal(ours, chunk[0]), "the step stood still"
    late = _chunk(both, what, **both.theirs.held.sent)
    assert np.array_equal(theirs, late[3]), "three rows are trimmed that nobody executed"


def _chunk(both: Both, what: Seen, **told: Any) -> np.ndarray:
    """What lerobot alone says to a sight, robot space."""
    both.theirs.local.policy.predict_action_chunk = both.theirs.held._plain
    try:
        return both.theirs.local.chunk(what, TASK, **told)[1]
    finally:
        both.theirs.local.policy.predict_action_chunk = both.theirs.held._predict


CHECKS = (plain, relative)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    folder, *wanted = sys.argv[1:]
    run_checks(CHECKS, Path(folder), wanted)
