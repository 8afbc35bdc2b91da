"""What every Transport does: one suite for the network in memory, Zenoh between peers, and Zenoh through a router."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from network.errors import TransportError
from network.gate import ATTACHMENT_BYTES_MAX
from network.memory_transport import Hub, MemoryTransport
from network.transport import Transport
from network.zenoh_settings import ZenohSettings
from network.zenoh_transport import open_transport
from serving.router import RouterSettings, open_router
from tests.network.zenoh_nodes import Bodies, Heard, free_port, until

BODY_MAX = 16 << 20
SILENCE_S = 0.25  # long enough to say that nothing comes
Open = Callable[..., Transport]


@pytest.fixture(params=["memory", "peers", "router"])
def network(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens sessions that hear each other. Between peers the first one is the middle: others hear it alone."""
    if request.param == "memory":
        hub = Hub()
        yield from _closing(lambda body_max: MemoryTransport(hub, body_max))
        return
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    if request.param == "router":
        with open_router(RouterSettings(listen_endpoints=[endpoint])):
            yield from _closing(lambda n: _open(connect_endpoints=[endpoint], rx_message_bytes_max=n))
        return
    count = iter(range(100))

    def peer(body_max: int) -> Transport:
        side = "connect_endpoints" if next(count) else "listen_endpoints"
        return _open(**{side: [endpoint]}, mode="peer", rx_message_bytes_max=body_max)

    yield from _closing(peer)


def _open(**settings: object) -> Transport:
    return open_transport(ZenohSettings(**settings), timeout_s=5.0)


def _closing(make: Callable[[int], Transport]) -> Iterator[Open]:
    opened: list[Transport] = []

    def open_one(body_max: int = BODY_MAX) -> Transport:
        opened.append(make(body_max))
        return opened[-1]

    yield open_one
    for transport in reversed(opened):
        transport.close()


@pytest.fixture
def pair(network: Open) -> tuple[Transport, Transport]:
    return network(), network()


def linked(putter: Transport, hearer: Transport) -> None:
    """Wait until what one declares has reached the other, so that what was declared before has too."""
    ears, publisher = Bodies(), putter.publisher("@link/x", "action")
    declared = hearer.subscribe("@link/*", ears)
    assert until(lambda: publisher.put(b"", b"") or ears.wait(1, 0.05))
    declared.undeclare()
    publisher.undeclare()


# --- puts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["observation", "action"])
@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 1000], ids=["empty", "one", "256KB"])
def test_a_put_arrives_whole_with_its_attachment_and_size(pair, kind, body):
    here, there = pair
    heard = Heard()
    there.subscribe("@t/a/obs", lambda s: heard((s.key, s.size, s.body(), s.attachment)))
    linked(here, there)
    here.publisher("@t/a/obs", kind).put(body, b"h" * 35)
    assert heard.wait()
    assert heard.items == [("@t/a/obs", len(body), body, b"h" * 35)]


def test_without_an_attachment_it_is_empty(pair):
    here, there = pair
    ears = Bodies()
    there.subscribe("@t/a/obs", ears)
    linked(here, there)
    here.publisher("@t/a/obs", "observation").put(b"x", b"")
    assert ears.wait() and ears.items == [("@t/a/obs", b"x", b"")]


@pytest.mark.parametrize(
    ("key_expr", "key", "matches"),
    [
        ("@t/*/obs", "@t/a/obs", True),
        ("@t/*/obs", "@t/a/b/obs", False),
        ("@t/*/*/obs", "@t/a/b/obs", True),
        ("@t/*/obs", "@t/@a/obs", False),
        ("@t/**", "@t/a/b/obs", True),
        ("@t/**", "@t/@a/obs", False),
        ("**", "@t/a/obs", False),
        ("*/a/obs", "@t/a/obs", False),
        ("**", "t/a/obs", True),
        ("@t/a/obs", "@t/a/action", False),
        ("@t/a/**", "@t/a", True),
    ],
)
def test_wildcards_match_chunks_but_never_one_that_begins_with_at(pair, key_expr, key, matches):
    here, there = pair
    ears = Bodies()
    there.subscribe(key_expr, ears)
    linked(here, there)
    here.publisher(key, "action").put(b"x", b"")
    assert ears.wait(1, 5.0 if matches else SILENCE_S) is matches


