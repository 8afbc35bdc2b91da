"""Which server is asked: the least busy one that is up. And several servers that others have started."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.answers import endpoint as endpoints
from tasks.answers.client import RESPONSE_BYTES_MAX, CallError
from tasks.answers.endpoint import Endpoint, Router, external
from tasks.errors import AnswererError
from tasks.settings import VlmSettings
from tests.answers.bad_server import HUGE_BYTES, BadServer
from tests.answers.conftest import count, memory

LOST = CallError(None, "broken connection", lost=True)
LATE = CallError(None, "no answer within 1 s")


def three() -> list[Endpoint]:
    bases = ",".join(f"http://127.0.0.1:{p}/v1" for p in (1, 2, 3))
    return external(VlmSettings(api_base=bases))


@pytest.fixture(scope="module")
def made() -> list[Endpoint]:
    return three()


@pytest.fixture
def router(made) -> Router:
    return fresh(made)


def fresh(made: list[Endpoint]) -> Router:
    for e in made:
        e.state, e.process, e.busy, e.used, e.out_until, e.lost_in_row, e.timeouts_in_row = "up", None, 0, 0, 0.0, 0, 0
    router = Router(12)
    router.add(made)
    return router


# ---------------------------------------------------------------- choosing


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.booleans()), max_size=60))
def test_whoever_is_chosen_is_up_and_the_least_busy(made, steps):
    router = fresh(made)
    held: list[Endpoint] = []
    for takes, which, goes_down in steps:
        if goes_down and sum(e.state == "up" for e in made) > 1:
            router.down(made[which], AnswererError("gone"))
        if takes:
            chosen = router.take()
            assert chosen is not None and chosen.state == "up"
            assert all(chosen.busy - 1 <= e.busy for e in made if e.state == "up")
            held.append(chosen)
        elif held:
            router.release(held.pop(which % len(held)))
    assert [e.busy for e in made] == [held.count(e) for e in made]


def test_idle_servers_take_turns(router, made):
    order = []
    for _ in range(6):
        chosen = router.take()
        order.append(made.index(chosen))
        router.release(chosen)
    assert order == [0, 1, 2, 0, 1, 2]


def test_another_than_the_one_that_failed_even_if_it_is_busier(router, made):
    others = [router.take(avoid=made[0]) for _ in range(4)]
    assert made[0] not in others and made[0].busy == 0
    assert router.take(only=made[2]) is made[2]


def test_one_that_loses_a_connection_rests_then_gets_a_single_question(router, made, monkeypatch):
    monkeypatch.setattr(endpoints, "COOL_OFF_S", 0.05)
    assert router.failed(made[0], LOST)  # better off elsewhere
    assert made[0] not in [router.take() for _ in range(6)]
    assert [s.state for s in router.slots()] == ["down", "up", "up"]
    time.sleep(0.06)
    trial = [router.take() for _ in range(4)]
    assert trial.count(made[0]) == 1
    router.replied(made[0])
    assert made[0] in [router.take() for _ in range(2)]


def test_rests_grow_while_nothing_comes_back_but_count_once_for_all_requests_in_flight(router, made):
    for _ in range(10):
        router.failed(made[0], LOST)
    assert made[0].lost_in_row == 1
    rests = []
    for _ in range(8):
        made[0].out_until = 0.0
        router.failed(made[0], LOST)
        rests.append(round(made[0].out_until - time.monotonic()))
    assert rests == [4, 8, 16, 32, 60, 60, 60, 60]


def test_slow_answers_are_no_lost_connections_unless_there_are_many_in_a_row(router, made):
    for _ in range(endpoints.TIMEOUTS_MAX - 1):
        assert not router.failed(made[0], LATE)
    assert [s.state for s in router.slots()] == ["up", "up", "up"]
    router.replied(made[0])
    for _ in range(endpoints.TIMEOUTS_MAX):
        router.failed(made[0], LATE)
    assert [s.state for s in router.slots()] == ["down", "up", "up"]


def test_when_all_rest_the_one_that_rested_longest_is_asked(router, made):
    for e in (made[1], made[0], made[2]):
        router.failed(e, LOST)
    assert not router.failed(made[2], LOST)  # nobody else is better
    assert router.take() is made[1]


def test_one_that_is_coming_is_waited_for_but_not_when_another_is_up(router, made):
    router.starting(made[0])
    assert router.take() in made[1:]
    for e in made[1:]:
        router.down(e, AnswererError("gone"))
    assert router.take() is None
    router.down(made[0], AnswererError("the last one", "its last words"))
    with pytest.raises(AnswererError, match="its last words"):
        router.take()


@given(st.integers(1, 1024), st.lists(st.sampled_from(["up", "starting", "down"]), min_size=3, max_size=3))
def test_limits_of_servers_that_are_up_add_up_to_the_whole(made, limit, states):
    fresh(made)
    router = Router(limit)
    router.add(made)
    for e, state in zip(made, states, strict=True):
        e.state = state
    slots = router.slots()
    limits = [s.limit for s in slots if s.state == "up"]
    assert [s.state for s in slots] == states
    assert not limits or (sum(limits) == limit and max(limits) - min(limits) <= 1)


def test_addresses_are_separated_by_commas_and_counted_once():
    found = external(VlmSettings(api_base=" http://a:1/v1/, https://b/v1 ,,http://a:1/v1 "))
    assert [(e.name, e.settings.api_base) for e in found] == [("a:1", "http://a:1/v1"), ("b:443", "https://b/v1")]
    with pytest.raises(AnswererError, match="api_base"):
        external(VlmSettings(api_base=" , "))


# ---------------------------------------------------------------- several servers that others have started


def test_work_is_shared_and_every_reply_says_who_gave_it(connect):
    with BadServer() as a, BadServer() as b:
        answerer = connect(f"{a.api_base},{b.api_base}", client_concurrency=6)
        answerer.preflight()
        a.gate.clear()
        b.gate.clear()
        asked = threading.Thread(target=answerer.answer, args=([memory(i) for i in range(6)],))
        asked.start()
        assert a.wait_for(lambda: a.in_flight == 3) and b.wait_for(lambda: b.in_flight == 3)
        assert [(s.busy, s.limit, s.state) for s in answerer.slots()] == [(3, 3, "up")] * 2
        a.gate.set()
        b.gate.set()
        asked.join(10)
        replies = answerer.answer([memory(i) for i in range(20)])
    assert {r.server for r in replies} == {a.api_base, b.api_base}


def test_a_slow_server_gets_less(connect):
    with BadServer("slow", delay_s=0.5) as slow, BadServer("slow", delay_s=0.05) as quick:
        answerer = connect(f"{slow.api_base},{quick.api_base}", client_concurrency=4)
        answerer.answer([memory(i) for i in range(40)])
        assert len(slow.bodies) * 3 < len(quick.bodies)


def test_the_limit_is_one_for_all_servers(connect):
    with BadServer("slow", delay_s=0.02) as a, BadServer("slow", delay_s=0.02) as b:
        connect(f"{a.api_base},{b.api_base}", client_concurrency=4).answer([memory(i) for i in range(40)])
        assert a.max_in_flight == b.max_in_flight == 2


@pytest.mark.parametrize("mode", ["drop", "close_midway"])
def test_a_question_that_lost_its_connection_goes_to_another_server_at_once(connect, mode):
    with BadServer(mode) as bad, BadServer() as good:
        answerer = connect(f"{bad.api_base},{good.api_base}", max_retries=0, retry_backoff_s=30.0)
        replies = answerer.answer([memory(i) for i in range(20)])
        assert all(r.answer is not None and r.server == good.api_base for r in replies)
        assert 1 <= len(bad.bodies) < 20


def test_one_that_refuses_is_left_out_and_asked_again_later(connect, monkeypatch, caplog):
    monkeypatch.setattr(endpoints, "COOL_OFF_S", 0.2)
    with BadServer() as good:
        first = BadServer().start()
        base, port = first.api_base, first.port
        first.stop()
        answerer = connect(f"{base},{good.api_base}", max_retries=0)
        answerer.preflight()
        assert f"127.0.0.1:{port}: cannot connect" in caplog.text
        assert all(r.answer is not None for r in answerer.answer([memory(i) for i in range(10)]))
        with BadServer(port=port) as back:
            time.sleep(0.25)
            replies = answerer.answer([memory(i) for i in range(10)])
            assert all(r.answer is not None for r in replies)
            assert len(back.bodies) >= 1
            assert [s.state for s in answerer.slots()] == ["up", "up"]


def test_a_retry_goes_to_another_server(connect):
    with BadServer("500") as bad, BadServer() as good:
        answerer = connect(f"{bad.api_base},{good.api_base}", max_retries=1, client_concurrency=1)
        assert all(r.answer is not None for r in answerer.answer([memory(i) for i in range(4)]))
        assert len(good.bodies) == 4


def test_all_of_several_being_away_is_told_before_any_work(connect):
    gone = [BadServer().start() for _ in range(2)]
    bases = [s.api_base for s in gone]
    for server in gone:
        server.stop()
    with pytest.raises(AnswererError, match=bases[0]):
        connect(",".join(bases)).preflight()


@pytest.mark.parametrize("kind", [{"models": "wrong"}, {"models": "401"}, {"models": "404", "mode": "404"}])
def test_one_of_several_that_can_never_answer_is_an_error(connect, kind):
    with BadServer() as good, BadServer(**kind) as bad, pytest.raises(AnswererError, match=bad.api_base):
        connect(f"{good.api_base},{bad.api_base}").preflight()


def test_each_server_has_a_dialect_of_its_own(connect):
    with BadServer("refuse_json_schema") as old, BadServer() as new:
        answerer = connect(f"{old.api_base},{new.api_base}", client_concurrency=2)
        for _ in range(3):
            assert all(r.answer is not None for r in answerer.answer([memory(i) for i in range(6)]))
        formats = [{b["response_format"]["type"] for b in s.bodies} for s in (old, new)]
        assert formats == [{"json_schema", "json_object"}, {"json_schema"}]


def test_a_doubt_about_a_format_is_settled_with_the_server_it_is_about(connect):
    with BadServer("refuse_formats_silently") as mute, BadServer() as plain:
        answerer = connect(f"{mute.api_base},{plain.api_base}", client_concurrency=1)
        assert all(r.answer is not None for r in answerer.answer([count(i) for i in range(8)]))
        assert sum("response_format" in b for b in mute.bodies) == 1
        assert all(b["response_format"]["type"] == "json_schema" for b in plain.bodies)


def test_a_wrong_key_in_mid_run_names_the_server(connect):
    with BadServer("401") as bad, BadServer() as good, pytest.raises(AnswererError) as caught:
        connect(f"{good.api_base},{bad.api_base}").answer([memory(i) for i in range(4)])
    assert bad.api_base in caught.value.wanted and good.api_base not in caught.value.wanted


# ---------------------------------------------------------------- kept connections


def test_a_kept_connection_that_the_server_closes_is_replaced_and_costs_nothing(connect):
    """Servers hang up on idle connections; one that does so just when it is used has not lost the question."""
    with BadServer("drop_if_kept") as server:
        answerer = connect(server, max_retries=0, client_concurrency=1)
        replies = [answerer.answer([memory(i)])[0] for i in range(4)]
        assert all(r.answer is not None and r.usage.requests == 1 for r in replies)
        assert server.connections == 4
        assert answerer._router.endpoints[0].lost_in_row == 0


# ---------------------------------------------------------------- answers without end, lists that mislead


def test_fifty_megabytes_are_not_read_to_the_end(connect):
    with BadServer("huge", times=1) as server:
        replies = connect(server, client_concurrency=1).answer([memory(), memory()])
        assert RESPONSE_BYTES_MAX <= server.huge_bytes < HUGE_BYTES / 2
    assert replies[0].answer is None and "longer than" in replies[0].reason
    assert replies[1].answer is not None


def test_half_an_answer_is_a_lost_connection_and_tried_again(connect):
    with BadServer("close_midway", times=1) as server:
        reply = connect(server).answer([memory()])[0]
        assert reply.answer is not None and reply.usage.requests == 2


def test_a_list_of_a_cache_does_not_hide_the_model_that_the_server_was_started_with(connect):
    with BadServer("other_model", models="wrong") as server:
        connect(server).preflight()
        assert server.bodies[0]["max_tokens"] == 1
