"""Captured requests run again byte for byte, and what differs is found; a damaged log costs its tail."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from network.memory_transport import Hub, MemoryTransport
from serving.assemble import assemble
from serving.capture import CaptureWriter
from serving.capture_log import count_pairs, read_segment, segments
from serving.errors import ServingError
from serving.manifest import Manifest
from serving.policies.base import Chunk, SessionInfo
from serving.record import RequestRecord
from serving.replay_capture import batches, replay
from serving.session import Agreement
from serving.work import PipelineSettings
from tests.serving.watched import DIM, ROWS, SPEC, WAIT_S, DoublingPolicy, Robot, start_daemon, until

SETTINGS = PipelineSettings(batch_max=4, max_wait_s=0.5, default_task="stack", keep_bodies=True)


class Captured:
    """A daemon that captures."""

    def __init__(self, folder, policy: DoublingPolicy, pairs_max: int = 64, **settings) -> None:
        self.policy = policy
        self.settings = replace(SETTINGS, **settings)
        self.writer = CaptureWriter(folder, pairs_max, policy.spec, self.settings, "replica-1")
        self.daemon, self.hub = start_daemon(policy, self.writer.note, pipeline=self.settings)

    def __enter__(self) -> Captured:
        return self

    def __exit__(self, *_: object) -> None:
        self.policy.go.set()
        self.daemon.stop()
        assert self.writer.close(WAIT_S)


def kept(folder) -> list:
    return [pair for path in segments(folder) for pair in read_segment(path)[0].pairs]


def test_a_captured_session_runs_again_byte_for_byte(tmp_path):
    with Captured(tmp_path, DoublingPolicy()) as served:
        full, small, plain = Robot(served.hub, "ann"), Robot(served.hub, "bob"), Robot(served.hub, "old")
        full.open()
        small.open(chunk_form="robot", accept_f16=True)
        plain.open(features=[])  # a client of schema version 1: no tag, both forms, no stages
        for state in (0.1, 0.2, 0.3):
            for robot in (full, small, plain):
                robot.chunk(state)
        full.send(state=0.4, episode_id=2)
        full.hear()
    report = replay(tmp_path, DoublingPolicy())
    assert report.ok and (report.pairs, report.equal) == (10, 10), report
    assert report.notes == [] and report.largest_deviation == 0


def test_what_was_predicted_together_is_predicted_together_again(tmp_path):
    policy = DoublingPolicy()
    with Captured(tmp_path, policy) as served:
        robots = [Robot(served.hub, name) for name in ("ann", "bob", "cy")]
        for robot in robots:
            robot.open()
        policy.go.clear()
        robots[0].send(state=1.0)
        assert policy.predicting.wait(WAIT_S)
        for robot in robots[1:]:
            robot.send(state=2.0)
        until(lambda: len(served.daemon.pipeline._prepared) == 2)
        policy.go.set()
        for robot in robots:
            robot.hear()
    assert policy.batches == [1, 2]
    again = DoublingPolicy()  # rounds otherwise in other batches
    report = replay(tmp_path, again)
    assert report.ok and report.equal == 3, report
    assert again.batches == [1, 2]
    alone = DoublingPolicy(replace(SPEC, batch_max=1))
    report = replay(tmp_path, alone)
    assert len(report.differences) == 2 and 0 < report.largest_deviation < 2e-3


def test_batches_are_found_again_though_the_log_has_them_as_they_ended(tmp_path):
    with Captured(tmp_path, DoublingPolicy()) as served:
        robot = Robot(served.hub, "ann")
        robot.open()
        robot.chunk()
    (pair,) = kept(tmp_path)

    def of(seq_id: int, number: int, place: int = 0):
        return replace_pair(pair, seq_id=seq_id, batch_number=number, batch_place=place)

    log = [of(1, 1, 1), of(2, 0), of(3, 2), of(4, 1, 0), of(5, 3)]
    assert [[p.seq_id for p in batch] for batch in batches(log)] == [[4, 1], [2], [3], [5]]


def replace_pair(pair, **fields):
    import msgspec

    return msgspec.structs.replace(pair, **fields)


def test_another_answer_is_found_with_its_largest_deviation(tmp_path):
    with Captured(tmp_path, DoublingPolicy()) as served:
        robot = Robot(served.hub, "ann")
        ack = robot.open()
        robot.chunk()
        robot.chunk(0.5)
    other = DoublingPolicy(replace(SPEC, model_revision="feedbeef"))
    other.drift = 0.25
    report = replay(tmp_path, other)
    assert not report.ok and report.equal == 0
    assert report.notes == ["captured with model_revision 0123abcd, run with feedbeef"]
    first = report.differences[0]
    assert (first.session_id, first.client, first.seq_id) == (ack.session_id, "ann", 1)
    assert first.deviation == pytest.approx(0.5, abs=1e-3)  # robot space, twice the model's
    assert f"chunk_robot: {ROWS * DIM} of {ROWS * DIM} values differ, by 0.5" in first.what


def test_one_flipped_bit_is_a_difference(tmp_path):
    with Captured(tmp_path, DoublingPolicy()) as served:
        robot = Robot(served.hub, "ann")
        robot.open()
        robot.chunk()

    class OneBit(DoublingPolicy):
        def predict(self, batch):
            raws = super().predict(batch)
            raws[0].view(np.uint32)[2, 1] ^= 1
            return raws

    report = replay(tmp_path, OneBit())
    assert "1 of 18 values differ" in report.differences[0].what
    assert 0 < report.largest_deviation < 1e-6


def test_refusals_come_out_as_refusals(tmp_path):
    policy = DoublingPolicy()
    with Captured(tmp_path, policy) as served:
        robot = Robot(served.hub, "ann")
        robot.open()
        robot.send(body=b"\xc1")
        robot.hear()
        policy.raises = ValueError("no")
        robot.send()
        robot.hear()
        policy.raises = None
        robot.chunk()
    broken = DoublingPolicy()
    broken.raises = ValueError("no")
    report = replay(tmp_path, broken)
    assert report.refused_alike == 2 and [d.seq_id for d in report.differences] == [3]
    assert report.differences[0].what == "was ok, is ValueError: no"
    report = replay(tmp_path, DoublingPolicy())
    assert (report.refused_alike, report.equal) == (1, 1)
    assert report.differences[0].what.startswith("was error: internal") and "a chunk" in report.differences[0].what


def test_a_pinned_task_and_bounds_are_those_of_then(tmp_path):
    with Captured(tmp_path, DoublingPolicy(), pinned_task="stack") as served:
        robot = Robot(served.hub, "ann")
        robot.open()
        robot.send(body=robot.observation(task="juggle"))
        robot.hear()
    report = replay(tmp_path, DoublingPolicy())
    assert report.refused_alike == 1 and report.ok


def test_an_exclusive_policy_is_reset_where_it_was(tmp_path):
    policy = DoublingPolicy(replace(SPEC, shared=False, batch_max=1))
    with Captured(tmp_path, policy, batch_max=1) as served:
        robot = Robot(served.hub, "ann")
        robot.open()
        for episode in (1, 1, 2):
            robot.send(episode_id=episode)
            robot.hear()
    again = DoublingPolicy(policy.spec)
    assert replay(tmp_path, again).ok
    assert policy.resets == 2 and again.resets == 2 + 1  # and once before it begins


def test_the_ring_keeps_the_last_pairs_and_little_more(tmp_path):
    with Captured(tmp_path, DoublingPolicy(), pairs_max=16) as served:
        robot = Robot(served.hub, "ann")
        robot.open()
        for _ in range(50):
            robot.chunk()
    numbers = [pair.seq_id for pair in kept(tmp_path)]
    assert numbers == list(range(numbers[0], 51)) and 16 <= len(numbers) <= 18
    assert replay(tmp_path, DoublingPolicy()).equal == len(numbers)
    with Captured(tmp_path, DoublingPolicy(), pairs_max=16) as served:  # a restart goes on with the same ring
        robot = Robot(served.hub, "ann")
        robot.open()
        for _ in range(10):
            robot.chunk()
    assert 16 <= len(kept(tmp_path)) <= 18
    report = replay(tmp_path, DoublingPolicy())  # two runs, each with its own sessions
    assert report.ok and report.equal == report.pairs


def test_the_disk_is_bounded_whatever_the_pairs_weigh(tmp_path):
    writer = CaptureWriter(tmp_path, 1000, SPEC, SETTINGS, disk_bytes_max=80_000)
    for seq_id in range(60):
        writer.note(heavy(seq_id, 4000))
        until(lambda: writer._writer.written > seq_id)  # noqa: B023
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 80_000
    writer.close()
    assert [pair.seq_id for pair in kept(tmp_path)][-1] == 59 and len(kept(tmp_path)) >= 10


def heavy(seq_id: int, size: int) -> RequestRecord:
    return RequestRecord(
        "s",
        "ann",
        seq_id,
        0,
        request_header=b"h",
        request_body=b"x" * size,
        info=SessionInfo("s", "ann"),
        agreed=Agreement(),
    )


def test_records_without_bodies_are_not_kept(tmp_path):
    writer = CaptureWriter(tmp_path, 8, SPEC, SETTINGS)
    writer.note(RequestRecord("s", "ann", 1, 0))
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_pairs_and_leaves_no_litter(tmp_path, monkeypatch, caplog):
    import serving.capture

    real, full = serving.capture.os.write, threading.Event()
    monkeypatch.setattr(
        serving.capture.os,
        "write",
        lambda fd, data: real(fd, data[: len(data) // 2]) if full.is_set() else real(fd, data),
    )
    writer = CaptureWriter(tmp_path, 64, SPEC, SETTINGS)

    def note(seq_id: int) -> None:
        writer.note(heavy(seq_id, 100))
        until(lambda: writer._writer.written + writer.lost == seq_id)

    note(1)
    full.set()
    for seq_id in range(2, 30):
        note(seq_id)
    full.clear()
    note(30)
    writer.close()
    assert writer.lost == 28 and len(list(tmp_path.iterdir())) == 2
    assert len([r for r in caplog.records if "loses entries" in r.message]) == 1
    assert [pair.seq_id for pair in kept(tmp_path)] == [1, 30]


@pytest.fixture
def three_pairs(tmp_path):
    with Captured(tmp_path, DoublingPolicy()) as served:
        robot = Robot(served.hub, "ann")
        robot.open()
        for _ in range(3):
            robot.chunk()
    (path,) = segments(tmp_path)
    assert count_pairs(path) == 3
    return path


def test_a_torn_tail_is_skipped_and_said(three_pairs):
    whole = three_pairs.read_bytes()
    for cut in (1, 5, 300):
        three_pairs.write_bytes(whole[:-cut])
        report = replay(three_pairs, DoublingPolicy())
        assert report.ok and report.equal == 2
        assert three_pairs.name in report.notes[0] and "skipped" in report.notes[0]


def test_a_flipped_byte_is_skipped_and_said(three_pairs):
    data = bytearray(three_pairs.read_bytes())
    data[-50] ^= 0xFF
    three_pairs.write_bytes(data)
    report = replay(three_pairs, DoublingPolicy())
    assert report.equal == 2 and "damaged" in report.notes[0]


def test_every_cut_is_survived(three_pairs):
    whole = three_pairs.read_bytes()
    for size in range(0, len(whole), 97):
        three_pairs.write_bytes(whole[:size])
        segment, damage = read_segment(three_pairs)
        assert damage and (segment is None or len(segment.pairs) < 3)


@given(at=st.integers(0, 1 << 16), byte=st.integers(0, 255), cut=st.integers(0, 1 << 16))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_damage_raises_and_no_pair_is_made_up(three_pairs, at, byte, cut):
    whole, path = three_pairs.read_bytes(), three_pairs.with_suffix(".damaged")
    good = read_segment(three_pairs)[0].pairs
    data = bytearray(whole[: max(1, len(whole) - cut)])
    data[at % len(data)] = byte
    path.write_bytes(data)
    count_pairs(path)
    segment, damage = read_segment(path)
    assert damage or data == whole
    assert segment is None or segment.pairs == good[: len(segment.pairs)]


def test_a_claimed_length_allocates_nothing(three_pairs):
    data = bytearray(three_pairs.read_bytes())
    data[8:12] = b"\xff\xff\xff\x7f"
    three_pairs.write_bytes(data)
    segment, damage = read_segment(three_pairs)
    assert segment is None and "longer than what is left" in damage


def test_foreign_and_missing_files_are_told(tmp_path):
    with pytest.raises(ServingError, match=r"captured requests in .*\n.*\.cap"):
        replay(tmp_path, DoublingPolicy())
    (tmp_path / "00000001-x.cap").write_bytes(b"something else entirely")
    report = replay(tmp_path, DoublingPolicy())
    assert not report.ok and "no capture segment" in report.notes[0]


def test_an_answer_of_another_shape_is_told(three_pairs):
    class Longer(DoublingPolicy):
        def open_session(self, info):
            session = super().open_session(info)
            session.finish = lambda raw: Chunk(*(np.concatenate([raw, raw]) for _ in range(2)))
            return session

    report = replay(three_pairs, Longer(replace(SPEC, chunk_size=2 * ROWS)))
    assert "float32 (6, 3), is float32 (12, 3)" in report.differences[0].what
    assert report.differences[0].deviation is None


def test_what_a_manifest_captures_runs_again_by_that_manifest(tmp_path):
    manifest = Manifest.model_validate(
        {
            "model": {"repo_or_path": "acme/doubling", "family": "tests.serving.watched:doubling", "device": "cpu"},
            "default_task": "stack",
            "health_port": 0,
            "audit": {"path": str(tmp_path / "audit.jsonl")},
            "debug": {"capture_dir": str(tmp_path / "capture"), "capture_max": 16},
            "zenoh": {"mode": "peer", "listen_endpoints": ["tcp/127.0.0.1:0"]},
        }
    )
    hub = Hub()
    service = assemble(manifest, transport=MemoryTransport(hub))
    service.start()
    try:
        robot = Robot(hub, "ann")
        robot.open()
        for state in (0.1, 0.2, 0.3):
            robot.chunk(state)
    finally:
        service.stop()
    report = replay(tmp_path / "capture", manifest)
    assert report.ok and report.equal == 3 and report.notes == [], report
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["seq_id"] for line in lines] == [1, 2, 3]
