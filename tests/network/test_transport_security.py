"""TLS, certificates on both sides, and a router that keeps robots apart. Denial is silent: only delivery proves it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from network.errors import TransportError
from network.transport import Transport
from network.zenoh_settings import ZenohSettings
from network.zenoh_transport import open_transport
from serving.router import RouterSettings, open_router
from serving.wire.keys import Keys
from tests.network.certificates import Authority
from tests.network.zenoh_nodes import Bodies, Heard, free_port, until

KEYS = Keys.of("lerobot/pi0_towels", "main", "fold the towel")
SERVER = "replica-1"
OPEN_S = 5.0
REFUSED_S = 0.6  # a refused connection is only known by the end of its time limit
SILENCE_S = 0.4


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "another authority")


Connect = Callable[..., Transport]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens transports and closes them in the end."""
    opened: list[Transport] = []

    def open_one(endpoint: str, timeout_s: float = OPEN_S, **settings: object) -> Transport:
        opened.append(open_transport(ZenohSettings(connect_endpoints=[endpoint], **settings), timeout_s))
        return opened[-1]

    yield open_one
    for transport in opened:
        transport.close()


@pytest.fixture
def guarded(authority: Authority) -> Iterator[str]:
    """The endpoint of a router that knows robot-a and robot-b."""
    endpoint = f"tls/127.0.0.1:{free_port()}"
    settings = RouterSettings(listen_endpoints=[endpoint], robots=["robot-a", "robot-b"], **authority.listens("router"))
    with open_router(settings):
        yield endpoint


def carries(sender: Transport, receiver: Transport) -> bool:
    """Whether a put goes from one to the other."""
    ears = Bodies()
    receiver.subscribe("@t/*/obs", ears)
    publisher = sender.publisher("@t/a/obs", "action")
    return until(lambda: publisher.put(b"x", b"") or ears.wait(1, 0.05), 5.0)


# --- TLS -----------------------------------------------------------------------------------------------------------


def test_tls_without_client_certificates_carries_messages(authority, connect):
    endpoint = f"tls/localhost:{free_port()}"
    settings = RouterSettings(listen_endpoints=[endpoint], enable_mtls=False, **authority.listens("router"))
    with open_router(settings):
        tls = {"tls_root_ca_certificate": authority.certificate, "enable_mtls": False}
        assert carries(connect(endpoint, **tls), connect(endpoint, **tls))


def test_mtls_between_peers_carries_messages_and_lets_nobody_else_in(authority, stranger, connect):
    endpoint = f"tls/127.0.0.1:{free_port()}"
    listening = open_transport(
        ZenohSettings(mode="peer", listen_endpoints=[endpoint], **authority.listens("server")), OPEN_S
    )
    try:
        robot = connect(endpoint, mode="peer", **authority.connects("robot-a"))
        assert carries(robot, listening)
        wrong = {**stranger.connects("robot-a"), "tls_root_ca_certificate": authority.certificate}
        with pytest.raises(TransportError, match="refuses us without a word"):
            connect(endpoint, REFUSED_S, mode="peer", **wrong)
    finally:
        listening.close()


def test_who_has_no_right_certificate_gets_no_session(guarded, authority, stranger, connect):
    ca = authority.certificate
    shows_nothing = {"tls_root_ca_certificate": ca, "enable_mtls": False}
    signed_by_another = {**stranger.connects("robot-a"), "tls_root_ca_certificate": ca}
    trusts_another = {**authority.connects("robot-a"), "tls_root_ca_certificate": stranger.certificate}
    for tls in (shows_nothing, signed_by_another, trusts_another):
        started_s = time.monotonic()
        with pytest.raises(TransportError) as caught:
            connect(guarded, REFUSED_S, **tls)
        assert time.monotonic() - started_s < REFUSED_S + 2.0
        assert guarded in str(caught.value) and "certificates" in caught.value.remedy
    with pytest.raises(TransportError, match="no Zenoh session came about") as caught:
        connect(guarded.replace("tls/", "tcp/"), REFUSED_S)
    assert "tls/ instead of tcp/" in caught.value.remedy
    assert connect(guarded, **authority.connects("robot-a")).connected()


