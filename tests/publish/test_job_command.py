"""What a rented machine is told to run: the user's flags and nothing that only means something here."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.flags import build, leaves, parse
from flows.job_command import KEY_ENV, PACKAGE_ENV, check_replayable, replay, requirement, script, take_secrets
from tasks.errors import SettingsError
from tasks.settings import AnnotateSettings

REPO_ID = "ann/tabletop"
KNOWN = [name for name, _ in leaves(AnnotateSettings)]


def settings_of(words: list[str]) -> AnnotateSettings:
    return build(AnnotateSettings, parse(words, KNOWN))


def test_flags_of_here_are_left_out_in_both_spellings() -> None:
    typed = "--root=/data/x --repo_id=a/b --job.target=h200 --job.tags=x --plan.max_steps=6"
    for arguments in (typed.split(), typed.replace("=", " ").split()):
        assert replay(arguments, REPO_ID) == [
            "annotate",
            "run",
            "--plan.max_steps=6",
            "--repo_id=ann/tabletop",
            "--job.target=local",
        ]


def test_bare_switches_and_values_in_the_next_word() -> None:
    arguments = [
        "--push_to_hub",
        "--job.detach",
        "--strict",
        "--engine",
        "inline",
        "--verbose",
        "--json",
        "--seed",
        "-5",
    ]
    assert replay(arguments, REPO_ID)[2:-2] == [
        "--push_to_hub=true",
        "--strict=true",
        "--engine=inline",
        "--verbose",
        "--seed=-5",
    ]


@pytest.mark.parametrize(
    "arguments", [["--config=my.yaml"], ["--config", "my.yaml"], ["--config_path=x"], ["--plan", "plan.yaml"]]
)
def test_settings_files_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"only on this machine[\s\S]*as flags"):
        replay(arguments, REPO_ID)


TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=30)


@given(st.dictionaries(st.sampled_from(["push_commit_message", "vlm.serve_command", "vlm.camera_key"]), TEXT))
def test_the_run_there_has_the_settings_of_the_run_here(typed: dict[str, str]) -> None:
    arguments = [f"--{name}={value}" for name, value in typed.items()]
    here = settings_of([*arguments, "--root=/here", "--job.target=h200", "--vlm.chat_template_kwargs={a: 'b c'}"])
    there = settings_of(
        replay([*arguments, "--root=/here", "--job.target=h200", "--vlm.chat_template_kwargs={a: 'b c'}"], REPO_ID)[2:]
    )
    assert there == here.model_copy(update={"root": None, "repo_id": REPO_ID, "job": AnnotateSettings().job})


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--root=/data/x"], r"--root=/data/x[\s\S]*--repo_id"),
        ([], "download"),
        (["--repo_id=a/b", "--vlm.backend=replay", "--vlm.replay_path=x.jsonl"], "replay_path"),
        (["--repo_id=a/b", "--vlm.backend=vllm", "--vlm.model_id=/tmp"], r"model_id[\s\S]*upload the model"),
        (["--repo_id=a/b", "--vlm.backend=openai"], r"localhost:8000[\s\S]*auto_serve"),
    ],
)
def test_what_lies_only_here_is_refused(flags: list[str], wanted: str) -> None:
    with pytest.raises(SettingsError, match=wanted):
        check_replayable(settings_of(flags))


def test_own_prompts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUEBOOK_PROMPT_VQA_BBOX", "/here/bbox.txt")
    with pytest.raises(SettingsError, match="CUEBOOK_PROMPT_VQA_BBOX"):
        check_replayable(settings_of(["--repo_id=a/b"]))


def test_a_server_of_its_own_is_fine() -> None:
    check_replayable(settings_of(["--repo_id=a/b", "--vlm.backend=openai", "--vlm.auto_serve=true"]))
    check_replayable(settings_of(["--repo_id=a/b", "--vlm.backend=openai", "--vlm.api_base=http://gpu.lab:8000/v1"]))


def test_keys_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets, flags = take_secrets(settings_of(["--vlm.api_key=sk-literal"]), "hf_t")
    assert secrets == {"HF_TOKEN": "hf_t", KEY_ENV: "sk-literal"} and flags == [f"--vlm.api_key=env:{KEY_ENV}"]
    assert replay(["--vlm.api_key=sk-literal", "--vlm.api_key", "sk-literal"], REPO_ID)[2:-2] == []
    monkeypatch.setenv("MY_KEY", "sk-env")
    secrets, flags = take_secrets(settings_of(["--vlm.api_key=env:MY_KEY"]), "hf_t")
    assert secrets == {"HF_TOKEN": "hf_t", "MY_KEY": "sk-env"} and flags == ["--vlm.api_key=env:MY_KEY"]
    assert take_secrets(settings_of([]), "hf_t") == ({"HF_TOKEN": "hf_t"}, [])


def test_a_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(SettingsError, match="MY_KEY in the environment"):
        take_secrets(settings_of(["--vlm.api_key=env:MY_KEY"]), "hf_t")


@pytest.mark.parametrize(
    ("given", "ref", "wanted"),
    [
        ("git+https://host.org/x/cuebook", "main", "cuebook[annotate] @ git+https://host.org/x/cuebook@main"),
        ("cuebook @ git+https://host.org/x/cuebook.git", "v1", "cuebook[annotate] @ git+https://host.org/x/cuebook.git@v1"),
        ("git+https://host.org/x/cuebook@abc", "main", "cuebook[annotate] @ git+https://host.org/x/cuebook@abc"),
        ("https://host.org/cuebook-1-py3-none-any.whl", "v1", "cuebook[annotate] @ https://host.org/cuebook-1-py3-none-any.whl"),
        ("cuebook[annotate]", "main", "cuebook[annotate]"),
        ("cuebook[annotate]", "0.2.0", "cuebook[annotate]==0.2.0"),
        ("cuebook[annotate]>=0.1", "0.2.0", "cuebook[annotate]>=0.1"),
    ],
)  # fmt: skip
def test_where_the_machine_gets_the_package(given: str, ref: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PACKAGE_ENV, given)
    assert requirement(ref, "annotate") == wanted
    git = "apt-get install -y -qq git" in script([], ref, "motion")[2]
    assert git == given.replace("cuebook @ ", "").startswith("git+")


def test_a_bare_name_is_never_chosen_for_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PACKAGE_ENV, raising=False)
    monkeypatch.setattr("flows.job_command._repository", lambda: None)
    with pytest.raises(SettingsError, match=PACKAGE_ENV):
        requirement("main", "annotate")


def test_a_password_in_the_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PACKAGE_ENV, "git+https://user:secret@host.org/x/cuebook")
    with pytest.raises(SettingsError) as caught:
        requirement("main", "annotate")
    assert "secret" not in str(caught.value)


FAKE = """
import importlib.metadata, json, os, sys
import numpy
print(json.dumps({"arguments": sys.argv[1:], "prefix": sys.prefix, "numpy": numpy.__version__, "from": numpy.__file__}))
sys.exit(7)
"""


def fake_wheel(folder: Path, needs: str = "numpy") -> Path:
    """A package of our name whose `annotate` tells how it was called; it asks for what the image brings."""
    info = "cuebook-9.9.dist-info"
    files = {
        "fake_annotate.py": f"def main():\n{''.join('    ' + line + chr(10) for line in FAKE.strip().splitlines())}",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: cuebook\nVersion: 9.9\nProvides-Extra: annotate\n"
        f"Requires-Dist: {needs}; extra == 'annotate'\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nannotate = fake_annotate:main\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text.encode())}\n"
        for name, text in files.items()
    )
    path = folder / "cuebook-9.9-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(name, text)
    return path


def test_the_script_runs_and_leaves_the_image_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PACKAGE_ENV, fake_wheel(tmp_path).as_uri())
    odd = ["--a=it's", '--b={"x": "y z"}', "--c=$(echo no) `no` \\ ; & |", "--d=line\nbreak", "--e=", "--f=ünï"]
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python3").symlink_to(sys.executable)
    before = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PIP_NO_INDEX": "1",
        "TMPDIR": str(tmp_path),
    }
    command = script(["annotate", "run", *odd], "main", "motion")
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=env, check=False)
    assert done.returncode == 7, done.stderr  # the run's own exit code is the job's
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["arguments"] == ["run", *odd]
    assert (said["numpy"], said["from"]) == (numpy.__version__, numpy.__file__), "taken from the image, not anew"
    assert said["prefix"].startswith(str(tmp_path)), "an environment of its own"
    after = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    assert after == before


@pytest.mark.slow
def test_another_version_of_what_the_image_brings_is_never_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PACKAGE_ENV, fake_wheel(tmp_path, "numpy>999").as_uri())
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PIP_NO_INDEX": "1"}
    command = script(["annotate", "run"], "main", "motion")
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=env, check=False)
    assert done.returncode != 7 and "conflicting dependencies" in done.stderr
    assert f"(constraint) numpy=={numpy.__version__}" in done.stdout
