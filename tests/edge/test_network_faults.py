"""What goes wrong while the robot runs: the control thread never notices more than missing actions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from edge.errors import ContractError
from edge.state import State
from serving.wire.header import unpack
from tests.edge.drive import Drive
from tests.edge.nodes import MemoryServer
from tests.edge.soundness import assert_sound, gaps, witnesses
from tests.edge.witness import ACTIONS, ROWS, WitnessPolicy, witness
from tests.edge.world import WAIT_MS, World
from tests.network.zenoh_nodes import until


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def world(stack) -> Callable[..., World]:
    return lambda *args, **settings: World(stack, *args, **settings)


# --- the server goes, and comes back --------------------------------------------------------------------------------


@pytest.mark.parametrize(("fallback", "sources"), [("hold", {""}), ("repeat_last", {"repeat_last", ""})])
def test_a_server_that_dies_never_raises_in_the_control_thread(world, fallback, sources):
    w = world()
    drive = w.drive(fallback=fallback, repeat_last_max_s=0.2)
    w.server.crash()
    drive.until_state(State.RECONNECTING)
    first = drive.until(lambda tick: not tick.acts).number
    drive.go_on(30)
    assert {tick.source for tick in drive.ticks[first:]} == sources
    assert_sound(drive)


def test_a_server_that_is_started_again_is_used_again(world):
    w = world()
    drive = w.drive()
    first = w.engine.capabilities.session_id
    w.server.crash()
    drive.until_state(State.RECONNECTING)
    w.server.start()
    drive.until_state(State.STREAMING)
    drive.until_acts(ROWS + 10)
    assert w.engine.capabilities.session_id != first
    assert_sound(drive)
    assert len({said.session for said in witnesses(drive.ticks)}) == 2
    # the new session is no reason to throw good rows away, nor to say that all is well before its first chunk
    path = [new for _, new, _ in w.transitions]
    assert State.CONNECTING in path[path.index(State.RECONNECTING) :], w.transitions


def test_a_server_that_comes_back_while_a_request_is_in_flight_is_noticed(world):
    """Its token is gone and there again before any timer ends: it is another server all the same."""
    w = world()
    drive = w.drive(degraded_after_s=30.0, request_timeout_s=60.0)
    w.policy.go.clear()
    asked = w.counted("requests")
    w.until_counted("requests", asked + 1)
    w.server.crash()
    w.policy.go.set()
    w.server.start()
    drive.until_acts()
    began_s = time.monotonic()
    w.until_counted("handshakes", 2)
    drive.until(lambda tick: tick.acts and len({s.session for s in witnesses(drive.ticks[-1:])} - {0}) > 0)
    w.until_counted("merges", 2)
    assert time.monotonic() - began_s < 10.0
    assert_sound(drive)


def test_a_server_that_does_not_know_the_session_any_more_is_asked_for_another(world):
    w = world()
    drive = w.drive()
    assert w.server.daemon is not None
    sessions = w.server.daemon.registry
    w.server.daemon.control.submit(lambda: sessions.remove(sessions.get("robot-1")))
    w.until_counted("handshakes", 2)
    drive.until_acts(ROWS)
    assert_sound(drive)


def test_another_replica_takes_over_from_one_that_drains(world):
    w = world(server_id="a")
    drive = w.drive()
    other = w.stack.enter_context(MemoryServer(w.hub, witness(wait_ms=WAIT_MS), server_id="b"))
    assert w.engine.capabilities.server_id == "a"
    w.server.stop()
    assert until(lambda: w.engine.capabilities.server_id == "b")
    drive.until_acts(2 * ROWS)  # what the first one gave is played to its end
    assert_sound(drive)
    assert not gaps(drive.ticks), "the buffer covers the change"
    assert {said.process for said in witnesses(drive.ticks[-5:])} == {other.policy.process}


def test_a_request_in_flight_of_a_lost_session_is_never_merged(world):
    """The old server's answer is late on its way, and comes when there is another session."""
    w = world()
    drive = w.drive()
    w.proxy.down.weather = replace(w.proxy.down.weather, delay_s=(1.0, 1.0))
    asked = w.counted("requests")
    w.until_counted("requests", asked + 1)
    assert until(lambda: w.proxy.down.passed > 1)
    w.server.crash()
    w.proxy.down.weather = replace(w.proxy.down.weather, delay_s=(0.0, 0.0))
    foreign = w.counted("foreign")
    w.server.start()
    w.until_counted("handshakes", 2)
    w.until_counted("foreign", foreign + 1)
    drive.until_acts(5)
    assert_sound(drive)


# --- another server than the run began with -------------------------------------------------------------------------


def _dies(w: World, drive: Drive, policy: WitnessPolicy, says: str) -> None:
    w.server.crash()
    w.server.policy = policy
    w.server.start()
    drive.until_state(State.DEAD)
    assert w.engine.failed and not w.engine.ready
    assert isinstance(w.engine.failure, ContractError) and says in str(w.engine.failure)
    before = w.counted("merges")
    drive.go_on(10)
    assert w.counted("merges") == before and w.engine.state is State.DEAD
    assert_sound(drive)


def test_another_model_after_a_reconnect_ends_the_run(world):
    w = world()
    _dies(w, w.drive(), witness(wait_ms=WAIT_MS, revision="v2"), "want the model that this run began with")


def test_a_server_that_loses_rtc_ends_the_run(world):
    w = world(witness(wait_ms=WAIT_MS, continues=True))
    _dies(w, w.drive(), witness(wait_ms=WAIT_MS), "RTC")


