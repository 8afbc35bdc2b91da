"""What keeps a run from beginning: found out before anything moves, in bounded time, and told clearly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.errors import ContractError, LinkError
from network.memory_transport import Hub, MemoryTransport
from serving.router import RouterSettings
from serving.wire.errors import RejectCode
from serving.wire.keys import Keys
from tests.edge.drive import Drive, features
from tests.edge.nodes import FACTORY, KEYS, MemoryServer, ServerProcess, engine_for, running
from tests.edge.soundness import assert_sound
from tests.edge.witness import ACTIONS, CAMERA, STATE, witness
from tests.network.certificates import Authority
from tests.network.zenoh_nodes import RouterProcess, free_port

SOON_S = 1.0  # a robot that waits for its first server
BOUND_S = 6.0  # far below the waits of a library, above what a busy machine adds


@pytest.fixture
def hub() -> Hub:
    return Hub()


def refused(engine, kind: type[Exception]) -> Exception:
    """What start() raises, in bounded time."""
    began_s = time.monotonic()
    with pytest.raises(kind) as caught:
        engine.start()
    assert time.monotonic() - began_s < BOUND_S
    engine.stop()
    return caught.value


def meets(hub: Hub, **settings: object):
    """An engine on a hub."""
    return engine_for(dial=lambda: MemoryTransport(hub), **{"connect_timeout_s": SOON_S, **settings})


# --- nobody there ---------------------------------------------------------------------------------------------------


def test_nobody_listens_at_the_endpoint():
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    error = refused(engine_for(endpoint, connect_timeout_s=SOON_S), LinkError)
    assert endpoint in str(error) and error.remedy


def test_a_host_name_that_nobody_knows():
    error = refused(engine_for("tcp/no-such-host.invalid:7447", connect_timeout_s=SOON_S), LinkError)
    assert "no-such-host.invalid" in str(error)


def test_a_router_and_no_server_behind_it():
    router = RouterProcess(RouterSettings(listen_endpoints=[f"tcp/127.0.0.1:{free_port()}"]))
    try:
        engine = engine_for(
            *router.settings.listen_endpoints, zenoh_mode="client", connect_timeout_s=SOON_S, handshake_timeout_s=0.5
        )
        error = refused(engine, LinkError)
    finally:
        router.kill()
    assert KEYS.status in str(error) and "start it" in error.remedy


def test_a_robot_waits_for_a_server_that_is_just_starting(hub):
    server = MemoryServer(hub, witness())
    engine = meets(hub, connect_timeout_s=30.0)
    came = threading.Event()

    def begin() -> None:
        engine.start()
        came.set()

    robot = threading.Thread(target=begin)
    robot.start()
    assert not came.wait(0.3)
    with server:
        assert came.wait(BOUND_S)
        robot.join()
        assert engine.capabilities.server_id == "replica-1"
        engine.stop()


@pytest.mark.parametrize(
    "keys",
    [
        Keys.of(FACTORY, "main", service="another task"),
        Keys.of(FACTORY, "v2", service="witness"),
        Keys.of("acme/another", "main", service="witness"),
    ],
    ids=["task", "revision", "model"],
)
def test_a_robot_that_looks_in_another_namespace(hub, keys):
    with MemoryServer(hub, witness()):
        error = refused(meets(hub, keys=keys), LinkError)
    assert keys.status in str(error) and "edge check" in error.remedy


# --- somebody who does not fit --------------------------------------------------------------------------------------

OTHERS = tuple(f"other_{i}.pos" for i in range(len(ACTIONS)))
SWAPPED = (ACTIONS[1], ACTIONS[0], *ACTIONS[2:])


@pytest.mark.parametrize(
    ("robot", "says"),
    [
        ({"action_names": OTHERS}, "other_0.pos"),
        ({"action_names": SWAPPED}, "at 0: row.pos on the robot, tick.pos in the policy"),
        ({"action_names": ACTIONS[:-1]}, "at 8: nothing on the robot, prefix.pos in the policy"),
        ({"state_names": STATE[:-1]}, "want a state of 4 numbers"),
        ({"cameras": {"top": (48, 64)}}, CAMERA),
        ({"cameras": {}}, "no camera"),
    ],
    ids=["names", "order", "fewer actions", "state", "another camera", "no camera"],
)
def test_a_server_that_does_not_fit_is_refused_for_good(hub, robot, says):
    with MemoryServer(hub, witness(cameras=1)) as server:
        engine = meets(hub, robot=features(**{"cameras": {"front": (48, 64)}, **robot}), connect_timeout_s=30.0)
        error = refused(engine, ContractError)
        assert server.daemon is not None and len(server.daemon.registry) == 0, "no place is taken for nothing"
    assert says in str(error) and error.remedy
    assert engine.get_action() is None


@pytest.mark.parametrize(
    ("rules", "settings", "code"),
    [
        ({"strict_fps": True}, {"fps": 20.0}, RejectCode.FPS),
        ({"pinned_task": "stack the cups"}, {"task": "fold the towel"}, RejectCode.TASK),
    ],
    ids=["fps", "task"],
)
def test_what_only_the_server_knows_is_refused_for_good(hub, rules, settings, code):
    with MemoryServer(hub, witness(), **rules):
        error = refused(meets(hub, connect_timeout_s=30.0, **settings), ContractError)
    assert error.code == code and code.name.lower() in str(error)


def test_another_rate_is_a_warning_where_the_server_is_not_strict(hub, caplog):
    with MemoryServer(hub, witness()), running(meets(hub, fps=20.0)):
        pass
    assert "trained at 30 Hz" in caplog.text and "20 Hz" in caplog.text


# --- somebody who may not -------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, Authority]]:
    """A router that lets in whom its authority has signed."""
    authority = Authority(tmp_path / "ours")
    endpoint = f"tls/127.0.0.1:{free_port()}"
    router = RouterProcess(RouterSettings(listen_endpoints=[endpoint], **authority.listens("router")))
    yield endpoint, authority
    router.kill()


def test_a_certificate_of_another_authority_is_refused(guarded, tmp_path):
    endpoint, authority = guarded
    certificate, key = Authority(tmp_path / "theirs").issue("robot-1")
    engine = engine_for(
        endpoint, zenoh_mode="client", connect_timeout_s=SOON_S, tls_ca=authority.certificate, tls_cert=certificate,
        tls_key=key,
    )  # fmt: skip
    error = refused(engine, LinkError)
    assert endpoint in str(error) and "signed by the authority" in str(error)


def test_a_certificate_of_the_right_authority_is_let_in(guarded, tmp_path):
    endpoint, authority = guarded
    certificate, key = authority.issue("robot-1")
    tls = {"tls_root_ca_certificate": authority.certificate, **authority.connects("server")}
    with ServerProcess(tmp_path, router=endpoint, zenoh=tls):
        engine = engine_for(
            endpoint, zenoh_mode="client", tls_ca=authority.certificate, tls_cert=certificate, tls_key=key
        )
        with running(engine), Drive(engine) as drive:
            drive.until_acts(5)
        assert_sound(drive)


# --- no place -------------------------------------------------------------------------------------------------------


def test_a_full_server_is_told_after_a_bounded_wait(hub):
    with MemoryServer(hub, witness(), sessions_max=1), running(meets(hub, client_uuid="first")):
        error = refused(meets(hub, client_uuid="second"), LinkError)
    assert "full" in str(error) and "1/1" in str(error) and "max_sessions" in error.remedy


def test_a_place_that_gets_free_in_time_is_taken(hub):
    with MemoryServer(hub, witness(), sessions_max=1):
        first, second = (meets(hub, client_uuid=name, connect_timeout_s=30.0) for name in ("first", "second"))
        first.start()
        waiting = threading.Thread(target=second.start)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        first.stop()
        waiting.join(BOUND_S)
        assert not waiting.is_alive() and second.capabilities.accepted
        second.stop()


def test_of_two_replicas_the_one_with_room_is_taken(hub):
    first, second = (meets(hub, client_uuid=name) for name in ("first", "second"))
    full, free = (MemoryServer(hub, witness(), sessions_max=n, server_id=name) for n, name in ((1, "a"), (4, "b")))
    with full, running(first), free, running(second), Drive(second) as drive:
        assert second.capabilities.server_id == "b"
        drive.until_acts(5)
    assert_sound(drive)


def test_a_second_edge_with_the_same_id_is_refused_and_the_first_goes_on(hub):
    with MemoryServer(hub, witness(wait_ms=5)) as server, running(meets(hub)) as first, Drive(first) as drive:
        drive.until_acts()
        error = refused(meets(hub), LinkError)
        assert "in_use" in str(error) and "client_uuid" in error.remedy
        at = len(drive.ticks)
        drive.go_on(60)
        assert all(tick.acts for tick in drive.ticks[at:])
        assert server.daemon is not None and len(server.daemon.registry) == 1
    assert_sound(drive)
    assert first.stats().counters["reconnects"] == 0


def test_a_robot_that_crashed_gets_its_place_again_without_help(hub):
    """Nobody said goodbye, so the server waits a little before it believes that the robot is gone."""
    gone = MemoryTransport(hub)
    with MemoryServer(hub, witness(), sessions_max=1):
        crashed = engine_for(dial=lambda: gone)
        crashed.start()
        gone.close()
        began_s = time.monotonic()
        with running(meets(hub, connect_timeout_s=30.0)) as again, Drive(again) as drive:
            drive.until_acts(5)
        assert time.monotonic() - began_s < 15.0
        crashed.stop()
    assert_sound(drive)
