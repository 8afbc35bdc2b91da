"""Throws bytes at everything that strangers can reach on the wire, for as long as is asked.

    python -m bench.fuzz_wire --engine=atheris --minutes=10      # guided by coverage; pip install atheris
    python -m bench.fuzz_wire --engine=hypothesis --minutes=10   # guided by what messages look like

A finding is any error but WireError, more than 100 ms of CPU for one input, or more than 64 MiB above the start. The
first one ends the run: it is printed, and its input left as a file in --findings. A run without one exits with 0.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

GROWTH_BYTES_MAX = 64 << 20
INPUT_BYTES_MAX = 32 << 10
HANG_S = 10
EXAMPLES_PER_ROUND = 2000


class Bounds:
    """Holds a target to its time and memory, and remembers the worst that was seen."""

    def __init__(self, findings: Path) -> None:
        from tests.serving.wire import targets  # not before atheris can instrument what it imports

        self.cpu_s_max, self.least_cpu_s = targets.CPU_S_MAX, targets.least_cpu_s
        self.findings, self.runs, self.slowest_s, self.growth_bytes = findings, 0, 0.0, 0
        self.start_bytes = _peak_bytes()

    def hold(self, target: Callable[[bytes], None], data: bytes) -> None:
        """Run a target. Raises what it raises, and AssertionError out of bounds."""
        self.runs += 1
        try:
            spent_s = self.least_cpu_s(target, data)
            self.slowest_s = max(self.slowest_s, spent_s)
            assert spent_s <= self.cpu_s_max, f"{target.__name__}: {spent_s:.3f} s of CPU"
            growth_bytes = _peak_bytes() - self.start_bytes
            self.growth_bytes = max(self.growth_bytes, growth_bytes)
            assert growth_bytes <= GROWTH_BYTES_MAX, f"{target.__name__}: {growth_bytes} bytes more"
        except BaseException:
            self.findings.mkdir(parents=True, exist_ok=True)
            (self.findings / f"{target.__name__}-{self.runs}").write_bytes(data)
            raise

    def line(self) -> str:
        """What was seen, for people."""
        growth_mib = self.growth_bytes / (1 << 20)
        return f"{self.runs} inputs, slowest {self.slowest_s * 1e3:.1f} ms, peak memory +{growth_mib:.1f} MiB"


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seeds() -> list[tuple[int, bytes]]:
    """(index of the target, input) from the golden vectors."""
    import msgpack

    from serving.wire.limits import OBJECTS_MAX
    from serving.wire.messages import KINDS
    from tests.serving.wire import golden, strategies, targets

    vectors = (*golden.WHOLE.values(), *golden.OF_SCHEMA_1.values())
    bodies = [v.body for v in vectors]
    padded = {**golden.WHOLE["observation"].map, "padding": bytes(OBJECTS_MAX)}  # long enough to be counted first
    bodies.append(msgpack.packb(padded))
    messages = [bytes([KINDS.index(v.kind)]) + v.body for v in vectors]
    headers = [bytes.fromhex(h["hex"]) for h in golden.HEADERS.values()]
    names = ["robot-1/obs", "robot-1/0123456789ab/obs", "*/obs", "a/*$?# b", "毛巾", "server/alive"]
    material = {
        targets.request: bodies, targets.message: messages, targets.urgency: bodies, targets.header: headers,
        targets.picture: strategies.WHOLE_PICTURES, targets.key: [name.encode() for name in names],
    }  # fmt: skip
    return [(targets.TARGETS.index(target), data) for target, inputs in material.items() for data in inputs]


def with_atheris(minutes: float, findings: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["serving"]):
        from tests.serving.wire import targets

    with tempfile.TemporaryDirectory() as folder:
        for number, (index, data) in enumerate(seeds()):
            Path(folder, str(number)).write_bytes(bytes([index]) + data)
        bounds = Bounds(findings)
        libfuzzer = [
            sys.argv[0], folder, f"-max_total_time={int(minutes * 60)}", f"-max_len={INPUT_BYTES_MAX}",
            f"-timeout={HANG_S}", f"-artifact_prefix={findings}/", "-print_final_stats=1", "-verbosity=1",
        ]  # fmt: skip

        def one(data: bytes) -> None:
            """The first byte chooses the target."""
            if data:
                bounds.hold(targets.TARGETS[data[0] % len(targets.TARGETS)], data[1:])
            if bounds.runs % 100_000 == 1:
                print(bounds.line(), flush=True)

        atheris.Setup(libfuzzer, one)
        atheris.Fuzz()


def _held(bounds: Bounds, target: Callable[[bytes], None]) -> Callable[[bytes], None]:
    return lambda data: bounds.hold(target, data)


def with_hypothesis(minutes: float, findings: Path) -> None:
    """Rounds of examples, each with another seed, over all targets."""
    from hypothesis import HealthCheck, given, seed, settings
    from hypothesis import strategies as st

    from tests.serving.wire import strategies, targets

    inputs = {
        targets.request: strategies.BODIES,
        targets.urgency: strategies.BODIES,
        targets.message: st.builds(lambda kind, body: bytes([kind]) + body, st.integers(0, 255), strategies.BODIES),
        targets.header: st.binary(max_size=40),
        targets.picture: strategies.PICTURES,
        targets.key: st.binary(max_size=80),
    }
    examples = settings(
        max_examples=EXAMPLES_PER_ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    bounds, end_s, number = Bounds(findings), time.monotonic() + minutes * 60, 0
    while time.monotonic() < end_s:
        for target, strategy in inputs.items():
            number += 1
            seed(number)(examples(given(strategy)(_held(bounds, target))))()
        print(bounds.line(), flush=True)
        gc.collect()
        bounds.start_bytes = _peak_bytes()  # what the engine remembers is not counted


def main() -> None:
    """Read the flags and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), default="hypothesis")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="folder for inputs that fail")
    flags = parser.parse_args()
    if flags.engine == "atheris":
        flags.findings.mkdir(parents=True, exist_ok=True)  # where libFuzzer leaves what hangs
        with_atheris(flags.minutes, flags.findings)
    else:
        with_hypothesis(flags.minutes, flags.findings)


if __name__ == "__main__":
    main()
