"""Remote jobs against a real HTTP server: what is sent, what is followed, how it ends."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from flows.console import DONE, INTERRUPTED
from flows.flags import build, leaves, parse
from flows.job_command import KEY_ENV, PACKAGE_ENV
from flows.jobs import submit, to_labels
from flows.launchers import LAUNCHERS, HubLauncher, JobSpec, split_target
from tasks.dataset.hub_api import hub_api
from tasks.errors import JobError, PublishError, SettingsError
from tasks.settings import AnnotateSettings
from tests.hub_double import TOKEN, USER, HubDouble, Job, Repo

NAME = f"{USER}/tabletop"
REPO = Path(__file__).resolve().parents[2]


def run(*words: str) -> tuple[int, str]:
    """Exit code and what was printed."""
    settings = build(AnnotateSettings, parse(words, [name for name, _ in leaves(AnnotateSettings)]))
    console = Console(file=io.StringIO(), width=1000)
    code = submit(settings, words, console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def published(hub: HubDouble) -> HubDouble:
    """A hub that has the dataset."""
    hub.repos[NAME] = Repo(private=False)
    hub.repos[NAME].commit({"meta/info.json": b"{}"})
    return hub


def test_the_request_is_what_the_section_says(published: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PACKAGE_ENV, "git+https://host.org/x/cuebook")
    code, said = run(
        f"--repo_id={NAME}",
        "--push_to_hub",
        "--job.target=h200",
        "--job.image=vllm/vllm-openai:v1",
        "--job.timeout=90m",
        "--job.ref=v0.2",
        "--job.tags=team=arms,cuebook,night",
        "--vlm.api_key=sk-very-secret",
        "--push_commit_message=it's done",
    )
    assert code == DONE
    (call,) = published.of(f"/api/jobs/{USER}", "POST")
    body = call.json
    script = body["command"][2]
    assert {k: body[k] for k in ("dockerImage", "flavor", "timeoutSeconds", "environment", "arguments")} == {
        "dockerImage": "vllm/vllm-openai:v1",
        "flavor": "h200",
        "timeoutSeconds": 5400,
        "environment": {},
        "arguments": [],
    }
    assert body["secrets"] == {"HF_TOKEN": TOKEN, KEY_ENV: "sk-very-secret"}
    labels = {k: v for k, v in body["labels"].items() if k != "name"}
    assert list(labels.items()) == [("cuebook", ""), ("team", "arms"), ("night", "")]
    assert body["command"][:2] == ["bash", "-c"]
    assert "'cuebook[annotate] @ git+https://host.org/x/cuebook@v0.2'" in script
    assert script.splitlines()[-1] == (
        """exec annotate run --push_to_hub=true '--push_commit_message=it'"'"'s done' """
        f"--repo_id={NAME} --vlm.api_key=env:{KEY_ENV} --job.target=local"
    )
    for secret in (TOKEN, "sk-very-secret"):
        assert secret not in script and secret not in said
    assert "job0" in said and f"hf jobs cancel {USER}/job0" in said


def test_the_log_is_followed_until_the_end(published: HubDouble) -> None:
    def work(job: Job) -> None:
        job.say("===== Job started =====", "\x1b[31mred\x1b[0m [bold]markup[/bold]\x07")
        threading.Thread(target=lambda: (job.log_read.wait(), job.say("later"), job.end("COMPLETED"))).start()

    published.on_job = work
    code, said = run(f"--repo_id={NAME}", "--job.target=hf:a10g-large")
    assert code == DONE
    assert "\nred [bold]markup[/bold]\n" in said and "\nlater\n" in said and "job job0 is complete" in said
    assert "push_to_hub is off" in said


@pytest.mark.parametrize("stage", ["ERROR", "CANCELED", "DELETED"])
def test_a_job_that_does_not_complete_is_an_error_with_its_last_lines(published: HubDouble, stage: str) -> None:
    def fail(job: Job) -> None:
        job.say(*(f"line {i}" for i in range(50)), "CUDA out of memory")
        job.end(stage)

    published.on_job = fail
    with pytest.raises(JobError) as caught:
        run(f"--repo_id={NAME}", "--job.target=h200")
    text = str(caught.value)
    assert stage in text and "CUDA out of memory" in text and "line 49" in text and "line 3\n" not in text


def test_detached(published: HubDouble) -> None:
    published.on_job = lambda job: None  # would run for ever
    code, said = run(f"--repo_id={NAME}", "--job.target=h200", "--job.detach")
    assert code == DONE and f"hf jobs logs -f {USER}/job0" in said
    assert not published.of("/logs")


def test_ctrl_c_stops_following_and_not_the_job(published: HubDouble, tmp_path: Path) -> None:
    published.on_job = lambda job: job.say("working")
    code = f"""