def test_a_session_does_not_hear_itself(pair):
    here, there = pair
    own, other = Bodies(), Bodies()
    here.subscribe("@t/a/obs", own)
    there.subscribe("@t/a/obs", other)
    linked(here, there)
    here.publisher("@t/a/obs", "action").put(b"x", b"")
    assert other.wait()
    assert not own.wait(1, SILENCE_S)


def test_everybody_who_subscribed_hears_it_once(network):
    middle, first, second = network(), network(), network()
    ears = [Bodies(), Bodies(), Bodies()]
    first.subscribe("@t/a/obs", ears[0])
    second.subscribe("@t/a/obs", ears[1])
    second.subscribe("@t/*/obs", ears[2])
    linked(middle, first)
    linked(middle, second)
    middle.publisher("@t/a/obs", "action").put(b"x", b"")
    assert all(e.wait() for e in ears)
    assert not ears[0].wait(2, SILENCE_S)
    assert [len(e.items) for e in ears] == [1, 1, 1]


def test_a_put_on_a_key_expression_reaches_nobody_and_is_counted(pair):
    here, there = pair
    ears = Bodies()
    there.subscribe("@t/a/obs", ears)
    linked(here, there)
    here.publisher("@t/*/obs", "action").put(b"for everybody", b"")
    here.publisher("@t/a/obs", "action").put(b"for a", b"")
    assert ears.wait()
    assert [body for _, body, _ in ears.items] == [b"for a"]
    assert there.drops() == {"wildcard_key": 1}


def test_ten_megabytes_arrive(pair):
    here, there = pair
    ears, body = Bodies(), bytes(10 << 20)
    there.subscribe("@t/a/obs", ears)
    linked(here, there)
    publisher = here.publisher("@t/a/obs", "action")
    # a sender never waits for its reader, so a body of this size may be dropped on a busy machine
    assert until(lambda: publisher.put(body, b"big") or ears.wait(1, 1.0))
    assert ears.items[0] == ("@t/a/obs", body, b"big")


def test_bodies_above_the_limit_are_dropped_and_the_next_one_arrives(network):
    here, there = network(), network(body_max=100_000)
    ears = Bodies()
    there.subscribe("@t/a/obs", ears)
    linked(here, there)
    publisher = here.publisher("@t/a/obs", "action")
    publisher.put(bytes(100_001), b"")
    publisher.put(bytes(1_000_000), b"")
    publisher.put(bytes(100_000), b"")
    assert ears.wait()
    assert [len(body) for _, body, _ in ears.items] == [100_000]
    assert there.drops()["body_too_large"] >= 1


def test_an_attachment_above_the_limit_is_dropped(pair):
    here, there = pair
    ears = Bodies()
    there.subscribe("@t/a/obs", ears)
    linked(here, there)
    publisher = here.publisher("@t/a/obs", "action")
    publisher.put(b"long", bytes(ATTACHMENT_BYTES_MAX + 1))
    publisher.put(b"fits", bytes(ATTACHMENT_BYTES_MAX))
    assert ears.wait()
    assert [body for _, body, _ in ears.items] == [b"fits"]
    assert there.drops() == {"attachment_too_large": 1}


def test_a_callback_that_raises_is_counted_and_called_again(pair, caplog):
    here, there = pair
    heard = Heard()

    def broken(sample):
        heard(sample.body())
        raise RuntimeError("what a mess")

    there.subscribe("@t/a/obs", broken)
    linked(here, there)
    publisher = here.publisher("@t/a/obs", "action")
    for number in range(25):  # one by one: a sender never waits for its reader, and drops on a busy machine
        publisher.put(b"%d" % number, b"")
        assert heard.wait(number + 1)
    assert until(lambda: there.drops() == {"callback_error": 25})
    said = [r for r in caplog.records if r.name == "network.gate"]
    assert 0 < len(said) <= 4  # the 1st with its traceback, the 1st and 10th as counts
    assert "what a mess" in caplog.text


def test_undeclared_is_undeclared_and_twice_is_once(pair):
    here, there = pair
    ears = Bodies()
    declared = there.subscribe("@t/a/obs", ears)
    linked(here, there)
    publisher = here.publisher("@t/a/obs", "action")
    publisher.put(b"1", b"")
    assert ears.wait()
    declared.undeclare()
    declared.undeclare()
    publisher.put(b"2", b"")
    assert not ears.wait(2, SILENCE_S)
    publisher.undeclare()
    publisher.undeclare()
    with pytest.raises(TransportError, match="undeclared"):
        publisher.put(b"3", b"")


