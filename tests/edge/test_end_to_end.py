"""A recorded robot, the whole robot side, real Zenoh, and the daemon as another process: the motion comes back.

The recording plays the robot and the replay policy answers from the same recording. What was sent is compared with what
was recorded tick by tick and bit by bit; between two actions, commands lie on the straight line.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.engine import Engine
from edge.robots.dataset import DatasetRobot
from edge.robots.registry import make_robot
from edge.rollout.control import Ending, Tick
from edge.rollout.loop import Rollout
from edge.rollout.settings import RolloutSettings
from edge.rollout.summary import RolloutSummary
from edge.settings import InferenceSettings, SafetySettings
from edge.state import State
from tests.conftest import real_dataset
from tests.edge import netns
from tests.edge.commands import run, start
from tests.edge.nodes import ServerProcess
from tests.network.zenoh_nodes import until

pytestmark = pytest.mark.slow
EPISODE = 1
CHUNK = 50
STEPS = 343  # frames of the episode
TASK = "bottle"
EXACT = {"tolerance": 0.0}  # the robot refuses the first command that is off by a bit


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture(scope="module")
def recording() -> Path:
    return real_dataset("g1-bottle-v3")


def served(stack: ExitStack, folder: Path, recording: Path, **settings: Any) -> ServerProcess:
    """`serving up` that replays the recording."""
    model = {
        "repo_or_path": str(recording), "family": "replay", "device": "cpu",
        "options": {"chunk_size": CHUNK, "episodes": [EPISODE]},
    }  # fmt: skip
    return stack.enter_context(ServerProcess(folder, model=model, service_name=TASK, **settings))


class Played:
    """One run of the recorded robot. Commands are kept as the robot got them."""

    def __init__(self, up: ServerProcess, recording: Path, multiplier: int = 1, **asks: Any) -> None:
        made = make_robot("dataset", {"root": str(recording), "episode": EPISODE, **asks.pop("robot", EXACT)})
        assert isinstance(made, DatasetRobot) and made.features.fps is not None
        self.robot, self.ticks = made, []
        self.fps, self.multiplier = made.features.fps, multiplier
        settings = InferenceSettings(**{"connect_endpoint": up.endpoint, "zenoh_mode": "peer", **asks})
        self.engine = Engine(settings, SafetySettings(), made.features, up.keys, self.fps, made.task)
        rollout = RolloutSettings(fps=self.fps, duration=120.0, interpolation_multiplier=multiplier)
        self._rollout = Rollout(made, self.engine, None, rollout, on_tick=self.ticks.append, stop=threading.Event())
        self._thread = threading.Thread(target=self._run)
        self.summary: RolloutSummary | None = None
        self.ticks: list[Tick]

    def _run(self) -> None:
        self.summary = self._rollout.run()

    def begin(self) -> Played:
        self._thread.start()
        return self

    def sent(self) -> int:
        """Actions of the policy so far."""
        return sum(tick.sent and tick.emitted_policy_action for tick in list(self.ticks))

    def end(self) -> RolloutSummary:
        self._thread.join(120)
        assert self.summary is not None, f"it does not end: {self.engine.stats()}"
        self.summary.raise_for_problems()
        return self.summary


def assert_as_recorded(played: Played) -> None:
    """Every frame of the recording, once, in order, bit by bit."""
    summary = played.end()
    result = played.robot.comparison()
    assert summary.ending is Ending.ROBOT_DONE
    assert result.steps == result.equal == result.recorded == STEPS, result.line()
    own = [tick for tick in played.ticks if tick.sent and tick.emitted_policy_action]
    assert [tick.dispatched.step for tick in own if tick.dispatched is not None] == list(range(STEPS))
    assert summary.counts.policy_actions == STEPS


@pytest.mark.parametrize("multiplier", [1, 3])
def test_a_recorded_motion_comes_back_tick_by_tick(stack, tmp_path, recording, multiplier):
    up = served(stack, tmp_path, recording)
    played = Played(up, recording, multiplier).begin()
    assert_as_recorded(played)
    assert_on_the_line(played)
    stats = played.engine.stats()
    assert stats.counters["starved_ticks"] == 0, "no tick without an action after the first"
    assert stats.counters["late_chunks"] == stats.counters["foreign"] == stats.counters["malformed"] == 0


def assert_on_the_line(played: Played) -> None:
    """Between two actions of the policy, multiplier - 1 commands at equal parts of the way."""
    commands = [tick for tick in played.ticks if tick.sent]
    own = [i for i, tick in enumerate(commands) if tick.emitted_policy_action]
    assert np.diff(own).tolist() == [played.multiplier] * (STEPS - 1) and own[0] == 0
    for before, after in pairwise(own):
        here, there = commands[before].action, commands[after].action
        assert here is not None and there is not None
        for k in range(1, played.multiplier):
            between = commands[before + k].action
            assert between is not None
            np.testing.assert_array_equal(between, here + np.float32(k / played.multiplier) * (there - here))


def test_the_motion_goes_on_where_it_stopped_when_the_server_was_killed_on_the_way(stack, tmp_path, recording):
    """The robot stands still while nobody answers, so nothing of the motion is left out."""
    up = served(stack, tmp_path, recording)
    played = Played(up, recording).begin()
    assert until(lambda: played.sent() > 60, 60)
    up.kill()
    assert until(lambda: played.engine.state is State.RECONNECTING)
    assert until(lambda: played.engine.stats().left_rows == 0)
    stood = played.sent()
    up.start()
    assert until(lambda: played.sent() > stood + 5)
    assert_as_recorded(played)
    assert played.engine.stats().counters["handshakes"] == 2


def test_a_hung_server_holds_the_motion_up_and_changes_nothing_of_it(stack, tmp_path, recording):
    up = served(stack, tmp_path, recording)
    played = Played(up, recording).begin()
    assert until(lambda: played.sent() > 60, 60)
    up.hang()
    assert until(lambda: played.engine.state in (State.STALLED, State.RECONNECTING))
    up.resume()
    assert_as_recorded(played)


def test_the_motion_comes_back_over_a_bad_network(stack, tmp_path, recording):
    if why := netns.missing():
        pytest.skip(why)
    link = stack.enter_context(netns.Link(seed=2, delay_ms=30, jitter_ms=5, loss_share=0.02, rate_mbit=20))
    up = served(stack, tmp_path, recording, host=link.far, enter=link.enter)
    assert_as_recorded(Played(up, recording).begin())


# --- as commands ----------------------------------------------------------------------------------------------------


def words(up: ServerProcess, recording: Path) -> list[str]:
    """`edge run` as a user types it."""
    return [
        f"--policy.path={recording}", "--robot.type=dataset", f"--robot.root={recording}",
        f"--robot.episode={EPISODE}", f"--inference.connect_endpoint={up.endpoint}", "--inference.zenoh_mode=peer",
        f"--inference.service_task={TASK}", "--json",
    ]  # fmt: skip


def test_two_commands_reproduce_a_recorded_motion(stack, tmp_path, recording):
    up = served(stack, tmp_path, recording)
    done = run("run", *words(up, recording), "--robot.tolerance=0")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["ok"] and said["ending"] == Ending.ROBOT_DONE
    assert said["comparison"]["equal"] == said["comparison"]["steps"] == STEPS
    assert said["engine"]["counters"]["starved_ticks"] == 0


def test_a_run_whose_server_never_comes_back_ends_by_itself_with_a_reason(stack, tmp_path, recording):
    audit = tmp_path / "audit.jsonl"
    up = served(stack, tmp_path, recording, audit={"path": str(audit)})
    process = start("run", *words(up, recording), "--inference.max_offline_s=2", "--robot.loop=true")
    stack.callback(process.kill)
    assert until(lambda: audit.exists() and audit.stat().st_size > 0, 60), "it drives"
    up.kill()
    out, err = process.communicate(timeout=60)
    said = json.loads(out.strip().splitlines()[-1])
    assert process.returncode != 0
    assert not said["ok"] and said["ending"] == Ending.ENGINE_FAILED
    assert "none for 2 s" in " ".join(said["problems"]), (said["problems"], err)
