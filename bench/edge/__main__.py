"""The robot's side beside its reference, and beside a loop without any engine, in one run.

    python -m bench.edge [--only ticks network append killed hung lost forged cpu import] [--rounds 3] [--seconds 20]

Every robot and every server is a process of its own. The reference is re-created from its specification (`msgpack`,
`opencv-python-headless`); without these only our engine is measured. The bad network needs root and /dev/net/tun.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np

from bench.common import measure, print_table
from bench.edge.nodes import Forger, RobotProcess, edge_run, routed, run, served
from bench.edge.robot import NONE, OURS, REFERENCE, Result, Run
from edge.state import State
from tests.edge import netns

HAVE_REFERENCE = all(find_spec(name) is not None for name in ("cv2", "msgpack"))
KINDS = (REFERENCE, OURS) if HAVE_REFERENCE else (OURS,)
WAIT_MS = 150.0  # of the policy
OUT_S = 5.0  # how long a server is away, or hangs
LOADS_S = 1.6  # how long it takes to start, about
KNOWS_S = 8.0  # of warm-up, after which an engine knows how long answers take
BAD_NETWORK = {"delay_ms": 30.0, "loss_share": 0.02, "rate_mbit": 20.0}  # 60 ms there and back
HELD = {"fallback": "hold"}


class Bars:
    """What was to be reached."""

    def __init__(self) -> None:
        self._rows: list[list[object]] = []

    def note(self, what: str, bar: str, got: str, met: bool) -> None:
        """One of them."""
        self._rows.append([what, bar, got, "met" if met else "MISSED"])

    def show(self) -> None:
        """All of them."""
        print_table("Bars", ["what", "bar", "got", ""], self._rows)


def idle_ticks(result: Result) -> int:
    """Without an action; a run begins after the first one."""
    return result.acted.count(False)


def longest_gap_s(result: Result) -> float:
    """The longest time without actions."""
    longest, since = 0.0, result.at_s[0]
    for at_s, acted in zip(result.at_s, result.acted, strict=True):
        longest = max(longest, at_s - since)
        if acted:
            since = at_s
    return longest


def ticks(bars: Bars, rounds: int, seconds: float) -> None:
    """100 Hz, a policy that takes 150 ms. All kinds take turns; medians over the rounds."""
    kinds = [(kind, paced) for paced in (False, True) for kind in (NONE, *KINDS)]
    taken: dict[tuple[str, bool], list[Sequence[float]]] = {kind: [] for kind in kinds}
    with served(WAIT_MS, rows=100, fps=100.0) as at:
        for _ in range(rounds):
            for kind, paced in kinds:
                got = run(at, kind, fps=100.0, seconds=seconds, warm_up_s=1.0, paced=paced)
                p50, p99 = (float(np.quantile(got.late_ms, q)) for q in (0.5, 0.99))
                taken[kind, paced].append((p50, p99, max(got.late_ms), idle_ticks(got), 1e2 * got.cpu_share))
    medians = {kind: [statistics.median(column) for column in zip(*taken[kind], strict=True)] for kind in kinds}
    rows = [[kind, "as edge run" if paced else "sleep", *medians[kind, paced]] for kind, paced in kinds]
    columns = ["tick lateness", "loop", "p50 ms", "p99 ms", "max ms", "ticks without action", "CPU, % of a core"]
    print_table(f"100 Hz, {WAIT_MS:g} ms policy, {seconds:g} s: medians of {rounds} rounds in turns", columns, rows)
    for paced, loop in ((False, "a loop that sleeps"), (True, "the loop of edge run")):
        ours, none = medians[OURS, paced][1], medians[NONE, paced][1]
        met = ours <= 0.6 and ours <= 1.5 * none
        what = f"{ours:.2f} ms, {ours / none:.2f}x"
        bars.note(f"tick lateness p99 at 100 Hz, {loop}", "<= 0.6 ms, <= 1.5x no engine", what, met)


def network(bars: Bars, seconds: float) -> None:
    """30 Hz, a policy that takes 150 ms: on the host, and over a bad network."""
    rows = []
    with served(WAIT_MS) as at:
        for kind in KINDS:
            got = run(at, kind, seconds=seconds)
            rows.append(_network_row(kind, "loopback", got))
            _note_idle(bars, kind, "on one host", got)
    if why := netns.missing():
        print(f"no bad network: {why}")
    else:
        with netns.Link(**BAD_NETWORK) as link, served(WAIT_MS, host=link.far, enter=link.enter) as at:
            for kind in KINDS:
                got = run(at, kind, seconds=3 * seconds)
                rows.append(_network_row(kind, "60 ms, 2 % loss, 20 Mbit/s", got))
                _note_idle(bars, kind, "60 ms RTT, 2 % loss, 20 Mbit/s", got)
        with netns.Link(**BAD_NETWORK) as link, served(
            WAIT_MS, host=link.far, enter=link.enter, options={"cameras": 2}
        ) as at:  # fmt: skip
            for kind in KINDS:
                got = run(at, kind, seconds=3 * seconds, cameras=2)
                rows.append(_network_row(kind, "the same, two 640x480 cameras", got))
                _note_idle(bars, kind, "the same, two 640x480 cameras", got)
    columns = [
        "30 Hz, 150 ms policy",
        "network",
        "ticks",
        "without action",
        "longest gap s",
        "answers p99 ms",
        "resends",
    ]
    print_table("Actions in time", columns, rows)


def _network_row(kind: str, what: str, got: Result) -> list[object]:
    p99 = f"{got.p99_ms:.0f}" if got.p99_ms else "-"
    idle = idle_ticks(got)
    return [
        kind,
        what,
        len(got.acted),
        idle,
        longest_gap_s(got) if idle else 0.0,
        p99,
        got.counters.get("resends", "-"),
    ]


def _note_idle(bars: Bars, kind: str, where: str, got: Result) -> None:
    if kind == OURS:
        idle = idle_ticks(got)
        bars.note(f"ticks without action, 30 Hz, 150 ms policy, {where}", "0", str(idle), idle == 0)


def append(bars: Bars, seconds: float) -> None:
    """Chunks that do not continue each other: when is each row executed?"""
    rows = []
    with served(WAIT_MS) as at:
        for kind in KINDS:
            got = run(at, kind, seconds=seconds)
            wrong = len(got.wrong_steps)
            rows.append([kind, sum(got.acted), wrong, max(got.wrong_steps, default=0), min(got.wrong_steps, default=0)])
            if kind == OURS:
                bars.note("rows executed at the wrong control step, append mode", "0", str(wrong), wrong == 0)
    columns = ["append mode, 30 Hz", "rows executed", "at the wrong step", "latest by", "earliest by"]
    print_table("The control step that a row is for, and that it is executed at", columns, rows)


def killed(bars: Bars) -> None:
    """The server is killed while the robot drives, and is back after 5 s."""
    rows = []
    for kind in KINDS:
        with served(WAIT_MS) as at, RobotProcess(_long(kind, at, 14.0)) as robot:
            _sleep_until(robot.acting_s + 2.0)
            at.kill()
            killed_s = time.monotonic()
            _sleep_until(killed_s + OUT_S - LOADS_S)
            at.start()
            got = robot.result()
        rows.append([kind, at.ready_s - killed_s, *_recovery(got, at.ready_s)])
        if kind == OURS:
            after_s = _acted_after(got, at.ready_s)
            met = after_s is not None and after_s <= 0.8
            bars.note("server killed, back after 5 s: acts again", "<= 0.8 s", _seconds(after_s), met)
    columns = ["server killed", "back after s", "acts again after that, s", "ticks without action", "states"]
    print_table("A server that dies and comes back", columns, rows)


def _long(kind: str, at: object, seconds: float, **what: object) -> Run:
    return Run(kind, at.endpoint, at.keys.prefix, seconds=seconds, settings=HELD if kind == OURS else {}, **what)  # type: ignore[attr-defined,arg-type]


def _sleep_until(at_s: float) -> None:
    time.sleep(max(0.0, at_s - time.monotonic()))


def _acted_after(got: Result, since_s: float) -> float | None:
    """How long after a moment the next action was sent."""
    later = [at_s for at_s, acted in zip(got.at_s, got.acted, strict=True) if acted and at_s >= since_s]
    return later[0] - since_s if later else None


def _seconds(value_s: float | None) -> str:
    return "never" if value_s is None else f"{value_s:.2f} s"


def _recovery(got: Result, since_s: float) -> list[object]:
    path = " ".join(new for _, _, new in got.transitions if new != State.STOPPED)
    return [_seconds(_acted_after(got, since_s)), idle_ticks(got), path]


def hung(bars: Bars) -> None:
    """The server stands still for 5 s (SIGSTOP), and goes on."""
    rows = []
    for kind in KINDS:
        with served(WAIT_MS) as at, RobotProcess(_long(kind, at, 14.0, warm_up_s=KNOWS_S)) as robot:
            _sleep_until(robot.acting_s + 2.0)
            at.hang()
            hung_s = time.monotonic()
            _sleep_until(hung_s + OUT_S)
            at.resume()
            resumed_s = time.monotonic()
            got = robot.result()
        asked_s = next((s for s in got.sent_s if s >= hung_s - WAIT_MS / 1e3), hung_s)
        told_s = next((s for s, _, new in got.transitions if s >= hung_s and new != State.STREAMING), None)
        p99_s = (got.p99_ms or WAIT_MS) / 1e3
        said = None if told_s is None else told_s - asked_s
        rows.append([kind, 1e3 * p99_s, _seconds(said), *_recovery(got, resumed_s)])
        if kind == OURS:
            times = float("inf") if said is None else said / p99_s
            bars.note("server hung 5 s: says DEGRADED", "<= 2 x p99", f"{times:.1f} x p99", times <= 2)
            after_s = _acted_after(got, resumed_s)
            met = after_s is not None and after_s <= 0.5
            bars.note("server hung 5 s: acts again after SIGCONT", "<= 0.5 s", _seconds(after_s), met)
    columns = [
        "server hung 5 s",
        "usual p99 ms",
        "told after asking",
        "acts after SIGCONT",
        "ticks without action",
        "states",
    ]
    print_table("A server that hangs", columns, rows)


def lost(bars: Bars) -> None:
    """One observation is lost, once in a while."""
    rows = []
    with served(WAIT_MS) as at:
        for kind in KINDS:
            seconds = 40.0 if kind == OURS else 20.0
            got = run(at, kind, seconds=seconds, warm_up_s=KNOWS_S, lose_every_s=4.0 if kind == OURS else 12.0)
            again = [min((s - lost_s for s in got.sent_s if s > lost_s), default=seconds) for lost_s in got.lost_s]
            worst_s, idle = max(again), idle_ticks(got)
            p99_s = (got.p99_ms or WAIT_MS) / 1e3
            rows.append([kind, len(again), 1e3 * p99_s, 1e3 * worst_s, f"{worst_s / p99_s:.1f} x p99", idle])
            if kind == OURS:
                bars.note(
                    "one lost message: sent again", "<= 3 x p99", f"{worst_s / p99_s:.1f} x p99", worst_s <= 3 * p99_s
                )
                bars.note("one lost message: ticks without action", "0", str(idle), idle == 0)
    columns = [
        "one lost observation",
        "losses",
        "usual p99 ms",
        "sent again after, worst ms",
        "",
        "ticks without action",
    ]
    print_table("A message that gets lost", columns, rows)


def forged(bars: Bars, seconds: float) -> None:
    """Somebody else on the network answers in the server's place."""
    rows = []
    for kind in KINDS:
        with routed() as endpoint, served(WAIT_MS, router=endpoint) as at, Forger(endpoint, at.keys.prefix) as forger:
            got = run(at, kind, seconds=seconds, mode="client")
        rows.append([kind, forger.said, got.counters.get("merges", 0), got.forged, got.counters.get("foreign", "-")])
        if kind == OURS:
            bars.note("forged chunks merged", "0", str(got.forged), got.forged == 0)
    columns = ["forged chunks", "said", "chunks merged", "forged ones executed", "refused"]
    print_table("A forger that knows the key and guesses numbers", columns, rows)


