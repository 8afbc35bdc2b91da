"""The whole annotate run against a stub VLM server: wall, CPU, memory, bytes sent and how busy the server's slots are.

    python -m bench.bench_annotate [--engines prefect,prefect-server,inline] [--episodes 24]

24 episodes of 20 s at 30 fps with two cameras (AV1), 200 ms a request, 16 slots. Then the run again with nothing
changed, and once more with an edited vqa prompt. With CUEBOOK_REFERENCE_PYTHON (a Python with `lerobot[annotations]`)
lerobot-annotate is measured beside it; else figures of an earlier run of it on two cores stand in for the bars.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.common import REPO, WORK, print_table, reference_python

LATENCY_S, SLOTS = 0.2, 16
SECONDS, FPS = 20.0, 30
SAMPLE_S = 0.1  # how often memory is looked at
START_AND_FINISH_S = 8.0
RSS_MIB_MAX = 1024
BUSY_SHARE_MIN = 0.70
CPU_FRACTION, BYTES_FRACTION = 1 / 6, 1 / 4
REFERENCE_CPU_S, REFERENCE_MB = 89.0, 210.0  # measured earlier, on two busy cores
MANY_EPISODES, RERUN_S_MAX = 200, 5.0  # beyond start-up
FOLDER = WORK / "annotate"


@dataclass(frozen=True)
class Run:
    """One measured annotator run."""

    name: str
    exit_code: int
    wall_s: float
    cpu_s: float  # with waited-for children
    rss_mib: float  # peak of the whole process tree
    stub: dict[str, Any]

    @property
    def floor_s(self) -> float:
        """The least time the server needs for these requests."""
        return self.stub["requests"] * LATENCY_S / SLOTS

    @property
    def sent_mb(self) -> float:
        """Megabytes of request bodies."""
        return self.stub["bytes"] / 1e6


def workload(episodes: int) -> Path:
    """The generated dataset, made once."""
    from tasks.dataset.generate import generate

    path = WORK / f"tabletop-{episodes}x{SECONDS:.0f}s"
    if not path.exists():
        print(f"generating {episodes} episodes of {SECONDS:.0f} s (once, a few minutes)", flush=True)
        generate(path, episodes=episodes, seconds=SECONDS, fps=FPS, codec="av1", gop=2, noise=3.0)
    return path


@contextmanager
def stub_server() -> Iterator[str]:
    """A stub server process; yields its address."""
    command = [sys.executable, str(REPO / "bench/stub_vlm.py"), f"--slots={SLOTS}", f"--latency-ms={LATENCY_S * 1000}"]
    process = subprocess.Popen([*command, f"--episode-seconds={SECONDS}"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def prefect_server() -> Iterator[None]:
    """A Prefect server that runs already, as on a team: its start and its work are not the run's."""
    from flows.embedded_server import EmbeddedServer

    home = os.environ["PREFECT_HOME"] = str(FOLDER / "prefect-server-home")
    shutil.rmtree(home, ignore_errors=True)
    server = EmbeddedServer()
    try:
        server.ready()
        yield
    finally:
        server.stop()
        del os.environ["PREFECT_HOME"]


def measure(name: str, argv: Sequence[str], server: str, env: Mapping[str, str]) -> Run:
    """Run a command against a stub that counts from zero. Its output goes to a log file in the work folder."""
    urllib.request.urlopen(f"{server}/reset", data=b"{}").close()
    log_path = FOLDER / f"{re.sub(r'[^a-z0-9]+', '-', name)}.log"
    peak_mib, ended = [0.0], threading.Event()
    with log_path.open("wb") as log:
        start = time.perf_counter()
        child = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, cwd=REPO, env={**os.environ, **env})

        def watch() -> None:
            while not ended.wait(SAMPLE_S):
                peak_mib[0] = max(peak_mib[0], tree_rss_mib(child.pid))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - start
        ended.set()
        watcher.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    with urllib.request.urlopen(f"{server}/stats") as reply:
        stub = json.load(reply)
    if child.returncode != 0:
        print(f"{name}: exit code {child.returncode}, see {log_path}", file=sys.stderr)
    return Run(name, child.returncode, wall_s, usage.ru_utime + usage.ru_stime, peak_mib[0], stub)