def test_a_name_that_the_certificate_does_not_hold_is_not_trusted(authority, connect):
    port = free_port()
    settings = RouterSettings(listen_endpoints=[f"tls/127.0.0.1:{port}"], **authority.listens("router"))
    with open_router(settings), pytest.raises(TransportError):
        connect(f"tls/127.0.0.2:{port}", REFUSED_S, **authority.connects("robot-a"))


# --- robots apart --------------------------------------------------------------------------------------------------


@pytest.fixture
def cast(guarded: str, authority: Authority, connect: Connect) -> tuple[Transport, Transport, Transport]:
    """The server and two robots."""
    server, a, b = (connect(guarded, **authority.connects(name)) for name in ("server", "robot-a", "robot-b"))
    return server, a, b


def surface(server: Transport) -> tuple[Bodies, Heard, Heard]:
    """What a daemon declares: ears for observations, for questions, for tokens."""
    observations, questions, tokens = Bodies(), Heard(), Heard()

    def answer(query) -> None:
        questions(query.key)
        query.reply(b"server")
        query.done()

    server.subscribe(KEYS.observation("*"), observations)
    server.subscribe(KEYS.observation("*", SERVER), observations)
    asked = (KEYS.session, KEYS.session_of("*"), KEYS.reset("*"), KEYS.reset("*", SERVER), KEYS.status)
    for key in asked:
        server.queryable(key, answer)
    server.watch(KEYS.alive("*"), tokens)
    server.token(KEYS.server_alive)
    server.token(KEYS.replica_alive(SERVER))
    return observations, questions, tokens


def sends(robot: Transport, name: str, observations: Bodies) -> None:
    """A robot's own observation gets through: by then everything that it sent before would have, too."""
    publisher, body = robot.publisher(KEYS.observation(name), "action"), f"of {name}".encode()
    assert until(
        lambda: publisher.put(body, b"") or observations.until(lambda items: body in [i[1] for i in items], 0.05)
    )


def test_a_robot_does_all_that_is_its_own(cast):
    server, a, _ = cast
    observations, questions, tokens = surface(server)
    actions, servers = Bodies(), Heard()
    a.subscribe(KEYS.action("robot-a"), actions)
    a.watch(KEYS.server_alive, servers)
    a.watch(KEYS.replica_alive("*"), servers)
    a.token(KEYS.alive("robot-a"))
    sends(a, "robot-a", observations)
    to_replica = a.publisher(KEYS.observation("robot-a", SERVER), "observation")
    assert until(
        lambda: (
            to_replica.put(b"one", b"")
            or observations.until(lambda items: KEYS.observation("robot-a", SERVER) in [i[0] for i in items], 0.05)
        )
    )
    publisher = server.publisher(KEYS.action("robot-a"), "action")
    assert until(lambda: publisher.put(b"act", b"") or actions.wait(1, 0.05))
    own = [KEYS.session_of("robot-a"), KEYS.reset("robot-a"), KEYS.reset("robot-a", SERVER), KEYS.status]
    assert [a.query(key, b"", 5.0) for key in own] == [[b"server"]] * 4
    assert questions.items == own
    assert servers.wait(2)
    assert sorted(servers.items) == [(KEYS.server_alive, True), (KEYS.replica_alive(SERVER), True)]
    assert a.alive(KEYS.replica_alive("*"), 1.0) == [KEYS.replica_alive(SERVER)]
    assert tokens.until(lambda items: (KEYS.alive("robot-a"), True) in items)
    assert server.alive(KEYS.alive("robot-a"), 1.0) == [KEYS.alive("robot-a")]


def test_a_robot_cannot_speak_for_another(cast):
    server, a, b = cast
    observations, questions, tokens = surface(server)
    forged = [
        KEYS.observation("robot-a"),
        KEYS.observation("robot-a", SERVER),
        KEYS.observation("*"),
        KEYS.observation("robot-a", "*"),
        KEYS.action("robot-a"),
        f"{KEYS.prefix}/**",
    ]
    for key in forged:
        b.publisher(key, "action").put(b"forged", b"")
    for key in (KEYS.alive("robot-a"), KEYS.server_alive, KEYS.replica_alive("robot-b")):
        b.token(key)
    sends(b, "robot-b", observations)
    assert not observations.until(lambda items: any(body != b"of robot-b" for _, body, _ in items), SILENCE_S)
    assert [b.query(key, b"", 0.5) for key in (KEYS.session_of("robot-a"), KEYS.reset("robot-a"), KEYS.session)] == [
        [], [], [],
    ]  # fmt: skip
    assert questions.items == []
    assert [item for item in tokens.items if item[0] != KEYS.server_alive] == []
    assert server.alive(KEYS.alive("robot-a"), 1.0) == []
    assert a.alive(KEYS.replica_alive("robot-b"), 1.0) == []