def test_a_subscription_may_end_inside_its_own_callback(pair):
    here, there = pair
    ears = Bodies()

    def once(sample):
        declared.undeclare()
        ears(sample)

    declared = there.subscribe("@t/a/obs", once)
    linked(here, there)
    publisher = here.publisher("@t/a/obs", "action")
    publisher.put(b"1", b"")
    assert ears.wait(1, 5.0)
    publisher.put(b"2", b"")
    assert not ears.wait(2, SILENCE_S)


def test_puts_and_the_end_of_their_publisher_may_race(pair):
    here, _ = pair
    for _ in range(20):
        publisher = here.publisher("@t/a/action", "action")
        errors: list[BaseException] = []

        def flood(publisher=publisher, errors=errors):
            try:
                while True:
                    publisher.put(b"x", b"")
            except TransportError:
                pass
            except BaseException as err:  # noqa: BLE001 - whatever else it is must reach the test
                errors.append(err)

        thread = threading.Thread(target=flood)
        thread.start()
        publisher.undeclare()
        thread.join(5.0)
        assert not thread.is_alive() and not errors


@pytest.mark.parametrize("key", ["a//b", "/a", "a/", "", "a#b", "a?b", "a$b"])
def test_keys_that_are_none_are_refused(pair, key):
    here, _ = pair
    for declare in (
        lambda: here.publisher(key, "action"),
        lambda: here.subscribe(key, print),
        lambda: here.queryable(key, print),
        lambda: here.token(key),
        lambda: here.watch(key, print),
        lambda: here.alive(key, 0.1),
    ):
        with pytest.raises(TransportError):
            declare()


# --- questions -------------------------------------------------------------------------------------------------------


def answering(body: bytes) -> Callable:
    def on_query(query) -> None:
        query.reply(body + query.body())
        query.done()

    return on_query


def test_a_question_that_nobody_answers_comes_back_empty_at_once(pair):
    here, there = pair
    linked(here, there)
    started_s = time.monotonic()
    assert here.query("@t/status", b"", 5.0) == []
    assert time.monotonic() - started_s < 2.0


@pytest.mark.parametrize("size", [0, 3, 300_000])
def test_a_question_is_answered_with_what_the_handler_replies(pair, size):
    here, there = pair
    seen = Heard()

    def on_query(query):
        seen((query.key, query.size))
        answering(b"got ")(query)

    there.queryable("@t/a/reset", on_query)
    linked(here, there)
    assert here.query("@t/a/reset", b"q" * size, 5.0) == [b"got " + b"q" * size]
    assert seen.items == [("@t/a/reset", size)]


def test_all_replicas_answer(network):
    middle, *replicas = [network() for _ in range(4)]
    for i, replica in enumerate(replicas):
        replica.queryable("@t/status", answering(b"%d" % i))
        linked(middle, replica)
    assert sorted(middle.query("@t/status", b"", 5.0)) == [b"0", b"1", b"2"]


def test_two_queryables_of_one_session_both_answer(pair):
    here, there = pair
    there.queryable("@t/a/reset", answering(b"own"))
    there.queryable("@t/*/reset", answering(b"any"))
    linked(here, there)
    assert sorted(here.query("@t/a/reset", b"", 5.0)) == [b"any", b"own"]


def test_a_session_does_not_answer_itself(pair):
    here, there = pair
    here.queryable("@t/status", answering(b"here"))
    there.queryable("@t/status", answering(b"there"))
    linked(here, there)
    assert here.query("@t/status", b"", 5.0) == [b"there"]


def test_a_handler_that_raises_ends_the_question_at_once(pair):
    here, there = pair

    def broken(query):
        raise RuntimeError("no")

    there.queryable("@t/status", broken)
    linked(here, there)
    started_s = time.monotonic()
    assert here.query("@t/status", b"", 5.0) == []
    assert time.monotonic() - started_s < 2.0
    assert there.drops() == {"callback_error": 1}


def test_a_question_may_be_left_unanswered(pair):
    here, there = pair
    there.queryable("@t/session", lambda query: query.done())
    linked(here, there)
    started_s = time.monotonic()
    assert here.query("@t/session", b"", 5.0) == []
    assert time.monotonic() - started_s < 2.0


def test_answers_may_come_from_another_thread(pair):
    here, there = pair
    there.queryable("@t/session", lambda query: threading.Timer(0.1, answering(b"later "), [query]).start())
    linked(here, there)
    assert here.query("@t/session", b"x", 5.0) == [b"later x"]