def cpu(bars: Bars, seconds: float) -> None:
    """30 Hz, two 640x480 cameras, two requests a second."""
    kinds = (NONE, *KINDS)
    got = {}
    with served(WAIT_MS, rows=30, options={"cameras": 2}) as at:
        for kind in kinds:
            got[kind] = run(at, kind, seconds=seconds, cameras=2, warm_up_s=2.0)
    per_s = {kind: r.counters.get("requests", 0) / (seconds + 2) for kind, r in got.items()}
    rows = [[k, f"{per_s[k]:.1f}", 1e2 * r.cpu_share, f"{r.rss_mib:.0f}", idle_ticks(r)] for k, r in got.items()]
    columns = ["two cameras, 30 Hz", "requests/s", "CPU, % of a core", "RSS MiB", "ticks without action"]
    print_table("What an engine costs the robot's computer", columns, rows)
    used = got[OURS].cpu_share - got[NONE].cpu_share
    bars.note(f"engine CPU at {per_s[OURS]:.1f} requests/s", "<= 5 % of a core", f"{used:.1%}", used <= 0.05)

    command = {}
    with served(WAIT_MS, rows=30, options={"cameras": 2}) as at:
        for fps in (30.0, 100.0):
            command[fps] = edge_run(at, seconds, fps)
    rows = [
        [f"edge run, {fps:g} Hz", c.summary["engine"]["counters"]["requests"] / seconds, 1e2 * c.cpu_share, c.rss_mib]
        + [c.summary["control"][f"lateness_{q}_ms"] for q in ("p50", "p99", "max")]
        for fps, c in command.items()
    ]  # fmt: skip
    columns = [
        "the command, two cameras",
        "requests/s",
        "CPU, % of a core",
        "RSS MiB",
        "late p50 ms",
        "p99 ms",
        "max ms",
    ]
    print_table("What edge run takes", columns, rows)
    peak = command[30.0].rss_mib
    bars.note("RSS of edge run", "<= 120 MiB", f"{peak:.0f} MiB", peak <= 120)


