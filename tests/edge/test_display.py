"""What `--display=rerun` writes, read back from its file."""

from __future__ import annotations

import builtins
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from edge.display import TICKS_MAX, Display
from edge.errors import SettingsError
from edge.live import Live
from edge.robots.base import Reading, RobotFeatures
from edge.run_settings import DisplaySettings

FEATURES = RobotFeatures("arm", ("a.pos", "b.pos"), ("a.pos", "b.pos"), {"front": (48, 64)})
pytest.importorskip("rerun.chunk")


def tick(number: int, **changes):
    picture = np.full((48, 64, 3), number % 255, np.uint8)
    reading = Reading(np.array([number, -number], np.float32), {"front": picture}, time.monotonic())
    whole = dict(
        number=number, reading=reading, read_ms=1.0, action=np.array([number + 0.5, 0], np.float32), lateness_ms=0.25,
        dispatched=SimpleNamespace(age_ms=100.0 + number),
    )  # fmt: skip
    return SimpleNamespace(**{**whole, **changes})


def live_of(**stats):
    engine = SimpleNamespace(stats=lambda: SimpleNamespace(left_s=1.5, latency_p95_ms=31.0))
    return Live({"run": "run-1"}, engine=engine)


def read_back(path) -> dict[str, list]:
    """Values of each component by entity, in the order of time."""
    from rerun.chunk import RrdReader

    rows: dict[str, list] = {}
    for chunk in RrdReader(str(path)).stream():
        batch = chunk.to_record_batch()
        times = batch["time"].cast("int64").to_pylist() if "time" in batch.schema.names else [0] * batch.num_rows
        for name in (n for n in batch.schema.names if ":" in n):
            rows.setdefault(f"{chunk.entity_path}:{name}", []).extend(zip(times, batch[name].to_pylist(), strict=True))
    return {name: [value for _, value in sorted(found, key=lambda row: row[0])] for name, found in rows.items()}


def test_states_actions_pictures_and_changes_are_read_back(tmp_path):
    path, live = tmp_path / "deep" / "run.rrd", live_of()
    with Display(DisplaySettings(type="rerun", save=path, image_hz=240), FEATURES, live) as display:
        for number in range(30):
            display.on_tick(tick(number))
            time.sleep(0.005)
        live.on_transition("CONNECTING", "STREAMING", "merged", "first")
        display.on_tick(tick(30, action=None, dispatched=None))
    told = read_back(path)
    assert told["/robot/state:Scalars:scalars"] == [[float(n), float(-n)] for n in range(31)]
    assert told["/robot/action:Scalars:scalars"] == [[n + 0.5, 0.0] for n in range(30)]
    assert told["/robot/action:SeriesLines:names"] == [["a.pos", "b.pos"]]
    assert told["/control/lateness_ms:Scalars:scalars"] == [[0.25]] * 31
    assert told["/engine/action_age_ms:Scalars:scalars"] == [[100.0 + n] for n in range(30)]
    assert told["/engine/queue_s:Scalars:scalars"][0] == [1.5]
    assert told["/engine/state:TextLog:text"] == [["CONNECTING -> STREAMING (merged: first)"]]
    assert len(told["/camera/front:EncodedImage:blob"]) > 5


def test_a_display_that_does_not_keep_up_costs_ticks_of_the_display_not_of_the_robot(tmp_path):
    held = threading.Event()
    display = Display(DisplaySettings(type="rerun", save=tmp_path / "r.rrd"), FEATURES, live_of())
    display._flush = lambda: held.wait(20)
    with display:
        for number in range(TICKS_MAX + 10):
            began_s = time.perf_counter()
            display.on_tick(tick(number))
            assert time.perf_counter() - began_s < 0.05
        assert display.dropped == 10
        held.set()


def test_a_display_that_fails_is_left_out(tmp_path, caplog):
    with Display(DisplaySettings(type="rerun", save=tmp_path / "r.rrd"), FEATURES, live_of()) as display:
        display.on_tick(tick(0, reading=Reading("no state", {}, 0.0)))
        display._thread.join(20)
        assert not display._thread.is_alive()
        display.on_tick(tick(1))
    assert "left out" in caplog.text


def test_without_rerun_it_is_said_what_to_install(monkeypatch):
    def refuse(name, *rest, **more):
        if name == "rerun":
            raise ImportError("no", name="rerun")
        return real(name, *rest, **more)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingsError, match=r"cuebook\[display\]"):
        Display(DisplaySettings(type="rerun"), FEATURES, live_of())


def test_a_file_that_cannot_be_written_is_refused_before_the_robot_moves(tmp_path):
    (tmp_path / "file").write_text("")
    from edge.errors import EdgeError

    with pytest.raises(EdgeError, match="Rerun"):
        Display(DisplaySettings(type="rerun", save=tmp_path / "file" / "r.rrd"), FEATURES, live_of())
