"""One JSON line a request, whatever the disk does; nobody waits for it."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import serving.audit
from serving.audit import AuditLine, AuditWriter, RotatingFile, audit_line
from serving.errors import ServingError
from serving.log_writer import LogWriter
from serving.record import STAGES, Drop, RequestRecord
from tests.serving.watched import ROWS, WAIT_S, DoublingPolicy, Robot, start_daemon, until


def record(seq_id: int = 1, **fields) -> RequestRecord:
    return RequestRecord("s1", "ann", seq_id, 4, **fields)


def lines_of(*paths) -> list[dict]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line]


def test_every_request_of_a_daemon_has_its_line(tmp_path):
    path, policy = tmp_path / "logs/audit.jsonl", DoublingPolicy()
    audit = AuditWriter(path)
    daemon, hub = start_daemon(policy, audit.note)
    robot = Robot(hub, "ann")
    ack = robot.open()
    robot.chunk()
    policy.raises = ValueError("secret\ninside")
    robot.send()
    robot.hear()
    policy.raises = None
    policy.go.clear()
    policy.predicting.clear()
    robot.send()
    assert policy.predicting.wait(WAIT_S)
    robot.send()
    robot.send()
    policy.go.set()
    robot.hear()
    robot.hear()
    daemon.stop()
    assert audit.close() and audit.close()
    good, failed, held, last = lines_of(path)
    assert (good["session_id"], good["client_uuid"], good["seq_id"], good["episode_id"]) == (
        ack.session_id,
        "ann",
        1,
        1,
    )
    assert good["outcome"] == "ok" and good["chunk_rows"] == ROWS and good["batch"] == 1 and good["superseded"] == 0
    assert list(good["stages_ms"]) == list(STAGES)
    inside = good["stages_ms"]
    assert good["queue_wait_ms"] == pytest.approx(inside["queue"] + inside["wait"], abs=0.002)
    assert good["inference_ms"] == pytest.approx(
        inside["preprocess"] + inside["predict"] + inside["postprocess"], abs=0.003
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", good["ts"])
    assert failed["outcome"] == "error: internal: secret\ninside" and failed["chunk_rows"] == 0
    assert (held["seq_id"], held["superseded"]) == (3, 0)
    assert (last["seq_id"], last["superseded"]) == (5, 1)
    assert audit.lost == 0


def test_times_have_three_decimals_and_bodies_stay_out():
    line = audit_line(
        record(stages_s={"queue": 0.0012345678, "wait": 0.001}, request_body=b"x" * 1000, outcome="y" * 9000)
    )
    assert line.queue_wait_ms == 2.235
    assert len(json.dumps(line.stages_ms)) < 60 and len(line.outcome) == 500


def test_drops_are_no_requests(tmp_path):
    audit = AuditWriter(tmp_path / "a")
    audit.note(Drop("bad_key"))
    audit.close()
    assert (tmp_path / "a").read_bytes() == b""


def test_a_full_file_is_turned_over_and_the_oldest_goes(tmp_path):
    path = tmp_path / "audit.jsonl"
    size = len(json.dumps({"n": 1000}))
    file = RotatingFile(path, bytes_max=(size + 1) * 10, kept=2)
    for n in range(1000, 1045):
        file.write(json.dumps({"n": n}).encode())
    file.close()
    file.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
    kept = [line["n"] for line in lines_of(*(tmp_path / f"audit.jsonl{end}" for end in (".2", ".1", "")))]
    assert kept == list(range(kept[0], 1045)) and len(kept) >= 20
    assert all(p.stat().st_size <= (size + 1) * 10 for p in tmp_path.iterdir())


def test_a_restart_goes_on_in_the_same_file(tmp_path):
    for seq_id in (1, 2):
        audit = AuditWriter(tmp_path / "a")
        audit.note(record(seq_id))
        audit.close()
    assert [line["seq_id"] for line in lines_of(tmp_path / "a")] == [1, 2]


def test_a_logger_takes_lines_too(caplog):
    logger = logging.getLogger("test.audit")
    with caplog.at_level(logging.INFO, "test.audit"):
        audit = AuditWriter(logger)
        audit.note(record(7))
        audit.close()
    assert [json.loads(r.message)["seq_id"] for r in caplog.records if r.name == "test.audit"] == [7]


def test_standard_output_takes_lines_and_is_never_turned_over(tmp_path):
    code = """
