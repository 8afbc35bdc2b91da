"""`edge run`: settings to robot, engine, recording and loop, and who watches them."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge import certificates
from edge.console import err
from edge.errors import EdgeError
from edge.live import Live
from edge.policy_config import PolicyConfig, read_policy_config
from edge.preflight import check_fallback, check_limits, compare, control_fps, refuse
from edge.robots.base import Robot
from edge.robots.registry import make_robot
from edge.run_settings import RunSettings
from edge.summary import Summary, summarise
from edge.watch import line
from edge.watch_socket import WatchServer
from serving.wire.keys import client_id

if TYPE_CHECKING:
    from edge.display import Display
    from edge.engine import Engine
    from edge.recording import DatasetSettings, Recorder
    from edge.rollout.control import Tick
    from edge.rollout.loop import Rollout
    from edge.rollout.strategy import Strategy
    from edge.rollout.summary import RolloutSummary
    from edge.teleoperators.base import Teleoperator

log = logging.getLogger(__name__)

ID_CHARACTERS = 12
SHOWN_EVERY_S = 0.25  # on a terminal
SAID_EVERY_S = 5.0  # elsewhere
TYPED = "interactive"  # somebody types there: no line may be redrawn under it
BURST = "ring_buffer_max_memory_mb"  # option of strategies that keep the past in memory


@dataclass
class Plan:
    """A run that may begin: everything that can be refused without dialling was looked at."""

    settings: RunSettings
    robot: Robot
    fps: float
    live: Live
    policy: PolicyConfig | None
    strategy: Strategy
    teleop: Teleoperator | None
    dataset: DatasetSettings | None


def plan(settings: RunSettings) -> Plan:
    """Make the robot and all beside it, not connected, and hold it to the policy's config.

    Raises SettingsError, ContractError, RobotError, RecordingError.
    """
    client = client_id(settings.inference.client_uuid or f"edge-{uuid.uuid4().hex[:ID_CHARACTERS]}")
    asked = settings.inference.model_copy(update={"client_uuid": client})
    settings = settings.model_copy(update={"inference": asked})
    robot = make_robot(settings.type_of("robot"), settings.options("robot"))
    policy = read_policy_config(settings.policy.path, settings.policy.revision)
    findings = [check_fallback(settings, robot.features), check_limits(settings, robot.features)]
    findings += certificates.check_files(asked)
    findings += compare(settings, robot.features, policy) if policy is not None else []
    refuse(findings)
    for finding in findings:
        if finding.outcome == "warning":
            log.warning("%s: %s; do: %s", finding.what, finding.said, finding.remedy)
    fps = control_fps(settings, robot.features, policy)
    about = {
        "run": uuid.uuid4().hex, "client": client, "robot_type": robot.features.robot_type, "task": settings.task,
        "service": settings.keys().prefix, "endpoints": asked.connect_endpoint, "fps": fps,
    }  # fmt: skip
    settings, dataset = settings.model_copy(update={"fps": fps}), getattr(settings, "dataset", None)
    strategy, teleop = _strategy(settings), _teleop(settings)
    strategy.check(dataset is not None, teleop is not None)
    if dataset is not None:
        from edge.recording.push import check_push

        check_push(dataset)
    return Plan(settings, robot, fps, Live(about), policy, strategy, teleop, dataset)


def _strategy(settings: RunSettings) -> Strategy:
    from edge.rollout.strategies import make_strategy

    return make_strategy(settings.type_of("strategy"), settings.options("strategy"))


def _teleop(settings: RunSettings) -> Teleoperator | None:
    if not settings.type_of("teleop"):
        return None
    from edge.teleoperators.registry import make_teleop

    return make_teleop(settings.type_of("teleop"), settings.options("teleop"))


def drive(planned: Plan, *, quiet: bool = False) -> Summary:
    """Drive, and say what came of it. Raises EdgeError only where nothing has begun."""
    from edge.engine import Engine

    settings, robot, live = planned.settings, planned.robot, planned.live
    names = planned.policy.action_names if planned.policy and planned.policy.action_names else None
    engine = Engine(
        settings.inference, settings.safety, robot.features, settings.keys(), planned.fps, settings.task,
        action_names=names, on_transition=live.on_transition,
    )  # fmt: skip
    live.engine = engine
    with contextlib.ExitStack() as opened:
        display = _display(planned, opened)
        recorder = _recorder(planned, opened)
        rollout = _rollout(planned, engine, recorder, display)
        opened.enter_context(_watched(live))
        opened.enter_context(_said(live, rollout.stop, quiet or planned.strategy.name == TYPED))
        live.stage = "driving"
        result = rollout.run()
        live.stage = "ended"
        _raise_where_nothing_began(result)
    return summarise(
        result,
        live,
        dry_run=settings.dry_run,
        dropped=display.dropped if display else 0,
        recording=_recorded(recorder),
        **_compared(robot),
    )


def _rollout(planned: Plan, engine: Engine, recorder: Recorder | None, display: Display | None) -> Rollout:
    from edge.rollout.loop import Rollout

    pushes = planned.dataset is not None and planned.dataset.push_to_hub
    return Rollout(
        planned.robot, engine, recorder, planned.settings.rollout(), strategy=planned.strategy, teleop=planned.teleop,
        keys=planned.strategy.listens(), on_tick=_listeners(planned.live, display), stop=threading.Event(),
        push=recorder.push if recorder is not None and pushes else None,
    )  # fmt: skip


def _raise_where_nothing_began(result: RolloutSummary) -> None:
    """A run that did not come to its first tick is an error, not a summary of zeros."""
    if result.counts.ticks:
        return
    if result.ending == "interrupted":
        raise KeyboardInterrupt("interrupted before the robot moved")
    if result.problems and isinstance(first := result.problems[0].error, EdgeError):
        raise first


def _listeners(live: Live, display: Display | None) -> Callable[[Tick], None]:
    if display is None:
        return live.on_tick

    def both(tick: Tick) -> None:
        live.on_tick(tick)
        display.on_tick(tick)

    return both


def _display(planned: Plan, opened: contextlib.ExitStack) -> Display | None:
    if planned.settings.display.type == "none":
        return None
    from edge.display import Display

    return opened.enter_context(Display(planned.settings.display, planned.robot.features, planned.live))


def _recorder(planned: Plan, opened: contextlib.ExitStack) -> Recorder | None:
    if planned.dataset is None:
        return None
    from edge.recording import open_recorder

    burst_mib = math.ceil(planned.settings.options("strategy").get(BURST, 0))  # what a key keeps comes all at once
    recorder = open_recorder(planned.dataset, planned.robot.features, planned.fps, burst_mib=burst_mib)
    return opened.enter_context(recorder)  # finalized by the loop; here too where the loop never came about


def _recorded(recorder: Recorder | None) -> dict[str, Any] | None:
    if recorder is None:
        return None
    stats = recorder.stats()
    return {"root": str(recorder.root), "episodes": stats.episodes, "frames": stats.written, "dropped": stats.dropped}


def _compared(robot: Robot) -> dict[str, Any]:
    """What a recorded robot has to say of what it was sent."""
    comparison = getattr(robot, "comparison", None)
    if comparison is None:
        return {}
    try:
        found = comparison()
    except EdgeError:  # it was never connected
        return {}
    return {"comparison": found.as_dict(), "comparison_line": found.line()}


# --- who watches -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _watched(live: Live) -> Iterator[None]:
    """Let `edge watch` see the run; without a place for its socket the run goes on all the same."""
    with contextlib.ExitStack() as opened:
        try:
            opened.enter_context(WatchServer(str(live.about["client"]), live.now))
        except (EdgeError, OSError) as error:
            log.warning("edge watch cannot see this run: %s", error)
        yield


@contextlib.contextmanager
def _said(live: Live, stop: threading.Event, quiet: bool) -> Iterator[None]:
    """A line that says how it goes, by a thread of its own: redrawn on a terminal, now and then elsewhere."""
    ended = threading.Event()
    thread = threading.Thread(target=_say, args=(live, stop, ended, quiet), name="edge-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(1.0)


def _say(live: Live, stop: threading.Event, ended: threading.Event, quiet: bool) -> None:
    terminal = err.is_terminal and not quiet
    status = err.status("starting", refresh_per_second=1 / SHOWN_EVERY_S) if terminal else None
    told, said_s = False, time.monotonic()
    with status or contextlib.nullcontext():
        while not ended.wait(SHOWN_EVERY_S):
            if status is not None:
                status.update(line(live.now()))
            elif not quiet and time.monotonic() - said_s >= SAID_EVERY_S:
                said_s = time.monotonic()
                err.print(f"[edge] {line(live.now())}", highlight=False, markup=False, soft_wrap=True)
            if stop.is_set() and not told:
                told = True
                err.print(STOPPING, highlight=False, markup=False, soft_wrap=True)


STOPPING = (
    "stopping: the robot goes back to where it began (a second Ctrl-C stops it where it is), then the recording is "
    "finished"
)


def interrupt_on_sigterm() -> None:
    """Before the loop takes signals over, SIGTERM ends the process as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt("told to stop before the robot was energised")
