"""The pages about driving say what the code does."""

from __future__ import annotations

import re
import runpy

import pytest

from configuration.flags import leaves
from edge.rollout.settings import SETTINGS
from edge.run_settings import MEANT, model_of
from edge.settings import InferenceSettings
from edge.state import State
from edge.stats import NAMES
from tests.serving.commands import REPO

PAGE = (REPO / "docs/edge.md").read_text()
COMMANDS = ("run", "check", "watch", "recover", "fields")


def test_the_page_of_flags_is_made_from_the_settings():
    made = runpy.run_path(str(REPO / "docs/make_edge_flags.py"))["page"]()
    assert (REPO / "docs/edge-flags.md").read_text() == made, "run python docs/make_edge_flags.py"


def known() -> set[str]:
    found = {"json", "config_path", "verbose", "once", "wait", "writer", "display"}
    for strategy in SETTINGS:
        found |= {name for name, _ in leaves(model_of("dataset", strategy, "", dataset=True))}
    return found | {name.rpartition(".")[0] for name in found}


@pytest.mark.parametrize("page", ["docs/edge.md", "README.md"])
def test_flags_on_the_page_exist(page):
    text = (REPO / page).read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    commands = [c for block in blocks for c in re.sub(r"\\\n", " ", block).splitlines() if re.match(r"\s*edge ", c)]
    for command in commands:
        assert command.split()[1] in COMMANDS, command
        names = re.findall(r"--([a-zA-Z_][\w.]*)", command.split("#")[0])
        strange = {n for n in names if n not in known() and not n.startswith(("robot.", "teleop."))}
        assert not strange, (command, strange)


def test_flags_in_the_text_exist():
    for name in re.findall(r"`--([a-zA-Z_][\w.]*)", PAGE):
        assert name in known() or name.startswith("robot."), name


def test_every_state_strategy_and_fallback_is_explained():
    assert all(f"`{strategy}`" in PAGE for strategy in SETTINGS)
    for state in State:
        assert f"| {state} |" in PAGE, state
    for fallback in InferenceSettings.model_fields["fallback"].annotation.__args__:
        assert f"| `{fallback}`" in PAGE, fallback


def test_numbers_on_the_page_are_the_defaults():
    fields = InferenceSettings.model_fields
    assert "`max_offline_s` (60 s)" in PAGE and fields["max_offline_s"].default == 60
    assert "`max_action_age_s` (3 s)" in PAGE and fields["max_action_age_s"].default == 3
    assert "`repeat_last_max_s` (0.5 s)" in PAGE and fields["repeat_last_max_s"].default == 0.5
    assert "`lease_ms` (2 s)" in PAGE and fields["lease_ms"].default == 2000


def test_counters_on_the_page_are_counted():
    for name in ("late_rows", "stale_drops", "limited", "foreign"):
        assert name in NAMES and f"`{name}`" in PAGE


def test_flags_of_other_tools_lead_to_ours():
    for meant in MEANT.values():
        if meant.startswith("--"):
            assert meant[2:].partition("=")[0] in known(), meant
