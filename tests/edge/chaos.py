"""Everything goes wrong, again and again, by seed: and nothing unsound is ever sent.

    python -m tests.edge.chaos --seconds 600 --seed 7

Two robots (one whose chunks continue each other, one whose are appended) drive through a router and, where root may
make one, a bad network. One fault after another: server and router are killed, stopped and started again, packets and
messages are lost, delayed, reordered, repeated and spoilt, and somebody says garbage and forged chunks on every key.
In between, episodes begin, robots pause, and the task changes. Afterwards every single action that was sent is checked,
and every time without actions must have a cause and end in time.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge.state import State
from network.transport import Transport
from network.zenoh_settings import ZenohSettings
from network.zenoh_transport import open_transport
from serving.router import RouterSettings
from serving.wire.header import Header, MessageType
from serving.wire.messages import ActionChunk, encode
from serving.wire.tensors import encode_tensor
from tests.edge import netns
from tests.edge.drive import Drive
from tests.edge.nodes import KEYS, ServerProcess, engine_for, running
from tests.edge.proxy import FINE, Proxy, Weather
from tests.edge.soundness import Gap, faults, gaps
from tests.edge.witness import ROWS, chunk_of, witnesses_of
from tests.network.zenoh_nodes import RouterProcess, free_port

FPS = 30.0
WAIT_MS = 60.0
AGE_MAX_S = 1.5  # below what a chunk lasts, so that rows do grow too old
CALM_S = 2.0  # after a fault, so that the next one finds robots with a full queue
FORGER = 666  # robot number in what a forger says
STORM = Weather(lose=0.15, duplicate=0.3, corrupt=0.15, delay_s=(0.0, 0.3))
RETRIES_S = 3.5  # what a TCP connection that was cut may sleep before it sends again: 1 s, doubled
# how long after the end of a fault the robots act again. The first two are those of the benchmark
BARS_S = {
    "server killed": 0.8, "server hung": 0.5, "server restarted": 0.8, "router killed": 1.0, "router hung": 1.0,
    "cable out": RETRIES_S, "lossy link": RETRIES_S, "slow link": 1.0, "storm": 1.0, "garbage": 0.0, "reset": 1.0,
    "pause": 1.0,
}  # fmt: skip


@dataclass
class Fault:
    """Something that was wrong, from when to when."""

    kind: str
    robot: str = ""  # whom it concerns; "" for all
    from_s: float = field(default_factory=time.monotonic)
    to_s: float = float("inf")

    def end(self, at_s: float | None = None) -> None:
        """It is over."""
        self.to_s = time.monotonic() if at_s is None else at_s


@dataclass
class Report:
    """What came of it."""

    seconds: float
    ticks: int = 0
    acted: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    worst_s: dict[str, float] = field(default_factory=dict)  # by kind: longest until the robots acted again
    outages: int = 0
    unsound: list[str] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    processes: int = 0  # servers whose actions were executed
    counters: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Nothing sent that should not have been, no error, no outage too long."""
        return not (self.unsound or self.too_long or self.errors)