def test_a_robot_cannot_hear_another_or_pose_as_the_server(cast):
    server, a, b = cast
    observations, questions, _ = surface(server)
    spied, wanted = Bodies(), Bodies()
    for key in (KEYS.action("robot-a"), KEYS.action("*"), KEYS.observation("*"), "@lerobot/**"):
        b.subscribe(key, spied)
    b.queryable(KEYS.status, lambda query: (query.reply(b"impostor"), query.done()))
    b.queryable(KEYS.session_of("*"), lambda query: (query.reply(b"impostor"), query.done()))
    a.subscribe(KEYS.action("robot-a"), wanted)
    sends(b, "robot-b", observations)
    publisher = server.publisher(KEYS.action("robot-a"), "action")
    assert until(lambda: publisher.put(b"secret", b"") or wanted.wait(1, 0.05))
    sends(a, "robot-a", observations)
    forged = b.publisher(KEYS.action("robot-a"), "action")
    forged.put(b"forged", b"")
    assert not spied.wait(1, SILENCE_S)
    assert {body for _, body, _ in wanted.items} == {b"secret"}
    assert a.query(KEYS.status, b"", 1.0) == [b"server"]
    assert a.query(KEYS.session_of("robot-a"), b"", 1.0) == [b"server"]
    assert questions.items == [KEYS.status, KEYS.session_of("robot-a")]


def test_a_put_on_a_key_expression_inside_ones_own_keys_is_not_taken(cast):
    """The router lets it pass, since the rule includes it; the server's transport does not."""
    server, _, b = cast
    observations, *_ = surface(server)
    sends(b, "robot-b", observations)
    wild = b.publisher(KEYS.observation("robot-b").replace("/main/", "/*/"), "action")
    assert until(lambda: wild.put(b"wild", b"") or server.drops().get("wildcard_key"))
    assert b"wild" not in [body for _, body, _ in observations.items]


def test_a_certificate_that_the_router_does_not_know_may_do_nothing(cast, guarded, authority, connect):
    server, a, _ = cast
    observations, questions, _ = surface(server)
    unknown, spied = connect(guarded, **authority.connects("robot-c")), Bodies()
    unknown.subscribe("@lerobot/**", spied)
    unknown.publisher(KEYS.observation("robot-c"), "action").put(b"x", b"")
    assert unknown.query(KEYS.status, b"", 0.5) == []
    assert unknown.query(KEYS.session_of("robot-c"), b"", 0.5) == []
    sends(a, "robot-a", observations)
    assert not spied.wait(1, SILENCE_S)
    assert questions.items == []
    assert {body for _, body, _ in observations.items} == {b"of robot-a"}


def test_clients_that_know_only_the_shared_session_key_may_be_let_in(authority, connect):
    endpoint = f"tls/127.0.0.1:{free_port()}"
    settings = RouterSettings(
        listen_endpoints=[endpoint], robots=["robot-a"], shared_session_key=True, **authority.listens("router")
    )
    with open_router(settings):
        server = connect(endpoint, **authority.connects("server"))
        robot = connect(endpoint, **authority.connects("robot-a"))
        surface(server)
        assert until(lambda: robot.query(KEYS.session, b"", 1.0) == [b"server"])


def test_files_are_named_when_they_are_wrong(authority, tmp_path: Path, connect):
    endpoint = f"tls/127.0.0.1:{free_port()}"
    good = authority.connects("robot-a")
    with pytest.raises(TransportError, match=r"tls_connect_private_key[\s\S]*No such file"):
        connect(endpoint, **{**good, "tls_connect_private_key": str(tmp_path / "absent.pem")})
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(TransportError, match=r"tls_root_ca_certificate[\s\S]*no PEM block"):
        connect(endpoint, **{**good, "tls_root_ca_certificate": str(tmp_path / "empty.pem")})
