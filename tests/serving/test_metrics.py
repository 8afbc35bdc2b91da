"""The counts are those of what happened, under names and labels from fixed sets."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.log_writer import LogWriter
from serving.metrics import DROP_REASONS, EVENTS, OTHER, PREFIX, REJECTS, TRANSPORT_REASONS, Metrics
from serving.record import STAGES, Drop, RequestRecord
from serving.wire.errors import EventCode, RejectCode
from serving.wire.header import MessageType
from serving.wire.limits import Limits
from serving.work import PipelineSettings
from tests.serving.watched import WAIT_S, DoublingPolicy, Robot, start_daemon

SERVING = Path(__file__).resolve().parents[2] / "serving"


def read(metrics: Metrics) -> dict[str, float]:
    """Samples by name and labels, `requests_total` or `dropped_total{reason="bad_key"}`."""
    found = {}
    for family in text_string_to_metric_families(metrics.page().decode()):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            found[sample.name.removeprefix(f"{PREFIX}_") + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


@pytest.fixture
def served():
    policy, metrics = DoublingPolicy(), Metrics()
    limits = Limits(body_bytes_max=20_000)
    daemon, hub = start_daemon(
        policy, metrics.note, pipeline=PipelineSettings(batch_max=4, limits=limits, max_wait_s=0.5), sessions_max=2
    )
    metrics.watch(daemon)
    yield policy, metrics, daemon, hub
    policy.go.set()
    daemon.stop()


def test_requests_are_counted_and_every_stage_is_timed(served):
    _, metrics, daemon, hub = served
    robot = Robot(hub, "ann")
    robot.open()
    for state in range(3):
        robot.chunk(state)
    assert daemon.pipeline.drain(WAIT_S)
    seen = read(metrics)
    assert seen["requests_total"] == 3
    assert seen["sessions_opened_total"] == 1
    assert seen["request_seconds_count"] == 3
    for stage in STAGES:
        assert seen[f'stage_seconds_count{{stage="{stage}"}}'] == 3
        assert 0 <= seen[f'stage_seconds_sum{{stage="{stage}"}}'] < WAIT_S
    assert seen["batch_size_count"] == 3 and seen["batch_size_sum"] == 3
    assert seen["active_sessions"] == 1 and seen["sessions_max"] == 2 and seen["load"] == 0.5
    assert seen["ready"] == 1 and seen["connected"] == 1 and seen["draining"] == 0
    assert 0 < seen["policy_busy_seconds_total"] < WAIT_S
    info = next(name for name in seen if name.startswith("info{"))
    assert 'model_revision="0123abcd"' in info and 'checkpoint_hash="c0ffee"' in info
    assert 'server_id="replica-1"' in info and 'normalisation_hash="beef"' in info


def test_a_batch_is_one_batch_of_many_requests(served):
    policy, metrics, daemon, hub = served
    robots = [Robot(hub, name) for name in ("ann", "bob")]
    for robot in robots:
        robot.open()
    policy.go.clear()
    robots[0].send()
    assert policy.predicting.wait(WAIT_S)
    robots[1].send()  # prepared while the first is predicted
    policy.go.set()
    for robot in robots:
        robot.hear()
    policy.predicting.clear()
    policy.go.clear()
    for robot in robots:  # both wait for the one that is held up
        robot.send()
    assert policy.predicting.wait(WAIT_S)
    policy.go.set()
    for robot in robots:
        robot.hear()
    assert daemon.pipeline.drain(WAIT_S)
    seen = read(metrics)
    assert seen["requests_total"] == 4
    assert seen["batch_size_count"] == len(policy.batches)
    assert seen["batch_size_sum"] == 4


def test_every_reason_to_drop_an_observation_is_counted_under_its_name(served):
    policy, metrics, daemon, hub = served
    robot, stranger = Robot(hub, "ann"), Robot(hub, "mallory")
    robot.open()
    robot.send(tag=b"12345678")
    robot.send(schema_version=2)
    robot.send(msg_type=MessageType.CHUNK)
    robot.send(body=b"x" * 20_001)
    robot.publisher.put(b"", b"short")
    stranger.send()
    robot.transport.publisher(daemon.settings.keys.observation("alive"), "observation").put(b"", b"")
    assert {robot.hear().code, robot.hear().code} == {EventCode.BAD_SCHEMA, EventCode.BAD_REQUEST}
    robot.chunk()
    robot.send(session_epoch=0)
    policy.predicting.clear()
    policy.go.clear()
    robot.send()
    assert policy.predicting.wait(WAIT_S)
    robot.send()
    robot.send()  # replaces the one before
    daemon.control.draining = True
    robot.send()
    policy.go.set()
    assert daemon.pipeline.drain(WAIT_S)
    seen = read(metrics)
    dropped = {reason: seen[f'dropped_total{{reason="{reason}"}}'] for reason in (*DROP_REASONS, OTHER)}
    assert dropped == dict.fromkeys(DROP_REASONS, 1) | {"internal": 0, OTHER: 0}
    assert seen["superseded_total"] == 1
    assert seen['events_total{code="bad_schema"}'] == 1
    assert seen['events_total{code="bad_request"}'] == 1  # of the one that was too large
    assert seen['events_total{code="draining"}'] == 1
    assert seen["draining"] == 1 and seen["ready"] == 0


def test_failed_requests_are_counted_by_code_and_events_by_code(served):
    policy, metrics, daemon, hub = served
    robot = Robot(hub, "ann")
    robot.open()
    robot.send(body=b"\xc1")
    robot.hear()
    policy.raises = ValueError("out of order")
    robot.send()
    robot.hear()
    policy.raises = None
    robot.chunk()
    assert daemon.pipeline.drain(WAIT_S)
    seen = read(metrics)
    assert seen["requests_total"] == 3
    assert seen['errors_total{code="bad_request"}'] == 1
    assert seen['errors_total{code="internal"}'] == 1
    assert seen['events_total{code="internal"}'] == 1
    assert seen['stage_seconds_count{stage="predict"}'] == 1


def test_refused_sessions_and_ends_are_counted(served):
    _, metrics, daemon, hub = served
    for name in ("ann", "bob"):
        assert Robot(hub, name).open().accepted
    assert not Robot(hub, "cy").open().accepted
    assert not Robot(hub, "cy").open(action_names=["z", "y", "x"]).accepted
    again = Robot(hub, "ann")
    assert again.open().accepted  # in place of the first, which lost its token
    again.close()
    assert Robot(hub, "cy").open(action_names=["z", "y", "x"]).code == RejectCode.ACTION_NAMES
    assert daemon.pipeline.drain(WAIT_S)
    seen = read(metrics)
    assert seen['rejects_total{code="full"}'] == 2
    assert seen['rejects_total{code="action_names"}'] == 1
    assert seen["sessions_opened_total"] == 3 and seen["sessions_closed_total"] == 2


def test_what_the_network_dropped_is_shown(served):
    _, metrics, _, hub = served
    Robot(hub, "ann").transport.publisher("@lerobot/**", "observation").put(b"", b"")
    seen = read(metrics)
    assert seen['network_dropped_total{reason="wildcard_key"}'] >= 1


def test_unknown_words_never_become_labels():
    metrics = Metrics()
    for reason in ("robot-17", "event_robot-17", "reject_robot-17", ""):
        metrics.note(Drop(reason))
    metrics.note(RequestRecord("s", "robot-17", 1, 1, outcome="error: robot-17: x", stages_s={"robot-17": 1.0}))
    seen = read(metrics)
    assert not [name for name in seen if "robot-17" in name]
    assert seen['dropped_total{reason="other"}'] == 2
    assert seen['events_total{code="other"}'] == 1
    assert seen['rejects_total{code="other"}'] == 1
    assert seen['errors_total{code="other"}'] == 1


def test_two_daemons_count_for_themselves():
    one, two = Metrics(), Metrics()
    one.note(Drop("bad_key"))
    assert read(one)['dropped_total{reason="bad_key"}'] == 1
    assert read(two)['dropped_total{reason="bad_key"}'] == 0


def words_in(path: str, calls: tuple[str, ...]) -> set[str]:
    """Literal first arguments of calls, and literals that `_unwanted` returns."""
    found = set()
    for node in ast.walk(ast.parse((SERVING / path).read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in calls:
            found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
        if isinstance(node, ast.FunctionDef) and node.name == "_unwanted":
            found |= {
                n.value.value for n in ast.walk(node) if isinstance(n, ast.Return) and isinstance(n.value, ast.Constant)
            }
    return {word for word in found if isinstance(word, str) and word}


def test_every_word_that_the_code_drops_by_has_a_place():
    counted = {"superseded", "session_opened", "session_closed"}
    said = (
        words_in("daemon.py", ("_drop", "Drop"))
        | words_in("control.py", ("Drop",))
        | words_in("pipeline.py", ("Drop",))
    )
    assert said - counted == set(DROP_REASONS)
    assert words_in("../network/gate.py", ("drop",)) | set(
        re.findall(r'reason = "(\w+)"', (SERVING / "../network/gate.py").read_text())
    ) == set(TRANSPORT_REASONS)


def test_codes_are_the_wires():
    seen = read(Metrics())
    for code in EventCode:
        assert f'events_total{{code="{code.name.lower()}"}}' in seen
    for code in set(RejectCode) - {RejectCode.NONE}:
        assert f'rejects_total{{code="{code.name.lower()}"}}' in seen


def test_the_page_about_metrics_is_complete(served):
    _, metrics, _, _ = served
    page = (SERVING.parent / "docs/observability.md").read_text()
    metrics.watch_log("audit", LogWriter("audit", lambda line: None))
    shown = set()
    for family in text_string_to_metric_families(metrics.page().decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        shown.add((name, family.type, frozenset(k for s in family.samples for k in s.labels) - {"le"}))
    rows = re.findall(r"^\| `(cuebook_\w+)` \| (\w+) \| ([\w, ]*)\|", page, re.MULTILINE)
    assert {(name, kind, frozenset(labels.replace(" ", "").split(",")) - {""}) for name, kind, labels in rows} == shown
    assert set(re.findall(r"^\| `(\w+)` \| ", page.split("Why an observation")[1].split("##")[0], re.MULTILINE)) == set(
        DROP_REASONS
    )
    for word in (*EVENTS, *REJECTS, *TRANSPORT_REASONS, *STAGES):
        assert f"`{word}`" in page
