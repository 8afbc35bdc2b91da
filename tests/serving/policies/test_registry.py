"""Which family a place is of; anyone's own policy by module:function."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import PolicyError
from serving.manifest import ModelSettings, RtcSettings
from serving.policies.registry import family_of, load_policy
from tests.conftest import REPO
from tests.serving.policies import examples
from tests.serving.policies.examples import Good

HERE = "tests.serving.policies.examples"


def settings(place: str | Path = "", **fields: object) -> ModelSettings:
    return ModelSettings(repo_or_path=str(place), device="cpu", **fields)


def write(path: Path, text: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_families_are_found_by_what_lies_there(tmp_path: Path) -> None:
    write(tmp_path / "dataset/meta/info.json", json.dumps({"codebase_version": "v3.0"}))
    write(tmp_path / "exported/policy.yaml", "")
    write(tmp_path / "checkpoint/config.json")
    found = [family_of(settings(tmp_path / name)) for name in ("dataset", "exported", "checkpoint")]
    assert found == ["replay", "exported", "lerobot"]
    assert family_of(settings("lerobot/act_aloha_sim_transfer_cube_human")) == "lerobot"
    assert family_of(settings("my_robot.policies:load")) == "factory"
    assert family_of(settings("anything", family="my_robot.policies:load")) == "factory"


@pytest.mark.parametrize("name", ["./act", "/models/act", "~/act", "models/act/last", "my model", "a\\b"])
def test_a_path_that_is_not_there_is_no_hub_id(name: str) -> None:
    with pytest.raises(PolicyError, match="no such folder"):
        family_of(settings(name))


def test_a_folder_of_nothing_known_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="an empty folder"):
        family_of(settings(tmp_path))
    write(tmp_path / "meta/info.json", "[1]")
    write(tmp_path / "weights.bin", "")
    with pytest.raises(PolicyError, match=r"policy.yaml \(exported\)(.|\n)*weights.bin"):
        family_of(settings(tmp_path))


def test_the_checkpoint_inside_a_training_folder_is_pointed_at(tmp_path: Path) -> None:
    inner = write(tmp_path / "checkpoints/020000/pretrained_model/config.json").parent
    with pytest.raises(PolicyError, match=f"did you mean {inner}"):
        family_of(settings(tmp_path))


def test_a_file_is_refused_with_its_folder(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=f"give the folder {tmp_path}"):
        family_of(settings(write(tmp_path / "policy.yaml")))


@pytest.mark.parametrize(("family", "needs"), [("replay", "meta/info.json"), ("exported", "policy.yaml")])
def test_a_family_asked_for_by_name_needs_its_file(tmp_path: Path, family: str, needs: str) -> None:
    with pytest.raises(PolicyError, match=needs):
        load_policy(settings(tmp_path, family=family))
    with pytest.raises(PolicyError, match="no such folder"):
        load_policy(settings(tmp_path / "gone", family=family))


def test_a_family_asked_for_wins_over_what_lies_there(tmp_path: Path) -> None:
    write(tmp_path / "policy.yaml", "")
    write(tmp_path / "config.json")
    assert family_of(settings(tmp_path)) == "exported"
    assert family_of(settings(tmp_path, family="lerobot")) == "lerobot"


def test_a_factory_gets_its_options_and_the_settings_that_it_asks_for() -> None:
    model = settings(f"{HERE}:make", options={"gain": 2.5})
    policy = load_policy(model, RtcSettings(execution_horizon=7))
    assert isinstance(policy, Good) and policy.gain == 2.5
    assert policy.model is model and policy.rtc.execution_horizon == 7
    by_family = load_policy(settings("some/checkpoint", family=f"{HERE}:make"))
    assert by_family.model.repo_or_path == "some/checkpoint"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("no_such_module_anywhere:load", {}, "there is none"),
        (f"{HERE}:mkae", {}, "want a function mkae(.|\n)*make"),
        (f"{HERE}:not_callable", {}, "int"),
        (f"{HERE}:make", {"gian": 1}, "gian"),
        (f"{HERE}:strict", {}, "size"),
        (f"{HERE}:raising", {}, "no weights here"),
        (f"{HERE}:nothing", {}, "NoneType"),
        (f"{HERE}:NoReset", {}, "no reset, close"),
        (f"{HERE}:bad_names", {}, "3 action_names for action_dim 2"),
    ],
)
def test_a_factory_that_does_not_fit_is_named(name: str, options: dict, said: str) -> None:
    with pytest.raises(PolicyError, match=said) as caught:
        load_policy(settings(name, options=options))
    assert caught.value.wanted and caught.value.got and caught.value.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk_size": 0}, {"fps": 0.0}, {"batch_max": 0}, {"prefix_form": ""}, {"execution_horizon": 5},
        {"shared": False, "batch_max": 4}, {"history_frames": 0}, {"action_names": ("a", "a")}, {"state_dim": -1},
    ],
)  # fmt: skip
def test_a_spec_that_does_not_fit_together_is_refused(monkeypatch: pytest.MonkeyPatch, changes: dict) -> None:
    monkeypatch.setattr(examples, "made", lambda: Good(**changes), raising=False)
    with pytest.raises(PolicyError, match="fits together"):
        load_policy(settings(f"{HERE}:made"))


def test_a_module_with_a_missing_import_names_that_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "needs_more.py", "import no_such_thing_here\n")
    write(tmp_path / "is_broken.py", "1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PolicyError, match="no module no_such_thing_here"):
        load_policy(settings("needs_more:load"))
    with pytest.raises(PolicyError, match="ZeroDivisionError"):
        load_policy(settings("is_broken:load"))


def test_a_module_in_the_working_folder_is_found(tmp_path: Path) -> None:
    write(tmp_path / "beside.py", f"from {HERE} import Good as load\n")
    code = f"""
import sys
sys.path[:] = [p for p in sys.path if p] + [{str(REPO)!r}]
from serving.manifest import ModelSettings
from serving.policies.registry import load_policy
print(type(load_policy(ModelSettings(repo_or_path="beside:load"))).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Good", done.stderr


def test_choosing_a_family_imports_nothing_heavy() -> None:
    code = """
import sys
from serving.manifest import ModelSettings
from serving.policies.registry import family_of
family_of(ModelSettings(repo_or_path="a/b"))
print([m for m in ("torch", "lerobot", "pyarrow", "av", "transformers", "yaml") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