def test_a_server_that_gains_rtc_ends_the_run(world):
    w = world(witness(wait_ms=WAIT_MS))
    drive = w.drive()
    _dies(w, drive, witness(wait_ms=WAIT_MS, continues=True), "RTC")


def test_other_joints_after_a_reconnect_end_the_run(world):
    w = world()
    swapped = (ACTIONS[1], ACTIONS[0], *ACTIONS[2:])
    _dies(w, w.drive(), witness(wait_ms=WAIT_MS, actions=swapped), "action names")


# --- a server that does not answer ----------------------------------------------------------------------------------


def test_a_hung_server_is_told_of_and_used_again(world):
    w = world()
    drive = w.drive(fallback="repeat_last", repeat_last_max_s=0.2, degraded_after_s=0.3)
    drive.until_acts(ROWS)
    w.policy.go.clear()
    drive.until_state(State.DEGRADED)
    drive.until_state(State.STALLED)
    drive.until(lambda tick: tick.source == "repeat_last")
    drive.until(lambda tick: tick.source == "")
    w.policy.go.set()
    drive.until_state(State.STREAMING)
    drive.until_acts(5)
    assert_sound(drive)


def test_nobody_is_offline_longer_than_told(world):
    w = world()
    drive = w.drive(max_offline_s=0.5)
    w.server.crash()
    gone_s = time.monotonic()
    drive.until_state(State.DEAD)
    assert 0.4 <= time.monotonic() - gone_s < 5.0
    assert w.engine.failed and "0.5 s" in str(w.engine.failure)
    assert_sound(drive)


def test_a_server_that_opens_sessions_and_never_answers_uses_up_the_budget_too(world):
    w = world()
    drive = w.drive(max_offline_s=1.0, request_timeout_s=0.2, degraded_after_s=0.1)
    w.policy.go.clear()
    drive.until_state(State.DEAD)
    assert_sound(drive)


def test_a_pause_longer_than_the_budget_costs_nothing_of_it(world):
    w = world()
    drive = w.drive(max_offline_s=0.6)
    drive.do(w.engine.pause)
    w.server.crash()
    assert until(lambda: w.engine.state is State.RECONNECTING)
    time.sleep(1.5)  # what is tested: time that passes
    assert w.engine.state is State.RECONNECTING and not w.engine.failed
    w.server.start()
    w.until_counted("handshakes", 2)  # it reconnects while it is paused
    drive.do(w.engine.resume)
    drive.until_acts(5)
    assert_sound(drive)
    assert w.engine.state is State.STREAMING


def test_a_pause_while_an_answer_is_overdue_does_not_end_the_run(world):
    w = world()
    drive = w.drive(max_offline_s=0.8, degraded_after_s=0.1, request_timeout_s=0.3)
    w.policy.go.clear()
    drive.until(lambda tick: tick.state in (State.DEGRADED, State.STALLED))
    drive.do(w.engine.pause)
    time.sleep(1.2)  # what is tested: time that passes
    assert not w.engine.failed
    w.policy.go.set()
    drive.do(w.engine.resume)
    drive.until_acts(5)
    assert_sound(drive)


def test_nothing_is_asked_while_paused_and_what_is_queued_is_played(world):
    w = world()
    drive = w.drive()
    drive.do(w.engine.pause)
    drive.until(lambda tick: not tick.acts)  # the queue has run dry
    asked = w.counted("requests") + w.counted("resends")
    drive.go_on(20)
    assert w.counted("requests") + w.counted("resends") == asked
    drive.do(w.engine.resume)
    drive.until_acts(5)
    assert_sound(drive)


# --- episodes -------------------------------------------------------------------------------------------------------


def test_a_reset_while_an_answer_is_on_its_way_leaves_nothing_of_the_old_episode(world):
    w = world()
    drive = w.drive()
    for _ in range(5):
        w.policy.go.clear()
        w.until_counted("requests", w.counted("requests") + 1)
        drive.reset()
        w.policy.go.set()
        drive.until_acts(3)
    assert_sound(drive)  # every row says its episode
    assert {said.episode for said in witnesses(drive.ticks)} == set(range(6))


def test_a_reset_while_reconnecting_starts_the_new_episode_with_the_new_session(world):
    w = world()
    drive = w.drive()
    w.server.crash()
    drive.until_state(State.RECONNECTING)
    drive.reset()
    assert drive.until(lambda tick: tick.episode == 1).source == ""
    w.server.start()
    drive.until_acts(5)
    assert_sound(drive)


def test_the_server_hears_of_every_new_episode(world):
    w = world()
    drive = w.drive()
    for _ in range(3):
        drive.reset()
        drive.until_acts()
    headers = [unpack(attachment)[0] for _, _, attachment in w.proxy.sent]
    assert {header.episode_id for header in headers} >= {1, 2, 3}
    episodes = [header.episode_id for header in headers]
    assert episodes == sorted(episodes)


# --- the cable ------------------------------------------------------------------------------------------------------


def test_a_cable_that_is_out_for_a_moment_costs_no_action(world):
    w = world()
    drive = w.drive()
    drive.until_acts(ROWS // 2)
    w.proxy.cut()
    drive.until_state(State.RECONNECTING)
    drive.go_on(3)
    w.proxy.mend()
    drive.until_state(State.STREAMING)
    drive.until_acts(ROWS)
    assert not gaps(drive.ticks)
    assert_sound(drive)


def test_stop_is_quick_whatever_the_network_does(world):
    w = world()
    drive = w.drive()
    w.policy.go.clear()
    w.proxy.cut()
    drive.until_state(State.RECONNECTING)
    began_s = time.monotonic()
    w.engine.stop()
    assert time.monotonic() - began_s < 1.5
    assert w.engine.state is State.STOPPED and w.engine.get_action() is None
