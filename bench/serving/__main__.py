"""The daemon beside its reference, in one run.

    python -m bench.serving [--only trips load batching loss idle] [--rounds 5] [--trips 200] [--seconds 8]

Needs `opencv-python-headless` and `msgpack` for the re-created reference; without them only the daemon is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from bench.common import print_table
from bench.serving.nodes import OURS, REFERENCE, Robots, Server, robots, server
from bench.serving.robots import WARM_UP

SIDE = 224
CROWD = 16
LOSSES, REFERENCE_LOSSES = 20, 1  # the reference takes 5 s for each
IDLE_S = 20.0
HAVE_REFERENCE = all(find_spec(name) is not None for name in ("cv2", "msgpack"))
KINDS = (REFERENCE, OURS) if HAVE_REFERENCE else (OURS,)


@dataclass(frozen=True)
class Variant:
    """Who asks whom, and how."""

    title: str
    server: str
    robot: str
    side: int = 0  # of the pictures that are sent; 0: as the cameras give them
    quality: int = 90


@dataclass(frozen=True)
class Cost:
    """What a request took."""

    p50_ms: float
    p99_ms: float
    robot_cpu_ms: float
    server_cpu_ms: float
    kb: float  # both ways

    @property
    def cpu_ms(self) -> float:
        """Both sides."""
        return self.robot_cpu_ms + self.server_cpu_ms


REFERENCE_TRIP = Variant("reference", REFERENCE, REFERENCE)
OUR_TRIP = Variant("ours", OURS, OURS)
SMALL_TRIP = Variant(f"ours, {SIDE}x{SIDE}", OURS, OURS, SIDE)
TRIPS = (
    REFERENCE_TRIP, OUR_TRIP, Variant("reference's client, our daemon", OURS, REFERENCE), SMALL_TRIP,
    Variant(f"ours, {SIDE}x{SIDE}, quality 80", OURS, OURS, SIDE, 80),
)  # fmt: skip


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile of what was measured."""
    return float(np.quantile(values, share))


def medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Of each column."""
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def share(ours: float, theirs: float) -> str:
    """Ours in units of theirs."""
    return f"{ours / theirs:.2f}x"


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


def trips(bars: Bars, rounds: int, number: int) -> None:
    """A lone robot, a policy that takes no time. Variants take turns, round by round; medians over the rounds."""
    variants = [v for v in TRIPS if HAVE_REFERENCE or REFERENCE not in (v.server, v.robot)]
    measured: dict[Variant, list[Sequence[float]]] = {variant: [] for variant in variants}
    lost = dict.fromkeys(variants, 0)
    with ExitStack() as stack:
        running = {variant: _start(stack, variant) for variant in variants}
        for _ in range(rounds):
            for variant, (at, crew) in running.items():
                before_s = at.cpu_s()
                got = crew.do("trips", number)
                server_ms = (at.cpu_s() - before_s) * 1e3 / (number + WARM_UP)  # it works for those as well
                kb = (got["sent"] + got["received"]) / 1e3
                ms = got["ms"]
                measured[variant].append((quantile(ms, 0.5), quantile(ms, 0.99), got["cpu_ms"], server_ms, kb))
                lost[variant] += got["lost"]
    costs = {variant: Cost(*medians(rows)) for variant, rows in measured.items()}
    base = costs.get(REFERENCE_TRIP, costs[OUR_TRIP])
    rows = [
        [
            v.title, c.p50_ms, share(c.p50_ms, base.p50_ms), c.p99_ms, share(c.p99_ms, base.p99_ms),
            f"{c.robot_cpu_ms:.2f} + {c.server_cpu_ms:.2f}", share(c.cpu_ms, base.cpu_ms), c.kb, share(c.kb, base.kb),
            lost[v],
        ]
        for v, c in costs.items()
    ]  # fmt: skip
    title = f"A lone robot, two 640x480 cameras, 0 ms policy: {rounds} rounds of {number} requests in turns"
    columns = ["round trip", "p50 ms", "", "p99 ms", "", "CPU ms robot + server", "", "kB", "", "lost"]
    print_table(title, columns, rows)
    if not HAVE_REFERENCE:
        return
    ours, small = costs[OUR_TRIP], costs[SMALL_TRIP]
    for what, cost, figure, most in (
        ("round trip p50", ours, "p50_ms", 0.6), ("round trip p99", ours, "p99_ms", 0.6),
        ("CPU of both sides", ours, "cpu_ms", 0.6), (f"{SIDE}x{SIDE}: p50", small, "p50_ms", 0.35),
        (f"{SIDE}x{SIDE}: bytes", small, "kb", 0.15),
    ):  # fmt: skip
        got = getattr(cost, figure) / getattr(base, figure)
        bars.note(what, f"<= {most:g}x", f"{got:.2f}x", got <= most)


def _start(stack: ExitStack, variant: Variant) -> tuple[Server, Robots]:
    at = stack.enter_context(server(variant.server, side=variant.side))
    return at, stack.enter_context(robots(at, quality=variant.quality, kind=variant.robot))


def crowd(title: str, seconds: float, rounds: int, batch_max: int = 1, **pace: float) -> dict[str, list[float]]:
    """Sixteen robots: answers/s, p50 ms, p99 ms, most by least of a robot, server's CPU ms; by kind of server."""
    measured: dict[str, list[Sequence[float]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            with server(kind, batch_max=batch_max, **pace) as at, robots(at, CROWD) as crew:
                before_s = at.cpu_s()
                got = crew.do("load", seconds)
                ms, each = got["ms"], got["each"]
                cpu_ms = (at.cpu_s() - before_s) * 1e3 / sum(each)
                per_s, spread = sum(each) / got["s"], max(each) / max(1, min(each))
                measured[kind].append((per_s, quantile(ms, 0.5), quantile(ms, 0.99), spread, cpu_ms))
    figures = {kind: medians(rows) for kind, rows in measured.items()}
    base = figures.get(REFERENCE, figures[OURS])[0]
    rows = [[k, f"{f[0]:.1f}", share(f[0], base), f[1], f[2], f"{f[3]:.2f}", f[4]] for k, f in figures.items()]
    columns = [title, "answers/s", "", "p50 ms", "p99 ms", "max/min of robots", "CPU ms server"]
    print_table(f"{CROWD} robots, rounds of {seconds:g} s: {rounds}", columns, rows)
    return figures


def load(bars: Bars, seconds: float, rounds: int) -> None:
    """One request at a time."""
    per_s, _, _, spread, _ = crowd("20 ms policy, at most 50/s", seconds, rounds, wait_ms=20.0)[OURS]
    bars.note(f"{CROWD} robots, 20 ms policy", ">= 48.5/s", f"{per_s:.1f}/s", per_s >= 48.5)
    bars.note("most by least served robot", "<= 1.1", f"{spread:.2f}", spread <= 1.1)


def batching(bars: Bars, seconds: float, rounds: int) -> None:
    """Requests together."""
    figures = crowd("20 ms, 1 ms per extra sample", seconds, rounds, batch_max=CROWD, wait_ms=20.0, extra_ms=1.0)
    per_s, _, p99_ms, _, _ = figures[OURS]
    if HAVE_REFERENCE:
        times = per_s / figures[REFERENCE][0]
        bars.note("batches: answers/s", ">= 4x the reference", f"{times:.1f}x", times >= 4)
    bars.note("batches: p99", "<= 120 ms", f"{p99_ms:.0f} ms", p99_ms <= 120)


def loss(bars: Bars) -> None:
    """One observation gets lost."""
    rows = []
    for kind in KINDS:
        with server(kind) as at, robots(at) as crew:
            got = crew.do("loss", LOSSES if kind == OURS else REFERENCE_LOSSES)
        usual_ms, again_ms = quantile(got["usual"], 0.99), quantile(got["ms"], 0.5)
        rows.append([kind, usual_ms, f"{again_ms:.1f}", f"{max(got['ms']):.1f}", f"{again_ms / usual_ms:.1f}x p99"])
        if kind == OURS:
            times = again_ms / usual_ms
            bars.note("one lost observation", "<= 3 x p99", f"{times:.1f} x p99", times <= 3)
    columns = ["one lost observation", "usual p99 ms", "answered again, p50 ms", "worst", "p50"]
    print_table(
        f"A lone robot: ours asks again after 1.5 x p99, the reference after 5 s. {LOSSES} losses", columns, rows
    )


def idle(bars: Bars) -> None:
    """Nobody asks."""
    rows = []
    for kind in KINDS:
        with server(kind) as at, robots(at, CROWD):
            time.sleep(2.0)  # until all is open
            before_s = at.cpu_s()
            time.sleep(IDLE_S)
            used = (at.cpu_s() - before_s) / IDLE_S
        rows.append([kind, f"{used:.2%}"])
        if kind == OURS:
            bars.note(f"idle, {CROWD} open sessions", "<= 2 % of a core", f"{used:.2%}", used <= 0.02)
    print_table(f"{CROWD} open sessions, no request for {IDLE_S:g} s", ["idle", "CPU of a core"], rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["trips", "load", "batching", "loss", "idle"])
    parser.add_argument("--rounds", type=int, default=5, help="of round trips; crowds get half as many")
    parser.add_argument("--trips", type=int, default=200, help="requests of a round")
    parser.add_argument("--seconds", type=float, default=8.0, help="that a crowd asks")
    args = parser.parse_args()
    bars, few = Bars(), max(1, args.rounds // 2)
    jobs: dict[str, Callable[[], None]] = {
        "trips": lambda: trips(bars, args.rounds, args.trips),
        "load": lambda: load(bars, args.seconds, few),
        "batching": lambda: batching(bars, args.seconds, few),
        "loss": lambda: loss(bars),
        "idle": lambda: idle(bars),
    }
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in args.only or jobs:
        jobs[name]()
    bars.show()
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