import sys
from rich.console import Console
from flows.jobs import submit
from tasks.settings import AnnotateSettings, JobSettings
settings = AnnotateSettings(repo_id={NAME!r}, job=JobSettings(target="h200"))
sys.exit(submit(settings, ["--repo_id={NAME}", "--job.target=h200"], Console(width=1000)))
"""
    env = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPO, env=env)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "working" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(timeout=60) == INTERRUPTED
    finally:
        process.kill()
    assert "job job0 goes on and costs money" in rest and f"hf jobs cancel {USER}/job0" in rest
    assert published.jobs["job0"].stage == "RUNNING" and not published.of("/cancel")


def test_a_dataset_that_only_lies_here_is_uploaded_privately_first(hub: HubDouble, annotated: Path) -> None:
    run(f"--root={annotated}", f"--repo_id={NAME}", "--push_to_hub", "--job.target=h200")
    repo = hub.repos[NAME]
    assert repo.private and repo.tags == {"v3.0": repo.head}
    assert repo.files["meta/info.json"] == (annotated / "meta/info.json").read_bytes()
    assert "README.md" not in repo.files, "no words of ours before anything was added"
    assert not [p for p in repo.files if "staging" in p]
    order = [c.path for c in hub.writes]
    assert order.index(f"/api/datasets/{NAME}/commit/main") < order.index(f"/api/jobs/{USER}")


@pytest.mark.parametrize("place", ["home/datasets", "lerobot"])
def test_a_copy_in_a_cache_is_found(hub: HubDouble, annotated: Path, tmp_path: Path, place: str) -> None:
    shutil.copytree(annotated, tmp_path / place / NAME)
    run(f"--repo_id={NAME}", "--job.target=h200")
    assert hub.repos[NAME].private and "job0" in hub.jobs


def test_a_dataset_that_is_nowhere(hub: HubDouble) -> None:
    with pytest.raises(SettingsError, match=r"ann/tabletop on the hub[\s\S]*no copy[\s\S]*--root"):
        run(f"--repo_id={NAME}", "--job.target=h200")
    assert hub.writes == []


def test_a_root_beside_a_dataset_on_the_hub_is_warned_of(published: HubDouble, annotated: Path) -> None:
    _, said = run(f"--root={annotated}", f"--repo_id={NAME}", "--job.target=h200")
    assert "--root is not used" in said


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--root=/data/x"], "only on this machine"),
        ([f"--repo_id={NAME}", "--job.tags=a b"], "letters, digits"),
        ([f"--repo_id={NAME}", "--job.timeout=soon"], "timeout"),
        ([f"--repo_id={NAME}", "--push_to_hub", "--new_repo_id=bob/x"], "namespace"),
    ],
)
def test_nothing_is_rented_when_a_setting_is_wrong(published: HubDouble, words: list[str], wanted: str) -> None:
    with pytest.raises(SettingsError, match=wanted):
        run(*words, "--job.target=h200")
    assert published.writes == [] and published.jobs == {}


def test_without_a_login_nothing_is_rented(published: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SettingsError, match="hf auth login"):
        run(f"--repo_id={NAME}", "--job.target=h200")
    monkeypatch.setenv("HF_TOKEN", "hf_wrongtoken0123456789")
    with pytest.raises(PublishError, match="401"):
        run(f"--repo_id={NAME}", "--job.target=h200")
    assert published.writes == []


def test_what_the_hub_says_of_a_machine_it_has_not(published: HubDouble) -> None:
    published.refuse = lambda call: (402, "Pre-paid credit is too low") if call.path == f"/api/jobs/{USER}" else None
    with pytest.raises(JobError, match=r"machine h900[\s\S]*credit is too low[\s\S]*billing"):
        run(f"--repo_id={NAME}", "--job.target=h900")


def test_targets() -> None:
    assert split_target("h200") == split_target("hf:h200") == ("hf", "h200")
    for wrong in ("slurm:gpu", "hf:", ""):
        with pytest.raises(SettingsError, match="hf:FLAVOR"):
            split_target(wrong)


def test_the_project_tag_comes_first_and_once() -> None:
    assert list(to_labels(["b", "cuebook", "b", "a=1"])) == ["cuebook", "b", "a"]


def test_another_launcher_can_be_added(published: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[JobSpec] = []

    class Closet:
        def submit(self, job: JobSpec) -> str:
            sent.append(job)
            return "7"

        def follow(self, job_id: str) -> list[str]:
            return ["from the closet"]

        def stage(self, job_id: str) -> str:
            return "COMPLETED"

        def advice(self, job_id: str) -> str:
            return "open the door"

    monkeypatch.setitem(LAUNCHERS, "closet", lambda api, user: Closet())
    code, said = run(f"--repo_id={NAME}", "--job.target=closet:box")
    assert code == DONE and "from the closet" in said and "open the door" in said
    assert sent[0].flavor == "box" and TOKEN not in repr(sent[0])


def test_a_job_can_be_cancelled(published: HubDouble) -> None:
    published.on_job = lambda job: None
    run(f"--repo_id={NAME}", "--job.target=h200", "--job.detach")
    launcher = HubLauncher(hub_api(TOKEN), USER)
    assert launcher.stage("job0") == "RUNNING"
    launcher.cancel("job0")
    assert launcher.stage("job0") == "CANCELED"
    with pytest.raises(JobError, match="job99"):
        launcher.cancel("job99")


def annotate(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own."""
    env = {**os.environ, "HF_HOME": str(home), "COLUMNS": "200"}
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=REPO, env=env, check=False)


def test_the_command_line_sends_what_was_typed(published: HubDouble, tmp_path: Path) -> None:
    def work(job: Job) -> None:
        job.say("hello from there")
        job.end("COMPLETED")

    published.on_job = work
    words = ["--repo_id", NAME, "--push_commit_message", "it's $(done)", "--strict", "--job.target=h200"]
    done = annotate("run", "--engine=inline", *words, home=tmp_path)
    assert done.returncode == DONE, done.stderr
    assert "hello from there" in done.stderr
    command = published.jobs["job0"].spec["command"][2].splitlines()[-1]
    assert shlex.split(command)[1:] == [
        "annotate",
        "run",
        "--engine=inline",
        "--push_commit_message=it's $(done)",
        "--strict=true",
        f"--repo_id={NAME}",
        "--job.target=local",
    ]


def test_the_command_line_refuses_a_settings_file_for_a_remote_job(published: HubDouble, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("seed: 3\n")
    words = [f"--config={tmp_path}/my.yaml", f"--repo_id={NAME}", "--job.target=h200"]
    done = annotate("run", *words, home=tmp_path)
    assert done.returncode == 2 and "only on this machine" in done.stderr and published.jobs == {}