def tree_rss_mib(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    total_kib, todo = 0, [pid]
    while todo:
        folder = Path(f"/proc/{todo.pop()}")
        try:
            status = (folder / "status").read_text()
            total_kib += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
            for task in (folder / "task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return total_kib / 1024


def fresh_copy(dataset: Path, name: str) -> Path:
    """A copy to annotate in place."""
    target = FOLDER / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(dataset, target)
    return target


def ours(root: Path, server: str, engine: str) -> list[str]:
    """Our command line."""
    vlm = ["--vlm.backend=openai", f"--vlm.api_base={server}/v1", "--vlm.model_id=stub-vlm"]
    engine = engine.removesuffix("-server")
    return [sys.executable, "-m", "flows.cli", "run", f"--root={root}", f"--engine={engine}", *vlm]


@dataclass(frozen=True)
class OurRuns:
    """What is run with one engine."""

    first: Run
    again: Run  # nothing changed
    edited: Run  # another vqa prompt
    many_again: Run  # 200 short episodes, nothing changed
    start_up: Run  # one short episode, nothing changed: what every run costs
    others: tuple[Run, ...]  # shown, but no bar is about them

    @property
    def all(self) -> tuple[Run, ...]:
        """In the order of the table."""
        return (self.first, self.again, self.edited, *self.others, self.many_again, self.start_up)


def run_ours(dataset: Path, server: str, engine: str) -> OurRuns:
    """All runs with one engine, with a Prefect home of their own."""
    home = FOLDER / f"prefect-{engine}"
    shutil.rmtree(home, ignore_errors=True)  # no cached result of an earlier benchmark
    env = {"PREFECT_HOME": str(home)}
    prompt = FOLDER / "vqa_bbox.txt"
    prompt.write_text((REPO / "prompts/vqa_bbox.txt").read_text() + "\nBe exact.\n")
    one, many = (short_episodes(n, f"short-{n}-{engine}") for n in (1, MANY_EPISODES))
    argv = ours(fresh_copy(dataset, f"ours-{engine}"), server, engine)
    # The first run of all makes Prefect's database, once a machine: it is shown apart.
    first_use = measure(f"{engine}, first use", ours(one, server, engine), server, env)
    return OurRuns(
        start_up=measure(f"{engine}, start-up", ours(one, server, engine), server, env),
        first=measure(engine, argv, server, env),
        again=measure(f"{engine}, again", argv, server, env),
        edited=measure(f"{engine}, new prompt", argv, server, {**env, "CUEBOOK_PROMPT_VQA_BBOX": str(prompt)}),
        others=(first_use, measure(f"{engine}, {MANY_EPISODES} ep.", ours(many, server, engine), server, env)),
        many_again=measure(f"{engine}, {MANY_EPISODES} again", ours(many, server, engine), server, env),
    )


def short_episodes(episodes: int, name: str) -> Path:
    """A fresh dataset of small, short episodes."""
    from tasks.dataset.generate import generate

    path = FOLDER / name
    shutil.rmtree(path, ignore_errors=True)
    return generate(path, episodes=episodes, seconds=2.0, size=(128, 96))


def run_reference(dataset: Path, server: str, python: str) -> Run:
    """lerobot-annotate on the same dataset and server."""
    root = fresh_copy(dataset, "reference")
    command = [str(Path(python).with_name("lerobot-annotate")), f"--root={root}", f"--vlm.api_base={server}/v1"]
    env = {"HF_HUB_OFFLINE": "1"}
    return measure("reference", [*command, "--vlm.auto_serve=false", "--vlm.model_id=stub-vlm"], server, env)


def bars(runs: OurRuns, reference: Run | None) -> list[list[object]]:
    """What is wanted, what was got, and whether it is met."""
    first, again, edited = runs.first, runs.again, runs.edited
    cpu_s = (reference.cpu_s if reference else REFERENCE_CPU_S) * CPU_FRACTION
    sent_mb = (reference.sent_mb if reference else REFERENCE_MB) * BYTES_FRACTION
    wall_s = first.floor_s / BUSY_SHARE_MIN + START_AND_FINISH_S
    only_vqa = edited.stub["requests"] > 0 and set(edited.stub["kinds"]) == {"vqa"}
    busy = first.stub["busy_share"]
    repeated = again.stub["requests"] + runs.many_again.stub["requests"]
    beyond_s = runs.many_again.wall_s - runs.start_up.wall_s
    codes = [run.exit_code for run in runs.all]
    rows: list[tuple[str, object, object, bool]] = [
        ("wall s", wall_s, first.wall_s, first.wall_s <= wall_s),
        ("CPU s", cpu_s, first.cpu_s, first.cpu_s <= cpu_s),
        ("peak MiB, whole tree", RSS_MIB_MAX, first.rss_mib, first.rss_mib <= RSS_MIB_MAX),
        ("slots busy, first to last request", f">= {BUSY_SHARE_MIN:.0%}", f"{busy:.0%}", busy >= BUSY_SHARE_MIN),
        ("MB sent", sent_mb, first.sent_mb, first.sent_mb <= sent_mb),
        ("second runs: requests", 0, repeated, repeated == 0),
        (f"second run of {MANY_EPISODES} episodes: s beyond start-up", RERUN_S_MAX, beyond_s, beyond_s <= RERUN_S_MAX),
        ("edited vqa prompt: kinds asked", "vqa", ", ".join(edited.stub["kinds"]) or "none", only_vqa),
        ("exit codes", "all 0", ", ".join(map(str, codes)), not any(codes)),
    ]
    return [[name, limit, got, "met" if met else "MISSED"] for name, limit, got, met in rows]


def row(run: Run) -> list[object]:
    """One line of the table of runs."""
    stub, times = run.stub, [run.wall_s, run.floor_s, run.cpu_s]
    return [
        run.name,
        *times,
        round(run.rss_mib),
        stub["requests"],
        f"{stub['busy_share']:.0%}",
        run.sent_mb,
        stub["images"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="prefect,prefect-server,inline")
    parser.add_argument("--episodes", type=int, default=24)
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    dataset = workload(args.episodes)
    runs: dict[str, OurRuns] = {}
    with stub_server() as server:
        for engine in args.engines.split(","):
            with prefect_server() if engine == "prefect-server" else nullcontext():
                runs[engine] = run_ours(dataset, server, engine)
        python = reference_python()
        reference = run_reference(dataset, server, python) if python else None
    everything = [run for our_runs in runs.values() for run in our_runs.all] + ([reference] if reference else [])
    print_table(
        f"annotate {args.episodes} x {SECONDS:.0f} s, 2 cameras, {LATENCY_S * 1000:.0f} ms, {SLOTS} slots",
        ["run", "wall s", "floor", "CPU s", "MiB", "asked", "busy", "MB", "images"],
        [row(run) for run in everything],
    )
    for engine, our_runs in runs.items():
        source = "measured beside" if reference else "earlier figures"
        print_table(f"bars, {engine} (reference: {source})", ["what", "bar", "got", ""], bars(our_runs, reference))
    (FOLDER / "result.json").write_text(json.dumps([asdict(run) for run in everything], indent=1))


if __name__ == "__main__":
    main()
