"""The `edge` command as a user meets it: real processes, real Zenoh, recordings that play the robot."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.edge.commands import EDGE, replay_server, run, start
from tests.serving.commands import REPO, WAIT_S, _environment, free_port
from tests.serving.commands import run as serving

COMMANDS = ("run", "check", "watch", "recover", "fields")
HEAVY = ("torch", "lerobot", "pyarrow", "av", "prefect", "zenoh", "numpy", "rerun", "gymnasium", "duckdb", "cv2")
IMPORT_S, IMPORT_MIB = 0.4, 70
CONFIG_ERROR_S = 2.0
LEAST = ["--policy.path=me/towels", "--robot.type=dataset", "--robot.root=nowhere"]


def in_process(*words: str) -> str:
    """What a command says and imports, in a fresh interpreter."""
    code = f"""
import sys
from edge.cli import main
try:
    main({list(words)!r})
except SystemExit as end:
    print("exit", end.code)
print([m for m in {HEAVY!r} if m in sys.modules])
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True).stdout


def used(code: str) -> tuple[float, float]:
    """Processor time (s) and resident memory (MiB) of a fresh interpreter."""
    measure = f"""
import resource, subprocess, sys
subprocess.run([sys.executable, "-c", {code!r}], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
    done = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, cwd=REPO, check=True)
    time_s, mib = map(float, done.stdout.split())
    return time_s, mib


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=lambda w: w[0])
def test_help_comes_without_heavy_imports(words):
    said = in_process(*words)
    assert "Usage: edge" in said and said.splitlines()[-1] == "[]"
    if words[0] != "--help":
        assert "Example" in said


def test_the_command_is_light():
    time_s, mib = min(used("import edge.cli") for _ in range(3))
    assert time_s < IMPORT_S and mib < IMPORT_MIB


@pytest.mark.parametrize("command", ["run", "check"])
def test_config_errors_come_at_once_and_name_the_nearest_flag(command):
    words = [command, *LEAST, "--inference.conect_endpoint=tcp/a:1"]
    said = in_process(*words)
    assert "exit 2" in said and not {"torch", "zenoh", "pyarrow"} & set(eval(said.splitlines()[-1]))
    assert min(used(f"from edge.cli import main; main({words!r})") for _ in range(2))[0] < CONFIG_ERROR_S
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--inference.connect_endpoint?" in done.stderr


def test_errors_for_machines():
    done = run("run", *LEAST, "--fps=0", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["exit_code"], said["error"]) == (2, 2, "SettingsProblems")
    assert [problem["place"] for problem in said["problems"]] == ["fps"]


def test_fields_are_listed_for_machines():
    rows = json.loads(run("fields", "--robot.type=dataset", "--json").stdout)
    names = {row["flag"] for row in rows}
    assert {"--fps", "--inference.fallback", "--robot.root", "--dataset.root", "--safety.step_max"} <= names


# --- with a server ---------------------------------------------------------------------------------------------------


class Served:
    """A recording, and a server that answers from it."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.port = root, free_port()
        self.running = replay_server(
            root, self.port, folder, "--model.options={chunk_size: 12}", "--default_task=do it"
        )

    @property
    def flags(self) -> list[str]:
        return [
            f"--policy.path={self.root}", "--robot.type=dataset", f"--robot.root={self.root}", "--task=do it",
            f"--inference.connect_endpoint=tcp/127.0.0.1:{self.port}",
        ]  # fmt: skip


