"""The same over real Zenoh: servers and routers in processes of their own, killed, stopped and started again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge.state import State
from serving.router import RouterSettings
from tests.edge import netns
from tests.edge.drive import PICTURE, Drive, features
from tests.edge.nodes import ServerProcess, engine_for, running
from tests.edge.soundness import assert_sound, gaps, witnesses
from tests.network.zenoh_nodes import RouterProcess, free_port, until

WAIT_MS = 50.0
FPS = 30.0
BACK_S = 2.0  # after a server is back: its bar is 0.8 s on a machine that nobody else uses
pytestmark = pytest.mark.slow


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def driven(stack: ExitStack, *endpoints: str, **settings: object) -> Drive:
    """A robot that acts."""
    engine = stack.enter_context(running(engine_for(*endpoints, fps=FPS, **settings)))
    drive = stack.enter_context(Drive(engine, FPS))
    drive.until_acts()
    return drive


def server(stack: ExitStack, folder: Path, **settings: object) -> ServerProcess:
    options = {"wait_ms": WAIT_MS, **settings.pop("options", {})}
    return stack.enter_context(ServerProcess(folder, options=options, **settings))


@pytest.fixture
def router(stack) -> RouterProcess:
    made = RouterProcess(RouterSettings(listen_endpoints=[f"tcp/127.0.0.1:{free_port()}"]))
    stack.callback(lambda: made.process.poll() is None and made.kill())
    return made


def first_act_after(drive: Drive, since_s: float) -> float:
    """How long after a moment the robot acted again, on a new chunk."""
    return next(tick.began_s for tick in drive.ticks if tick.acts and tick.began_s >= since_s) - since_s


@pytest.mark.parametrize("through", ["peer", "router"])
def test_a_killed_server_that_comes_back_is_used_at_once(stack, tmp_path, through, request):
    endpoint = request.getfixturevalue("router").settings.listen_endpoints[0] if through == "router" else ""
    up = server(stack, tmp_path, router=endpoint)
    drive = driven(stack, up.endpoint, zenoh_mode="client" if endpoint else "peer")
    up.kill()
    drive.until_state(State.RECONNECTING)
    drive.until(lambda tick: not tick.acts)
    up.start()
    drive.until_acts(5)
    assert first_act_after(drive, up.ready_s) < BACK_S
    drive.until_state(State.STREAMING)
    assert_sound(drive)
    assert len({said.process for said in witnesses(drive.ticks)}) == 2


def test_a_hung_server_is_told_of_in_time_and_used_again(stack, tmp_path):
    up = server(stack, tmp_path)
    drive = driven(stack, up.endpoint, fallback="repeat_last", repeat_last_max_s=0.3)
    drive.until_acts(100)
    up.hang()
    drive.until_state(State.DEGRADED)
    drive.until_state(State.STALLED)
    assert drive.until(lambda tick: not tick.acts).source == "repeat_last"
    drive.until(lambda tick: tick.source == "")
    drive.until_state(State.RECONNECTING)  # the lease is over
    up.resume()
    resumed_s = time.monotonic()
    drive.until_acts()
    assert first_act_after(drive, resumed_s) < BACK_S
    drive.until_state(State.STREAMING)
    drive.until_acts(50)
    assert_sound(drive)


def test_a_server_that_hangs_for_less_than_its_lease_keeps_its_session(stack, tmp_path):
    up = server(stack, tmp_path)
    drive = driven(stack, up.endpoint)
    drive.until_acts(60)
    session = drive.engine.capabilities.session_id
    up.hang()
    time.sleep(0.5)  # what is tested: time that passes
    up.resume()
    drive.until_acts(100)
    assert drive.engine.capabilities.session_id == session and not gaps(drive.ticks)
    assert_sound(drive)


def test_a_router_that_is_killed_and_started_again(stack, tmp_path, router):
    up = server(stack, tmp_path, router=router.settings.listen_endpoints[0])
    drive = driven(stack, up.endpoint, zenoh_mode="client")
    for _ in range(2):
        router.kill()
        drive.until_state(State.RECONNECTING)
        drive.until(lambda tick: not tick.acts)
        router.start()
        drive.until_state(State.STREAMING)
        drive.until_acts(60)
    assert_sound(drive)
    assert len({said.process for said in witnesses(drive.ticks)}) == 1, "the server lived on"


def test_a_drained_server_hands_over_without_a_gap(stack, tmp_path, router):
    """SIGTERM drains: the other replica is there, and the buffer covers the change."""
    endpoint = router.settings.listen_endpoints[0]
    first = server(stack, tmp_path, router=endpoint, name="a")
    drive = driven(stack, endpoint, zenoh_mode="client")
    second = server(stack, tmp_path, router=endpoint, name="b")
    drive.until_acts(30)
    assert drive.engine.capabilities.server_id == "a"
    assert first.stop() == 0
    assert until(lambda: drive.engine.capabilities.server_id == "b")
    drive.until_acts(60)
    assert not gaps(drive.ticks)
    assert_sound(drive)
    assert second.running


def test_the_next_endpoint_of_a_list_is_used_when_the_first_is_gone(stack, tmp_path):
    ends = [f"tcp/127.0.0.1:{free_port()}" for _ in range(2)]
    first, second = (RouterProcess(RouterSettings(listen_endpoints=[end])) for end in ends)
    stack.callback(lambda: first.process.poll() is None and first.kill())
    second.kill()
    up = server(stack, tmp_path, router=ends[0], zenoh={"connect_endpoints": ends})
    drive = driven(stack, *ends, zenoh_mode="client")
    second.start()
    stack.callback(second.kill)
    first.kill()
    assert until(lambda: drive.engine.stats().counters["handshakes"] == 2)
    drive.until_acts(60)
    assert_sound(drive)
    assert up.running


def test_a_router_that_is_not_there_yet_is_waited_for(stack, tmp_path):
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    settings = RouterSettings(listen_endpoints=[endpoint])
    waiting = ServerProcess(tmp_path, router=endpoint, options={"wait_ms": WAIT_MS}).begin()
    stack.callback(lambda: waiting.running and waiting.kill())
    time.sleep(0.5)  # the server comes first, and waits as well
    router = RouterProcess(settings)
    stack.callback(router.kill)
    waiting.ready()
    drive = driven(stack, endpoint, zenoh_mode="client")
    drive.until_acts(5)
    assert_sound(drive)


# --- a bad network --------------------------------------------------------------------------------------------------


@pytest.fixture
def link(stack) -> netns.Link:
    if why := netns.missing():
        pytest.skip(why)
    return stack.enter_context(netns.Link(seed=5))


def test_no_tick_goes_without_an_action_over_a_bad_network(stack, tmp_path, link):
    link.change(delay_ms=30, jitter_ms=5, loss_share=0.02, rate_mbit=20)
    up = server(stack, tmp_path, host=link.far, enter=link.enter, options={"wait_ms": 150, "cameras": 1})
    engine = stack.enter_context(running(engine_for(up.endpoint, robot=features({"front": PICTURE.shape[:2]}))))
    drive = stack.enter_context(Drive(engine, FPS, images=({"front": PICTURE},)))
    drive.until_acts(300)
    assert not gaps(drive.ticks)
    assert_sound(drive)


def test_a_cable_that_is_pulled_and_put_back(stack, tmp_path, link):
    """No farewell: silence. The lease tells."""
    link.change(delay_ms=5)
    up = server(stack, tmp_path, host=link.far, enter=link.enter)
    drive = driven(stack, up.endpoint)
    drive.until_acts(30)
    link.change(cut=True)
    cut_s = time.monotonic()
    drive.until_state(State.RECONNECTING)
    assert time.monotonic() - cut_s < 6.0
    drive.until(lambda tick: not tick.acts)
    link.change(cut=False)
    drive.until_state(State.STREAMING)
    drive.until_acts(60)
    assert_sound(drive)


def test_a_network_that_gets_slower_than_a_chunk_recovers(stack, tmp_path, link):
    """Seconds of delay: late chunks are told of and never played late; then all is well again."""
    up = server(stack, tmp_path, host=link.far, enter=link.enter, options={"rows": 20})
    drive = driven(stack, up.endpoint)
    drive.until_acts(30)
    link.change(delay_ms=900)
    drive.until(lambda tick: tick.state not in (State.STREAMING, State.CONNECTING))
    drive.go_on(90)
    link.change(delay_ms=1)
    drive.until_state(State.STREAMING)
    drive.until_acts(60)
    assert_sound(drive)
