"""The documentation says what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def test_settings_page_is_made_from_the_settings():
    made = runpy.run_path(str(REPO / "docs/make_settings.py"))["page"]()
    assert (REPO / "docs/settings.md").read_text() == made, "run python docs/make_settings.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_flags_in_the_documentation_exist(page):
    from flows.flags import leaves
    from tasks.settings import AnnotateSettings

    known = {name for name, _ in leaves(AnnotateSettings)} | {
        "engine",
        "json",
        "config",
        "episode",
        "dir",
        "svg",
        "verbose",
    }
    for line in page.read_text().splitlines():
        if re.search(r"annotate (run|check|show|demo|settings)\b", line) or line.lstrip().startswith("--vlm"):
            for name in re.findall(r"--([a-zA-Z_][\w.]*)", line):
                if "prefect" not in line and "pip" not in line:
                    assert name in known, f"--{name} in: {line}"