def test_a_slow_handler_costs_the_time_limit_and_its_late_answer_harms_nobody(network):
    here, slow, quick = network(), network(), network()
    held = Heard()
    slow.queryable("@t/status", held)
    quick.queryable("@t/status", answering(b"quick"))
    linked(here, slow)
    linked(here, quick)
    started_s = time.monotonic()
    assert here.query("@t/status", b"", 0.4) == [b"quick"]
    assert 0.3 < time.monotonic() - started_s < 2.0
    assert held.wait()
    answering(b"late")(held.items[0])
    held.items[0].done()
    held.items[0].reply(b"after the end")
    assert slow.drops()["late_answer"] == 1
    threading.Timer(0.05, lambda: held.wait(2) and answering(b"in time")(held.items[1])).start()
    assert sorted(here.query("@t/status", b"", 5.0)) == [b"in time", b"quick"]


def test_a_handler_that_blocks_costs_the_asker_its_time_limit_only(pair):
    here, there = pair
    go = threading.Event()
    there.queryable("@t/status", lambda query: go.wait(5.0) and query.done())
    linked(here, there)
    started_s = time.monotonic()
    assert here.query("@t/status", b"", 0.3) == []
    assert time.monotonic() - started_s < 2.0
    go.set()


def test_a_question_to_many_keys_reaches_whoever_is_declared_on_one(network):
    """Nobody may reset all robots at once, but the replicas of all services may be asked for their status."""
    here, there, other = network(), network(), network()
    seen = Heard()
    there.queryable("@t/a/status", lambda query: (seen(query.key), answering(b"a")(query)))
    other.queryable("@t/b/status", answering(b"b"))
    there.queryable("@t/*/reset", lambda query: (seen(query.key), answering(b"reset")(query)))
    linked(here, there)
    linked(here, other)
    assert sorted(here.query("@t/*/status", b"", 5.0)) == [b"a", b"b"]
    assert here.query("@t/*/reset", b"", 5.0) == []
    assert seen.items == ["@t/a/status"]
    assert there.drops() == {"wildcard_key": 1}


def test_a_question_above_the_limit_is_not_answered(network):
    here, there = network(), network(body_max=100_000)
    there.queryable("@t/session", answering(b""))
    linked(here, there)
    assert here.query("@t/session", bytes(100_001), 1.0) == []
    assert there.drops() == {"body_too_large": 1}
    assert here.query("@t/session", b"x", 5.0) == [b"x"]


def test_waiting_inside_a_callback_is_refused(pair):
    """It would wait on the very thread that brings the answer."""
    here, there = pair
    said = Heard()

    def on_sample(sample):
        for ask in (lambda: there.query("@t/status", b"", 1.0), lambda: there.alive("@t/*", 1.0)):
            try:
                ask()
            except TransportError as err:
                said(str(err))

    there.subscribe("@t/a/obs", on_sample)
    linked(here, there)
    here.publisher("@t/a/obs", "action").put(b"x", b"")
    assert said.wait(2)
    assert "outside of callbacks" in said.items[0]


# --- liveliness ------------------------------------------------------------------------------------------------------


def test_a_watcher_is_told_what_lives_and_what_comes_and_goes(pair):
    here, there = pair
    first, changes = there.token("@t/a/alive"), Heard()
    linked(here, there)
    here.watch("@t/*/alive", changes)
    assert changes.wait() and changes.items == [("@t/a/alive", True)]
    second = there.token("@t/b/alive")
    there.token("@t/@c/alive")
    assert changes.wait(2) and changes.items[1] == ("@t/b/alive", True)
    first.undeclare()
    first.undeclare()
    assert changes.wait(3) and changes.items[2] == ("@t/a/alive", False)
    second.undeclare()
    assert changes.wait(4) and changes.items[3] == ("@t/b/alive", False)


def test_a_session_that_closes_takes_its_tokens_along(pair):
    here, there = pair
    changes = Heard()
    there.token("@t/a/alive")
    linked(here, there)
    here.watch("@t/*/alive", changes)
    assert changes.wait()
    there.close()
    assert changes.wait(2)
    assert changes.items == [("@t/a/alive", True), ("@t/a/alive", False)]
    assert here.alive("@t/*/alive", 1.0) == []