class Errors(logging.Handler):
    """Errors that the robot's side logs, and exceptions that end a thread."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.said.append(record.getMessage())

    def thread(self, what: threading.ExceptHookArgs) -> None:
        """A thread has ended by an exception."""
        self.said.append(f"{what.thread.name if what.thread else '?'}: {what.exc_value!r}")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """To all of this process."""
        logger, hook = logging.getLogger("edge"), threading.excepthook
        logger.addHandler(self)
        threading.excepthook = self.thread
        try:
            yield
        finally:
            threading.excepthook = hook
            logger.removeHandler(self)


class Chaos:
    """The world, and what is done to it."""

    def __init__(self, stack: ExitStack, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.heard_before: list[bytes] = []  # by somebody on the router: headers of answers, tags and all
        self.stack = stack
        self.history: list[Fault] = []
        self.link = None if netns.missing() else stack.enter_context(netns.Link(seed=seed))
        port = free_port()
        self.router = RouterProcess(RouterSettings(listen_endpoints=[f"tcp/0.0.0.0:{port}"]))
        stack.callback(lambda: self.router.process.poll() is None and self.router.kill())
        host, enter = (self.link.near, self.link.enter) if self.link else ("127.0.0.1", [])
        options = {"wait_ms": WAIT_MS, "continues": True}
        self.server = ServerProcess(
            folder, router=f"tcp/{host}:{port}", enter=enter, options=options,
            zenoh={"retry": {"period_init_ms": 100, "period_max_ms": 300, "period_increase_factor": 1.5}},
        )  # fmt: skip
        stack.enter_context(self.server)
        self.endpoint = f"tcp/127.0.0.1:{port}"
        self.proxies: dict[str, list[Proxy]] = {}
        self.drives = {name: self._robot(i + 1, name, rtc) for i, (name, rtc) in enumerate(ROBOTS.items())}

    def _robot(self, number: int, name: str, rtc: bool) -> Drive:
        proxies = self.proxies.setdefault(name, [])
        settings = ZenohSettings(
            connect_endpoints=[self.endpoint], lease_ms=2000,
            retry={"period_init_ms": 100, "period_max_ms": 300, "period_increase_factor": 1.5},
        )  # fmt: skip

        def dial() -> Transport:
            proxies.append(Proxy(open_transport(settings), self.rng.randrange(1 << 30)))
            return proxies[-1]

        engine = engine_for(
            self.endpoint, dial=dial, fps=FPS, client_uuid=name, rtc={"enabled": rtc}, max_action_age_s=AGE_MAX_S,
            zenoh_mode="client",
        )  # fmt: skip
        self.stack.enter_context(running(engine))
        return self.stack.enter_context(Drive(engine, FPS, robot=number))

    # --- faults ----------------------------------------------------------------------------------------------------

    def one(self) -> Fault:
        """A fault by chance, from its beginning to its end."""
        kind = self.rng.choice(list(self._kinds()))
        fault = Fault(kind)
        self.history.append(fault)
        over_s = self._kinds()[kind]()
        fault.end(over_s)
        return fault

    def _kinds(self) -> dict[str, Callable[[], float | None]]:
        kinds: dict[str, Callable[[], float | None]] = {
            "server killed": self._kill_server, "server hung": self._hang_server,
            "server restarted": self._restart_server, "router killed": self._kill_router,
            "router hung": self._hang_router, "storm": self._storm, "garbage": self._garbage,
        }  # fmt: skip
        if self.link is not None:
            kinds |= {"cable out": self._cut, "lossy link": self._lossy, "slow link": self._slow}
        return kinds

    def _for(self, low_s: float, high_s: float) -> None:
        """Some time; robots go on with their episodes meanwhile."""
        end_s = time.monotonic() + self.rng.uniform(low_s, high_s)
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, self.rng.uniform(0.2, 1.0)))
            if self.rng.random() < 0.15:
                self._command()

    def _kill_server(self) -> float:
        self.server.kill()
        self._for(0.2, 4.0)
        return self.server.start().ready_s

    def _restart_server(self) -> float:
        self.server.stop()
        return self.server.start().ready_s

    def _hang_server(self) -> None:
        self.server.hang()
        try:
            self._for(0.3, 4.0)
        finally:
            self.server.resume()

    def _kill_router(self) -> None:
        self.router.kill()
        self._for(0.2, 4.0)
        self.router.start()

    def _hang_router(self) -> None:
        self.router.process.send_signal(signal.SIGSTOP)
        try:
            self._for(0.3, 4.0)
        finally:
            self.router.process.send_signal(signal.SIGCONT)

    def _cut(self) -> None:
        self._linked(0.3, 4.0, cut=True)

    def _lossy(self) -> None:
        self._linked(2.0, 5.0, loss_share=self.rng.uniform(0.02, 0.15), delay_ms=self.rng.uniform(0, 40))

    def _slow(self) -> None:
        delay_ms = self.rng.uniform(50, 600)
        self._linked(2.0, 5.0, delay_ms=delay_ms, jitter_ms=delay_ms / 3)

    def _linked(self, low_s: float, high_s: float, **path: Any) -> None:
        assert self.link is not None
        self.link.change(**path)
        self._for(low_s, high_s)
        self.link.change(delay_ms=0.0, jitter_ms=0.0, loss_share=0.0, cut=False)

    def _storm(self) -> None:
        ways = [way for proxies in self.proxies.values() for way in (proxies[-1].up, proxies[-1].down)]
        for way in ways:
            way.weather = STORM
        self._for(2.0, 5.0)
        for way in ways:
            way.weather = FINE
        time.sleep(STORM.delay_s[1])  # what was delayed is still part of it

    def _garbage(self) -> None:
        """Somebody on the same router, who knows all keys and the wire, and what robots were told in earlier times.

        Who hears a robot's answers at this moment could repeat their headers: a router's access control keeps him off.
        """
        network = open_transport(ZenohSettings(connect_endpoints=[self.endpoint]))
        try:
            end_s = time.monotonic() + 3.0
            puts = [network.publisher(key, "action").put for name in ROBOTS for key in _keys(name)]
            heard: list[bytes] = []
            for name in ROBOTS:
                network.subscribe(KEYS.action(name), lambda sample: heard.append(sample.attachment))
            while time.monotonic() < end_s:
                for put in puts:
                    put(*self._forged(self.rng.choice(self.heard_before) if self.heard_before else b""))
                time.sleep(0.01)
            self.heard_before += heard
        finally:
            network.close()

    def _forged(self, heard: bytes) -> tuple[bytes, bytes]:
        if self.rng.random() < 0.3:
            return self.rng.randbytes(self.rng.randrange(400)), self.rng.randbytes(self.rng.choice([0, 27, 35, 100]))
        tensor = encode_tensor(chunk_of(np.array([0, 0, FORGER, 0], np.float32), 1, 1, 0, ROWS))
        body = encode(ActionChunk(chunk_robot=tensor, chunk_model=tensor))
        tag = heard[27:] if heard and self.rng.random() < 0.5 else b""
        seq = self.rng.randrange(1, 2000)
        header = Header(1, MessageType.CHUNK, seq, self.rng.randrange(4), time.monotonic_ns(), self.rng.randrange(1, 9))
        return body, heard if heard and self.rng.random() < 0.2 else header.pack(tag)

    def _command(self) -> None:
        """What a person does meanwhile."""
        name, drive = self.rng.choice(list(self.drives.items()))
        if not drive.is_alive():
            return
        what = self.rng.choice(["reset", "pause", "task"])
        if what == "task":
            return drive.engine.set_task(f"task {self.rng.randrange(100)}")
        fault = Fault(what, name)
        self.history.append(fault)
        if what == "reset":
            drive.reset()
        else:
            drive.do(drive.engine.pause)
            time.sleep(self.rng.uniform(0.1, 2.0))
            drive.do(drive.engine.resume)
        return fault.end()

    def calm(self) -> None:
        """Until all robots act again, and a little longer. Who does not is found by the report."""
        end_s = time.monotonic() + 10.0
        for drive in self.drives.values():
            while time.monotonic() < end_s and not (drive.ticks and drive.ticks[-1].state == State.STREAMING):
                time.sleep(0.02)
        time.sleep(self.rng.uniform(0.2, CALM_S))


ROBOTS = {"robot-continues": True, "robot-appends": False}


def _keys(name: str) -> list[str]:
    return [KEYS.action(name), KEYS.observation(name), KEYS.observation(name, "a")]


# --- what became of it ------------------------------------------------------------------------------------------------


def judge(chaos: Chaos, report: Report, slack: float) -> None:
    """Check every action and every outage."""
    report.faults = Counter(fault.kind for fault in chaos.history)
    processes: set[int] = set()
    for name, drive in chaos.drives.items():
        report.ticks += len(drive.ticks)
        report.acted += sum(tick.acts for tick in drive.ticks)
        report.unsound += [f"{name}: {fault}" for fault in faults(drive, AGE_MAX_S)]
        processes |= {said.process for said in witnesses_of(t.action for t in drive.ticks if t.acts)}
        report.counters[name] = drive.engine.stats().counters
        for gap in gaps(drive.ticks):
            report.outages += 1
            _judge_gap(name, gap, chaos.history, report, slack)
        if drive.error is not None:
            report.errors.append(f"{name}: {drive.error!r}")
        if drive.engine.failed:
            report.errors.append(f"{name} has given up: {drive.engine.failure}")
    report.processes = len(processes)


def _judge_gap(name: str, gap: Gap, history: list[Fault], report: Report, slack: float) -> None:
    """A gap is the fault's that was there when it began, or shortly before, and is over soon after it."""
    concerned = [fault for fault in history if fault.robot in ("", name)]
    causes = [f for f in concerned if f.from_s <= gap.to_s and f.to_s + slack * BARS_S[f.kind] + 1 / FPS >= gap.from_s]
    what = f"{name}: {gap.ticks} ticks, {gap.to_s - gap.from_s:.2f} s"
    if not causes:
        before = [f"{f.kind} until {gap.from_s - f.to_s:.2f} s before" for f in concerned if f.to_s < gap.from_s]
        report.too_long.append(f"{what}, without a cause; {'; '.join(before[-2:])}")
        return
    last = max(causes, key=lambda fault: fault.to_s + slack * BARS_S[fault.kind])
    after_s = gap.to_s - last.to_s
    report.worst_s[last.kind] = max(report.worst_s.get(last.kind, 0.0), after_s)
    if after_s > slack * BARS_S[last.kind] + 1 / FPS:
        report.too_long.append(f"{what}, over {after_s:.2f} s after {last.kind}")


def run(seconds: float, seed: int, slack: float = 1.0, say: Callable[[str], None] = lambda line: None) -> Report:
    """Chaos for so long. `slack`: how many times longer than its bar an outage may take, on a busy machine."""
    report, errors = Report(seconds), Errors()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(errors.listening())
        chaos = Chaos(stack, folder, seed)
        for drive in chaos.drives.values():
            drive.until_acts()
        chaos.calm()
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            last = chaos.one()
            say(f"{end_s - time.monotonic():5.0f} s left: {last.kind}, {last.to_s - last.from_s:.1f} s")
            chaos.calm()
        for drive in chaos.drives.values():
            drive.until_acts()
            drive.end()
        judge(chaos, report, slack)
    report.errors += errors.said
    return report


def main() -> None:
    """As a command; the exit status is 1 when something unsound was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--slack", type=float, default=1.0, help="times its bar that an outage may take")
    args = parser.parse_args()
    report = run(args.seconds, args.seed, args.slack, lambda line: print(line, flush=True))
    print(json.dumps(report.__dict__, indent=1))
    sys.exit(not report.sound)


if __name__ == "__main__":
    main()
