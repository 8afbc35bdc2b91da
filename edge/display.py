"""`--display=rerun`: pictures, states, actions, queue, latency and changes of state, in a Rerun viewer or file.

The control thread only leaves a tick in a bounded queue. A thread of its own sends what came in batches: one call for
many ticks holds the interpreter for less long than many calls. What it cannot keep up with is left out and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.errors import EdgeError, SettingsError
from edge.live import Live
from edge.robots.base import RobotFeatures
from edge.run_settings import DisplaySettings

if TYPE_CHECKING:
    from edge.rollout.control import Tick

log = logging.getLogger(__name__)

APPLICATION = "cuebook-edge"
INSTALL = "pip install 'cuebook[display]'"
FLUSH_S = 0.1
TICKS_MAX = 256  # waiting to be sent; pictures are held by them
CLOSE_S = 5.0
QUEUE, LATENCY, LATENESS, AGE = "engine/queue_s", "engine/latency_p95_ms", "control/lateness_ms", "engine/action_age_ms"
LIMITS = {"DEGRADED": "WARN", "STALLED": "WARN", "RECONNECTING": "WARN", "DEAD": "ERROR"}


class Display:
    """Logs one run. Open it before the robot is energised; use it in a `with`."""

    def __init__(self, settings: DisplaySettings, features: RobotFeatures, live: Live) -> None:
        """Raises SettingsError where Rerun is not installed, EdgeError where its file cannot be written."""
        try:
            import rerun
        except ImportError as err:
            raise SettingsError("want rerun-sdk for --display=rerun", f"no module {err.name}", INSTALL) from err
        self._rr, self._settings, self._features, self._live = rerun, settings, features, live
        self.dropped = 0  # ticks
        self._waiting: deque[tuple[float, Tick]] = deque()
        self._stop = threading.Event()
        self._shown_s: dict[str, float] = {}
        self._changes = 0  # transitions already told
        self._stream = rerun.RecordingStream(APPLICATION, recording_id=str(live.about.get("run") or live.began_s))
        self._open()
        self._thread = threading.Thread(target=self._run, name="edge-display", daemon=True)

    def _open(self) -> None:
        settings = self._settings
        try:
            if settings.save is not None:
                settings.save.parent.mkdir(parents=True, exist_ok=True)
                self._stream.save(settings.save)
            elif settings.connect:
                self._stream.connect_grpc(settings.connect)
            else:
                self._rr.spawn(recording=self._stream)
        except (OSError, RuntimeError, ValueError) as err:
            remedy = "save to a file instead: --display.save=run.rrd"
            raise EdgeError("want a Rerun viewer or file", f"{type(err).__name__}: {err}", remedy) from err
        features = self._features
        for path, names in (("robot/state", features.state_names), ("robot/action", features.action_names)):
            self._stream.log(path, self._rr.SeriesLines(names=list(names)), static=True)

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(CLOSE_S)
        if self.dropped:
            log.warning("%d ticks were not shown: the display did not keep up", self.dropped)
        self._stream.disconnect()

    def on_tick(self, tick: Tick) -> None:
        """Leave a tick. On the control thread; never waits."""
        if len(self._waiting) >= TICKS_MAX:
            self.dropped += 1
            return
        self._waiting.append((time.monotonic() - self._live.began_s, tick))

    def _run(self) -> None:
        try:
            while not self._stop.wait(FLUSH_S):
                self._flush()
            self._flush()
        except Exception:  # who only watches must not stop a robot
            log.exception("the display failed and is left out from here on")

    def _flush(self) -> None:
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if batch:
            read = [(at_s, t) for at_s, t in batch if t.reading is not None and t.read_ms]
            sent = [(at_s, t) for at_s, t in batch if t.action is not None]
            self._scalars("robot/state", read, [t.reading.state for _, t in read])  # type: ignore[union-attr]
            self._scalars("robot/action", sent, [t.action for _, t in sent])
            self._scalars(LATENESS, batch, [[t.lateness_ms] for _, t in batch])
            aged = [(at_s, t) for at_s, t in sent if t.dispatched is not None]
            self._scalars(AGE, aged, [[t.dispatched.age_ms] for _, t in aged])  # type: ignore[union-attr]
            for at_s, tick in batch:
                self._pictures(at_s, tick)
        self._engine(time.monotonic() - self._live.began_s)

    def _scalars(self, path: str, ticks: Sequence[tuple[float, Tick]], rows: Sequence[Any]) -> None:
        if not ticks:
            return
        rr = self._rr
        times = [
            rr.TimeColumn("time", duration=[at_s for at_s, _ in ticks]),
            rr.TimeColumn("tick", sequence=[tick.number for _, tick in ticks]),
        ]
        columns = rr.Scalars.columns(scalars=np.asarray(rows, np.float64))
        rr.send_columns(path, indexes=times, columns=columns, recording=self._stream)

    def _pictures(self, at_s: float, tick: Tick) -> None:
        if tick.reading is None or not tick.read_ms:
            return
        for name, picture in tick.reading.images.items():
            if at_s - self._shown_s.get(name, -1e9) < 1 / self._settings.image_hz:
                continue
            self._shown_s[name] = at_s
            self._at(at_s, tick.number)
            self._stream.log(f"camera/{name}", self._encoded(picture))

    def _encoded(self, picture: np.ndarray) -> Any:
        if not self._settings.jpeg_quality:
            return self._rr.Image(picture)
        from serving.wire.images import encode_image

        data = encode_image(np.ascontiguousarray(picture), self._settings.jpeg_quality).data
        return self._rr.EncodedImage(contents=bytes(data), media_type="image/jpeg")

    def _engine(self, at_s: float) -> None:
        live = self._live
        if live.engine is not None:
            stats = live.engine.stats()
            self._at(at_s)
            self._stream.log(QUEUE, self._rr.Scalars([stats.left_s]))
            self._stream.log(LATENCY, self._rr.Scalars([stats.latency_p95_ms]))
        new = live.changes - self._changes
        self._changes += new
        for change in list(live.transitions)[-new:] if new else ():
            self._at(change.at_s)
            why = f"{change.old} -> {change.new} ({change.event}{': ' + change.why if change.why else ''})"
            self._stream.log("engine/state", self._rr.TextLog(why, level=LIMITS.get(change.new, "INFO")))

    def _at(self, at_s: float, tick: int | None = None) -> None:
        self._stream.reset_time()
        self._stream.set_time("time", duration=at_s)
        if tick is not None:
            self._stream.set_time("tick", sequence=tick)