def test_a_token_that_two_hold_lives_until_both_let_go(network):
    here, first, second = network(), network(), network()
    changes = Heard()
    here.watch("@t/*/alive", changes)
    tokens = [first.token("@t/a/alive"), second.token("@t/a/alive")]
    linked(here, first)
    linked(here, second)
    assert here.alive("@t/*/alive", 1.0) == ["@t/a/alive"]
    tokens[0].undeclare()
    linked(here, first)
    assert here.alive("@t/*/alive", 1.0) == ["@t/a/alive"]
    tokens[1].undeclare()
    assert changes.wait(2)
    assert changes.items == [("@t/a/alive", True), ("@t/a/alive", False)]


def test_alive_lists_what_lives_now(pair):
    here, there = pair
    assert here.alive("@t/*/alive", 1.0) == []
    b, a = there.token("@t/b/alive"), there.token("@t/a/alive")
    there.token("@t/a/b/alive")
    linked(here, there)
    assert here.alive("@t/*/alive", 1.0) == ["@t/a/alive", "@t/b/alive"]
    assert here.alive("@t/b/alive", 1.0) == ["@t/b/alive"]
    a.undeclare()
    b.undeclare()
    linked(here, there)
    assert here.alive("@t/*/alive", 1.0) == []


def test_a_token_on_a_key_expression_is_not_believed(pair):
    here, there = pair
    changes = Heard()
    here.watch("@t/*/alive", changes)
    there.token("@t/*/alive")
    there.token("@t/a/alive")
    linked(here, there)
    assert changes.wait()
    assert changes.items == [("@t/a/alive", True)]
    assert here.alive("@t/*/alive", 1.0) == ["@t/a/alive"]


def test_an_undeclared_watcher_is_told_nothing(pair):
    here, there = pair
    changes = Heard()
    declared = here.watch("@t/*/alive", changes)
    declared.undeclare()
    there.token("@t/a/alive")
    linked(here, there)
    assert not changes.wait(1, SILENCE_S)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_closed_is_closed_and_twice_is_once(pair):
    here, there = pair
    ears = Bodies()
    declared = [
        here.subscribe("@t/a/obs", ears),
        here.queryable("@t/status", answering(b"")),
        here.token("@t/a/alive"),
        here.watch("@t/*/alive", Heard()),
    ]
    publisher = here.publisher("@t/a/action", "action")
    linked(there, here)
    assert here.connected()
    here.close()
    here.close()
    assert not here.connected()
    for one in declared:
        one.undeclare()
    with pytest.raises(TransportError):
        publisher.put(b"x", b"")
    publisher.undeclare()
    for use in (
        lambda: here.publisher("@t/a/action", "action"),
        lambda: here.subscribe("@t/a/obs", ears),
        lambda: here.queryable("@t/x", ears),
        lambda: here.query("@t/x", b"", 0.1),
        lambda: here.token("@t/x/alive"),
        lambda: here.watch("@t/x/alive", ears),
        lambda: here.alive("@t/x/alive", 0.1),
    ):
        with pytest.raises(TransportError):
            use()
    there.publisher("@t/a/obs", "action").put(b"x", b"")
    assert there.query("@t/status", b"", 1.0) == []
    assert not ears.wait(1, SILENCE_S)


def test_a_session_may_be_closed_inside_a_callback(pair):
    here, there = pair
    took_s = Heard()

    def close(sample):
        started_s = time.monotonic()
        there.close()
        took_s(time.monotonic() - started_s)

    there.subscribe("@t/a/obs", close)
    linked(here, there)
    changes = Heard()
    there.token("@t/b/alive")
    here.watch("@t/*/alive", changes)
    assert changes.wait()
    here.publisher("@t/a/obs", "action").put(b"x", b"")
    assert took_s.wait() and took_s.items[0] < 1.0
    assert not there.connected()
    assert changes.wait(2) and changes.items[1] == ("@t/b/alive", False)


def test_closing_ends_a_question_that_is_under_way(pair):
    here, there = pair
    held = Heard()
    there.queryable("@t/status", held)
    linked(here, there)
    threading.Timer(0.2, here.close).start()
    started_s = time.monotonic()
    assert here.query("@t/status", b"", 8.0) == []
    assert time.monotonic() - started_s < 2.0
    assert held.wait()


def test_many_threads_may_close_at_once(pair):
    here, _ = pair
    threads = [threading.Thread(target=here.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5.0)
    assert not any(thread.is_alive() for thread in threads)
    assert not here.connected()