from serving.audit import RotatingFile
from pathlib import Path
file = RotatingFile(Path("/dev/stdout"), bytes_max=10)
for n in range(5):
    file.write(b'{"n": %d}' % n)
file.close()
"""
    out = tmp_path / "out"
    with out.open("wb") as stream:
        subprocess.run([sys.executable, "-c", code], stdout=stream, check=True)
    assert [line["n"] for line in lines_of(out)] == [0, 1, 2, 3, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_path_that_cannot_be_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file/audit.jsonl", tmp_path):
        with pytest.raises(ServingError, match=r"audit log .*\n.*\n.*audit\.path"):
            AuditWriter(path)


def test_a_full_disk_warns_once_and_costs_lines_only(tmp_path, monkeypatch, caplog):
    path = tmp_path / "audit.jsonl"
    real, full = os.write, threading.Event()

    def write(fd: int, data: bytes) -> int:
        if full.is_set():
            if len(data) % 2:  # sometimes nothing fits, sometimes half of it
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(fd, data[: len(data) // 2])
        return real(fd, data)

    monkeypatch.setattr(serving.audit.os, "write", write)
    file = RotatingFile(path)
    writer = LogWriter("audit", lambda line: file.write(line))
    full.set()
    for n in range(9, 12):
        writer.put(json.dumps({"n": n, "pad": "x" * n}).encode())
    until(lambda: writer.lost == 3)
    full.clear()
    writer.put(b'{"n": 12}')
    writer.close(WAIT_S)
    file.close()
    assert writer.lost == 3 and writer.written == 1
    assert len([r for r in caplog.records if "loses entries" in r.message]) == 1
    assert path.read_text().splitlines()[-1] == '{"n": 12}'  # a torn line never swallows the next


def test_a_stuck_disk_holds_nobody_up_and_losses_are_counted():
    free, took = threading.Event(), threading.Event()

    def write(item: int) -> None:
        took.set()
        assert free.wait(WAIT_S)

    writer = LogWriter("stuck", write, items_max=4, bytes_max=100)
    assert writer.put(0)
    assert took.wait(WAIT_S)
    assert [writer.put(n) for n in range(1, 8)] == [True] * 3 + [False] * 4
    assert not writer.close(timeout_s=0.05)
    free.set()
    assert writer.close(WAIT_S)
    assert (writer.lost, writer.written) == (4, 4)
    assert not writer.put(9) and writer.lost == 5


def test_items_are_bounded_by_bytes_too():
    free = threading.Event()
    writer = LogWriter("large", lambda item: free.wait(WAIT_S), bytes_max=100)
    assert writer.put(b"", 60)
    assert not writer.put(b"", 60)
    assert writer.put(b"", 40)
    free.set()
    assert writer.close(WAIT_S)


def test_the_page_about_the_audit_log_is_complete_and_its_query_runs(tmp_path, monkeypatch):
    import duckdb

    page = (Path(__file__).resolve().parents[2] / "docs/observability.md").read_text()
    section = page.split("## Audit log")[1].split("## ")[0]
    named = [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    ]
    assert named == list(AuditLine.__struct_fields__)
    monkeypatch.chdir(tmp_path)
    audit = AuditWriter("audit.jsonl")
    for seq_id in range(4):
        audit.note(record(seq_id, superseded=seq_id, outcome="error: internal: x" if seq_id == 3 else "ok"))
    audit.close()
    (query,) = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    ((client, requests, *_, superseded, failed),) = duckdb.sql(query).fetchall()
    assert (client, requests, superseded, failed) == ("ann", 4, 6, 1)
