"""The dependency rules of the house: who may import whom, and how fast the commands answer."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
OURS = {"flows", "tasks", "prompts", "serving", "edge", "network", "configuration"}
# package -> which of ours it may import
ALLOWED = {
    "configuration": set(),
    "prompts": set(),
    "tasks": {"prompts", "configuration"},
    "flows": {"tasks", "prompts", "configuration"},
    "network": {"serving", "configuration"},
    "serving": {"tasks", "network", "configuration"},
    "edge": {"tasks", "serving", "network", "configuration"},
}
HEAVY = ("torch", "transformers", "vllm", "lerobot", "prefect", "pyarrow", "av", "duckdb", "matplotlib", "PIL", "httpx")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_what_the_house_allows(package):
    allowed = ALLOWED[package] | {package}
    wrong = {
        f"{path.relative_to(REPO)} imports {name}"
        for path in (REPO / package).rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] in OURS - allowed
    }
    assert not wrong


def test_dataset_package_knows_no_prompts_and_no_phases():
    allowed = ("tasks.dataset", "tasks.errors", "tasks.answers.question", "tasks.language", "tasks.settings")
    wrong = {
        f"{path.relative_to(REPO)} imports {name}"
        for path in (REPO / "tasks/dataset").rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] in OURS and not name.startswith(allowed)
    }
    assert not wrong


def test_the_wire_knows_nothing_of_the_daemon():
    wrong = {
        f"{path.relative_to(REPO)} imports {name}"
        for path in (REPO / "serving/wire").rglob("*.py")
        for name in imports_of(path)
        if (name.split(".")[0] in OURS and not name.startswith("serving.wire")) or name.split(".")[0] == "torch"
    }
    assert not wrong


@pytest.mark.parametrize("package", ["serving", "edge"])
def test_of_tasks_servers_and_robots_read_datasets_only(package):
    wrong = {
        f"{path.relative_to(REPO)} imports {name}"
        for path in (REPO / package).rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] == "tasks" and not name.startswith(("tasks.dataset", "tasks.errors"))
    }
    assert not wrong


@pytest.mark.parametrize("package", ["network", "edge"])
def test_of_the_daemon_robots_and_the_network_know_the_wire_only(package):
    wrong = {
        f"{path.relative_to(REPO)} imports {name}"
        for path in (REPO / package).rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] == "serving" and not name.startswith("serving.wire")
    }
    assert not wrong


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "--no_such_flag=1"]])
def test_command_line_answers_without_heavy_imports(arguments):
    code = f"""
import sys
from flows.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print([m for m in {HEAVY!r} if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


NOT_ON_ROBOTS = ("torch", "lerobot", "prefect", "pyarrow", "av", "zenoh", "gymnasium", "rerun", "cv2", "PIL")
IMPORT_MIB_MAX = 70


def test_the_robots_command_is_light():
    # VmHWM and not ru_maxrss, which a process inherits: that of the tests' own
    code = f"""
import re, sys
import edge.cli
print([m for m in {NOT_ON_ROBOTS!r} if m in sys.modules])
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, mib = done.stdout.strip().splitlines()
    assert loaded == "[]"
    assert int(mib) <= IMPORT_MIB_MAX


def test_the_engine_needs_numpy_and_the_network_only():
    code = """
import sys
import edge.engine, network.memory_transport
print([m for m in ("torch", "lerobot", "pyarrow", "av", "cv2", "PIL", "gymnasium") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
