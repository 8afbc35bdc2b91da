"""docs/policies.md says what the code does: its examples run, its tables are whole."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from serving.manifest import ModelSettings
from serving.policies.base import Moment, Request, SessionInfo
from serving.policies.options import checked
from serving.policies.policy_yaml import PolicyFile
from serving.policies.registry import load_policy
from serving.policies.replay import ReplayOptions
from serving.probe import probe
from serving.warmup import warm_up
from tests.conftest import REPO

PAGE = (REPO / "docs/policies.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def section(title: str) -> str:
    return re.search(rf"^## {title}.*?(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[0]


def test_the_factory_of_the_page_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(block for block in blocks("python") if "class Swing" in block)
    (tmp_path / "swing.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = yaml.safe_load(next(block for block in blocks("yaml") if "swing:load" in block))["model"]
    policy = load_policy(ModelSettings(**model))
    report = probe(policy)
    assert policy.gain == 0.2 and report.pure and report.batch_invariant
    assert warm_up(policy, batch_sizes=[1, 8]).runs


def test_the_network_of_the_page_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    code = next(block for block in blocks("python") if "class Hold" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "policies.md", "exec"), {"__name__": "page"})
    policy = load_policy(ModelSettings(repo_or_path="exported/hold", device="cpu"))
    session = policy.open_session(SessionInfo("s", "r"))
    raw = policy.predict([session.prepare(Request(Moment(np.float32([1, 2, 3]), {})))])[0]
    assert session.finish(raw).robot.tolist() == [[1, 2, 6]] * 4


def test_the_policy_yaml_of_the_page_is_valid() -> None:
    values = yaml.safe_load(next(block for block in blocks("yaml") if "format: 1" in block))
    file = checked(PolicyFile, values, "docs/policies.md")
    assert len(file.cameras) == 2 and file.order[0] == "observation.state"


@pytest.mark.parametrize(("title", "model"), [("replay", ReplayOptions), ("exported", PolicyFile)])
def test_every_field_has_its_row(title: str, model: type) -> None:
    rows = " ".join(line.split("|")[1] for line in section(title).splitlines() if line.startswith("| `"))
    assert [name for name in model.model_fields if name not in rows] == []


def test_options_of_the_page_are_valid() -> None:
    values = yaml.safe_load(next(block for block in blocks("yaml") if "recordings/towels" in block))
    checked(ReplayOptions, values["model"]["options"], "docs/policies.md")