@pytest.fixture(scope="module")
def served(generated_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    found = Served(generated_dataset, folder)
    with found.running as up:
        up.wait_for(lambda e: e.get("event") == "ready")
        yield found


def test_a_recording_is_driven_again_bit_by_bit(served):
    done = run("run", *served.flags, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["ok"] and said["ending"] == "robot done" and not said["problems"]
    comparison = said["comparison"]
    assert comparison["equal"] == comparison["steps"] == comparison["recorded"] == 40 and comparison["max"] == 0.0
    assert said["control"]["policy_actions"] == 40 and said["about"]["fps"] == 10  # the recording's own
    assert said["engine"]["counters"]["merges"] >= 4 and said["engine"]["latency_p95_ms"] > 0
    changes = [(t["old"], t["new"]) for t in said["transitions"]]
    assert changes[0] == ("CONNECTING", "STREAMING") and changes[-1][1] == "STOPPED"


def test_a_dry_run_asks_and_sends_nothing(served):
    said = json.loads(run("run", *served.flags, "--dry_run", "--duration=1.5", "--json").stdout)
    assert said["ok"] and said["control"]["sent"] == 0 and said["control"]["policy_actions"] > 5
    assert said["comparison"]["steps"] == 0 and said["engine"]["counters"]["merges"] >= 1


def test_a_file_of_settings_and_words_for_people(served, tmp_path):
    tree = {
        "policy": {"path": str(served.root)}, "robot": {"type": "dataset", "root": str(served.root)}, "task": "do it",
        "inference": {"connect_endpoint": f"tcp/127.0.0.1:{served.port}"}, "duration": 1,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    done = run("run", f"--config_path={tmp_path / 'run.yaml'}")
    assert done.returncode == 0, done.stderr
    for words in ("duration after 1.0 s", "lateness", "p99", "requests", "CONNECTING -> STREAMING", "as recorded"):
        assert words in done.stdout, done.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_ends_well_and_is_seen_until_then(served, tmp_path, how):
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    process = start("run", *served.flags, "--robot.loop", "--inference.client_uuid=arm-9", "--json", **env)
    try:
        watching = start("watch", "arm-9", f"--wait={WAIT_S}", "--json", **env)
        for line in watching.stdout:
            now = json.loads(line)
            if now.get("state") == "STREAMING" and now["ticks"] > 5:
                break
        assert now["client"] == "arm-9" and now["left_rows"] > 0 and now["pid"] == process.pid
        process.send_signal(how)
        out, err = process.communicate(timeout=WAIT_S)
        said = json.loads(out)
        assert process.returncode == 0, err
        assert said["ending"] == "stopped" and said["ok"]
        watching.communicate(timeout=WAIT_S)
        assert watching.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_before_there_is_a_server_is_an_interruption():
    flags = [f"--inference.connect_endpoint=tcp/127.0.0.1:{free_port()}", "--inference.connect_timeout_s=50"]
    process = start("run", "--policy.path=x", "--robot.type=tests.edge.commands:arm", *flags, "--json")
    try:
        assert "asked of the server" in process.stderr.readline()
        time.sleep(0.3)  # it dials; there is nothing to wait for
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 130 and json.loads(out)["exit_code"] == 130
    finally:
        process.kill()
        process.wait()


def test_no_server_is_an_error_and_nothing_was_energised(generated_dataset):
    words = [
        f"--policy.path={generated_dataset}", "--robot.type=dataset", f"--robot.root={generated_dataset}",
        f"--inference.connect_endpoint=tcp/127.0.0.1:{free_port()}", "--inference.connect_timeout_s=0.5",
    ]  # fmt: skip
    done = run("run", *words)
    assert done.returncode == 1 and "want" in done.stderr and "do:" in done.stderr and "refused" in done.stderr


def test_a_robot_with_other_actions_is_refused_side_by_side_before_dialling(served):
    words = ["--robot.type=tests.edge.commands:arm", *(f for f in served.flags if not f.startswith("--robot"))]
    done = run("run", *words)
    assert done.returncode == 1
    assert "want actions (recorded dataset) to fit" in done.stderr and "<- differs" in done.stderr
    lines = [line.split() for line in done.stderr.splitlines() if line.strip().startswith("0 ")]
    assert lines and lines[0][1] == "shoulder.vel"


def test_a_recording_is_made_and_described(served, tmp_path):
    out = tmp_path / "rollout_again"
    flags = ["--strategy.type=sentry", f"--dataset.root={out}", "--dataset.writer=own", "--duration=2"]
    done = run("run", *served.flags, "--robot.cameras=none", *flags, "--json")
    # the policy looks at cameras that this robot was told to leave away
    assert done.returncode == 1 and "cameras" in json.loads(done.stdout)["message"]
    done = run("run", *served.flags, *flags, "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert said["recording"]["episodes"] == 1 and said["recording"]["frames"] > 10 and not said["recording"]["dropped"]
    assert json.loads((out / "meta/info.json").read_text())["total_frames"] == said["recording"]["frames"]
    done = run("recover", str(out), "--json")
    assert json.loads(done.stdout)["episodes"] == 0  # nothing waits


# --- check -----------------------------------------------------------------------------------------------------------


def findings(*words: str) -> tuple[int, dict, dict[str, dict]]:
    done = run("check", *words, "--json")
    said = json.loads(done.stdout)
    return done.returncode, said, {finding["what"]: finding for finding in said["findings"]}


def test_all_is_well(served):
    code, said, found = findings(*served.flags)
    assert code == 0 and said["ok"], said
    assert len(said["latency"]["answers_ms"]) == 10 and 0 < said["latency"]["p50_ms"] <= said["latency"]["p95_ms"]
    assert "ms p95: chunk 12 at 10 Hz leaves" in said["verdict"] and said["verdict"].endswith("s of cover")
    assert found["latency of 10 requests"]["outcome"] == "ok" and found["session"]
    shown = run("check", *served.flags)
    assert shown.returncode == 0 and "of cover" in shown.stdout and "not energised" in shown.stdout


def test_who_serves_is_said_when_ours_does_not(served):
    code, _, found = findings(*served.flags, "--task=another", "--inference.handshake_timeout_s=1")
    (service,) = (f for what, f in found.items() if what.startswith("service "))
    assert code == 1 and service["outcome"] == "error"
    assert "/do-it" in service["said"] and "--inference.service_task=do-it" in service["remedy"]


def test_nobody_answers_at_the_endpoint(served):
    flags = [f for f in served.flags if "connect_endpoint" not in f]
    code, said, found = findings(*flags, f"--inference.connect_endpoint=tcp/127.0.0.1:{free_port()}")
    assert code == 1 and "nobody to ask" in said["verdict"]
    code, said, found = findings(*flags, "--inference.connect_endpoint=tcp/no.such.host.invalid:7447")
    assert any("unknown" in finding["said"] for finding in found.values() if finding["outcome"] == "error")


def test_a_port_that_is_no_zenoh_is_named(served):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        flags = [f for f in served.flags if "connect_endpoint" not in f]
        endpoint = f"tcp/127.0.0.1:{other.getsockname()[1]}"
        code, _, found = findings(*flags, f"--inference.connect_endpoint={endpoint}", "--inference.connect_timeout_s=1")
    assert code == 1 and "no Zenoh session" in found["session with the network"]["said"]


def test_one_dead_endpoint_of_two_is_a_warning(served):
    both = f"--inference.connect_endpoint=tcp/127.0.0.1:{free_port()},tcp/127.0.0.1:{served.port}"
    code, said, _ = findings(*(f for f in served.flags if "connect_endpoint" not in f), both)
    assert code == 0 and [f["outcome"] for f in said["findings"] if f["what"].startswith("endpoint")] == [
        "warning",
        "ok",
    ]


@pytest.mark.parametrize(
    ("word", "what", "outcome"),
    [
        ("--fps=25", "fps (recorded dataset)", "error"),
        ("--robot.cameras=front", "cameras (recorded dataset)", "warning"),
        ("--inference.rename_map={nose: observation.images.front}", "inference.rename_map", "error"),
        ("--inference.fallback=zero", "without actions", "error"),
    ],
)
def test_what_does_not_fit_is_found(served, word, what, outcome):
    code, _, found = findings(*served.flags, word)
    assert code == 1 and found[what]["outcome"] == outcome and found[what]["remedy"]


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_strategy_without_what_it_needs_is_a_wrong_flag(served, command):
    done = run(command, *served.flags, "--strategy.type=sentry")
    assert done.returncode == 2 and "want a dataset" in done.stderr
    done = run(command, *served.flags, "--dataset.root=/tmp/rollout_x")
    assert done.returncode == 2 and "records nothing" in done.stderr


def test_what_a_velocity_robot_does_without_actions_is_said(served):
    flags = [f for f in served.flags if not f.startswith("--robot")]
    _, _, found = findings("--robot.type=tests.edge.commands:arm", *flags)
    assert "velocities go to zero" in found["without actions"]["said"]
    assert found["actions (recorded dataset)"]["outcome"] == "error"


def test_a_server_process_and_a_run_on_a_fresh_folder(tmp_path):
    """What the documentation shows, word by word but for the port."""
    port = free_port()
    assert serving("init", f"--listen=tcp/127.0.0.1:{port}", cwd=tmp_path).returncode == 0
    from tests.serving.commands import Running

    with Running("up", "manifest.yaml", "--health_port=0", "--json", cwd=tmp_path) as up:
        up.wait_for(lambda e: e.get("event") == "ready")
        words = ["run", "--policy.path=recording", "--robot.type=dataset", "--robot.root=recording", "--duration=2"]
        done = subprocess.run(
            [*EDGE, *words, f"--inference.connect_endpoint=tcp/127.0.0.1:{port}"],
            capture_output=True, text=True, cwd=tmp_path, timeout=WAIT_S, env=_environment(), check=False,
        )  # fmt: skip
    assert done.returncode == 0 and "steps as recorded" in done.stdout, done.stderr