PEAK = """
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")))
"""


def imports(bars: Bars, rounds: int) -> None:
    """What the command costs before it does anything."""
    words = {"import edge.cli": f"import edge.cli{PEAK}", "Python alone": PEAK}
    taken = {name: [] for name in words}
    for _ in range(2 * rounds + 1):
        for name, code in words.items():
            taken[name].append(measure([sys.executable, "-c", code]))
    figures = {
        name: (statistics.median(m.wall_s for m in got), statistics.median(m.result for m in got))
        for name, got in taken.items()
    }
    rows = [[name, 1e3 * wall_s, mib] for name, (wall_s, mib) in figures.items()]
    print_table(f"Medians of {2 * rounds + 1}", ["", "ms", "MiB"], rows)
    wall_s, mib = figures["import edge.cli"]
    bars.note("import edge.cli", "<= 0.4 s", f"{wall_s:.2f} s", wall_s <= 0.4)
    bars.note("import edge.cli: memory", "<= 70 MiB", f"{mib:.0f} MiB", mib <= 70)


def main() -> None:
    """Print the tables."""
    names = ["ticks", "network", "append", "killed", "hung", "lost", "forged", "cpu", "import"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names)
    parser.add_argument("--rounds", type=int, default=3, help="of what is measured in turns")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a run")
    args = parser.parse_args()
    bars, seconds, rounds = Bars(), args.seconds, args.rounds
    jobs: dict[str, Callable[[], None]] = {
        "ticks": lambda: ticks(bars, rounds, seconds),
        "network": lambda: network(bars, seconds),
        "append": lambda: append(bars, seconds),
        "killed": lambda: killed(bars),
        "hung": lambda: hung(bars),
        "lost": lambda: lost(bars),
        "forged": lambda: forged(bars, seconds),
        "cpu": lambda: cpu(bars, seconds),
        "import": lambda: imports(bars, rounds),
    }
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in args.only or names:
        jobs[name]()
    bars.show()
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
