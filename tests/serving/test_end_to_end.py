"""The whole daemon, in its own process over real Zenoh, driven by scripted robots."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import yaml

from network.zenoh_settings import ZenohSettings
from network.zenoh_transport import open_transport
from serving.wire.errors import EventCode, RejectCode
from serving.wire.keys import Keys
from serving.wire.messages import ActionChunk
from tests.conftest import REAL_DATA
from tests.network.zenoh_nodes import free_port, until
from tests.serving.client import Client, Refused, shrink
from tests.serving.commands import Running

ROWS = 20
STRIDE = 7  # frames between two questions
TASK = "follow"


@dataclass(frozen=True)
class Recorded:
    """What the robot does over again."""

    root: Path
    states: np.ndarray  # float32 (frames, state_dim)
    actions: np.ndarray  # float32 (frames, action_dim)
    images: dict[str, np.ndarray]  # uint8 RGB by camera

    def wanted(self, frame: int) -> np.ndarray:
        """The recorded actions from a frame on, the last one held."""
        rows = np.minimum(np.arange(frame, frame + ROWS), len(self.actions) - 1)
        return self.actions[rows]


@pytest.fixture(scope="module")
def recorded(generated_dataset: Path) -> Recorded:
    """The first episode of a real recording, of a generated one where there is none."""
    from tasks.dataset.layout import open_dataset

    real = REAL_DATA / "g1-bottle-v3"
    dataset = open_dataset(real if real.is_dir() else generated_dataset)
    episode = dataset.episodes([0])[0]
    columns = dataset.columns(episode, ["observation.state", "action"])
    states, actions = (np.array(columns[k], np.float32).reshape(episode.frames, -1) for k in columns)
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (48, 64, 3)))
    return Recorded(dataset.root, states, actions, dict.fromkeys(dataset.cameras, picture))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


class Server:
    """`serving up` on the recording, on a port of its own. May be started again after its end."""

    def __init__(self, stack: ExitStack, folder: Path, recorded: Recorded, name: str = "a", **changes: object) -> None:
        self.port = free_port()
        self._stack, self._path = stack, folder / f"{name}.yaml"
        manifest = {
            "model": {
                "repo_or_path": str(recorded.root), "device": "cpu", "family": "replay",
                "options": {"chunk_size": ROWS, "episodes": [0]},
            },
            "service_name": TASK, "server_id": name, "health_port": free_port(), "max_sessions": 4,
            "zenoh": {"mode": "peer", "listen_endpoints": [self.endpoint]},
            **changes,
        }  # fmt: skip
        self._path.write_text(yaml.safe_dump(manifest))
        self.start()

    @property
    def endpoint(self) -> str:
        return f"tcp/127.0.0.1:{self.port}"

    def start(self) -> None:
        self.running = self._stack.enter_context(Running("up", str(self._path), "--json"))
        facts = self.running.wait_for(lambda event: event.get("event") == "ready")
        self.keys, self._health = Keys(facts["prefix"]), facts["health"]

    def counted(self, name: str) -> float:
        """A counter of this server, over all its labels."""
        lines = urlopen(f"{self._health}/metrics", timeout=10).read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"cuebook_serving_{name}"))

    def kill(self) -> None:
        self.running.process.kill()
        self.running.process.wait(20)


def robot(stack: ExitStack, *servers: Server, name: str = "robot-1", **options: object) -> Client:
    settings = ZenohSettings(mode="peer", connect_endpoints=[server.endpoint for server in servers])
    client = Client(open_transport(settings), servers[0].keys, name, **options)
    stack.callback(client.leave)
    return client


def walk(client: Client, recorded: Recorded, frames: range) -> None:
    """Be where the recording was, frame after frame, and get what was done from there on, bit by bit."""
    for frame in frames:
        start = frame == frames.start
        exchange = client.ask(recorded.states[frame], recorded.images, episode_start=start, buffer_left_ms=500.0)
        assert exchange.answer.robot.tobytes() == recorded.wanted(frame).tobytes(), f"frame {frame} of {client.name}"


def test_a_robot_walks_through_an_episode(stack, tmp_path, recorded):
    client = robot(stack, server := Server(stack, tmp_path, recorded))
    ack = client.handshake()
    assert ack.accepted and ack.server_id == "a" and ack.session_tag and ack.resume_token
    assert ack.expected_cameras == list(recorded.images) and ack.chunk_form == "robot"
    walk(client, recorded, range(0, len(recorded.states), STRIDE))
    answer = client.ask(recorded.states[0], recorded.images).answer
    assert answer.chunk.chunk_model is None  # it is not asked for, so it is not sent
    assert answer.chunk.seq_id_echo == client.seq == answer.header.seq_id
    assert set(answer.chunk.stages_ms) >= {"queue", "decode", "predict"}
    assert client.reset().ok
    walk(client, recorded, range(0, 5 * STRIDE, STRIDE))
    assert client.close().outcome == "closed"
    assert client.close().outcome == "unknown"
    assert client.foreign == 0
    assert server.running.stop() == 0


def test_a_client_of_the_first_schema_is_served_unchanged(stack, tmp_path, recorded):
    client = robot(stack, Server(stack, tmp_path, recorded), legacy=True)
    ack = client.handshake()
    assert ack.accepted and ack.features == [] and ack.session_tag == b""
    walk(client, recorded, range(0, 10 * STRIDE, STRIDE))
    answer = client.ask(recorded.states[0], recorded.images).answer
    assert answer.model.tobytes() == answer.robot.tobytes()  # both forms, as ever
    assert answer.chunk.stages_ms is None
    assert client.reset().ok
    walk(client, recorded, range(0, 2 * STRIDE, STRIDE))
    client.handshake()  # an old client may take its own place again
    walk(client, recorded, range(0, 2 * STRIDE, STRIDE))
    assert client.close().ok


def test_two_robots_keep_their_places(stack, tmp_path, recorded):
    server = Server(stack, tmp_path, recorded)
    one, other = robot(stack, server, name="one"), robot(stack, server, name="other", legacy=True)
    one.handshake(), other.handshake()
    half = len(recorded.states) // 2
    for frame in range(0, half - STRIDE, STRIDE):  # in turns, each somewhere else
        walk(one, recorded, range(frame, frame + 1))
        walk(other, recorded, range(half + frame, half + frame + 1))
    assert (one.foreign, other.foreign) == (0, 0)


def test_the_last_place_is_given_once_and_an_id_is_kept(stack, tmp_path, recorded):
    server = Server(stack, tmp_path, recorded, max_sessions=1)
    one, other, thief = (robot(stack, server, name=name) for name in ("one", "other", "one"))
    ack = one.handshake()
    with pytest.raises(Refused) as full:
        other.handshake()
    assert full.value.ack.code == RejectCode.FULL and full.value.ack.retryable
    with pytest.raises(Refused) as in_use:
        thief.handshake()
    assert in_use.value.ack.code == RejectCode.IN_USE
    walk(one, recorded, range(0, 2 * STRIDE, STRIDE))
    thief.handshake(resume_token=ack.resume_token)  # who has the token is the robot
    walk(thief, recorded, range(0, 2 * STRIDE, STRIDE))


def test_a_killed_server_comes_back_under_the_same_robot(stack, tmp_path, recorded):
    server = Server(stack, tmp_path, recorded)
    client = robot(stack, server)
    client.handshake()
    assert client.wait_server(alive=True)
    walk(client, recorded, range(0, 3 * STRIDE, STRIDE))
    server.kill()
    assert client.wait_server(alive=False)
    with pytest.raises(TimeoutError):
        client.ask(recorded.states[0], recorded.images, timeout_s=0.3)
    server.start()
    assert client.wait_server(alive=True, timeout_s=20)
    client.handshake()
    walk(client, recorded, range(3 * STRIDE, 6 * STRIDE, STRIDE))
    assert client.seq == 7  # numbers go on: none is used twice


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_is_told_and_ends_well(stack, tmp_path, recorded, how):
    server = Server(stack, tmp_path, recorded)
    client = robot(stack, server)
    client.handshake()
    walk(client, recorded, range(0, 2 * STRIDE, STRIDE))
    assert server.running.stop(how) == 0
    assert client.wait_event(EventCode.DRAINING).retryable
    assert client.wait_event(EventCode.SESSION_CLOSED).reason == "server shutdown"
    assert client.wait_server(alive=False)


def test_of_two_replicas_one_is_chosen_and_only_that_one_hears(stack, tmp_path, recorded):
    servers = [Server(stack, tmp_path, recorded, name) for name in ("a", "b")]
    first, second = (robot(stack, *servers, name=name) for name in ("first", "second"))
    for client in (first, second):  # the way to several servers opens in the background
        assert until(lambda client=client: {s.server_id for s in client.statuses()} == {"a", "b"})
    chosen = first.handshake().server_id
    other = {"a": "b", "b": "a"}[chosen]
    assert second.handshake().server_id == other  # the one with more room
    walk(first, recorded, range(0, 5 * STRIDE, STRIDE))
    walk(second, recorded, range(0, 5 * STRIDE, STRIDE))
    load = {s.server_id: s.active_sessions for s in first.statuses()}
    assert load == {"a": 1, "b": 1}
    for server in servers:  # each heard its own robot, and nothing of the other's
        assert until(lambda server=server: server.counted("requests_total") == 5)
        assert server.counted("dropped_total") == 0
    # with the chosen one gone, nobody answers in its place
    servers["ab".index(chosen)].kill()
    with pytest.raises(TimeoutError):
        first.ask(recorded.states[0], recorded.images, timeout_s=0.5)
    walk(second, recorded, range(5 * STRIDE, 7 * STRIDE, STRIDE))
    assert first.handshake().server_id == other
    walk(first, recorded, range(0, 2 * STRIDE, STRIDE))
    assert (first.foreign, second.foreign) == (0, 0)


def test_a_bad_observation_is_answered_with_its_reason_and_harms_nothing(stack, tmp_path, recorded):
    client = robot(stack, Server(stack, tmp_path, recorded))
    client.handshake()
    event = client.ask(recorded.states[0][:-1], recorded.images).answer.event
    assert event.code == EventCode.BAD_REQUEST and "state" in event.reason and not event.retryable
    event = client.ask(recorded.states[0], {"observation.images.nowhere": shrink(np.zeros((8, 8, 3), np.uint8), 4, 4)})
    assert event.answer.event.code == EventCode.BAD_REQUEST
    exchange = client.ask(recorded.states[0], recorded.images)
    assert isinstance(exchange.answer.message, ActionChunk)


def test_a_lost_observation_is_sent_again_at_once(stack, tmp_path, recorded):
    client = robot(stack, Server(stack, tmp_path, recorded))
    client.handshake()
    usual_ms = [client.ask(recorded.states[0], recorded.images).round_trip_ms for _ in range(50)]
    exchange = client.ask_until_answered(recorded.states[0], recorded.images, lose=1)
    assert exchange.resends >= 1 and exchange.sent.seq == client.seq
    # 1.5 times the slowest until it is missed, and once more to be answered; the rest is for a busy machine
    assert exchange.round_trip_ms < 3 * max(usual_ms) + 200
