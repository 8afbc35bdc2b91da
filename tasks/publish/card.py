"""The dataset card: the source's own, extended by one section that says what was added."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.language.styles import EVENTS, PERSISTENT
from tasks.publish import front_matter
from tasks.publish.facts import Facts, PhaseRun

BEGIN, END = "<!-- cuebook:begin -->", "<!-- cuebook:end -->"
SECTION = re.compile(re.escape(BEGIN) + r".*?" + re.escape(END), re.DOTALL)
TAGS = ("LeRobot", "robotics", "cuebook")
TASK_CATEGORIES = ["robotics"]
CONFIGS = [{"config_name": "default", "data_files": "data/*/*.parquet"}]  # else viewers take meta/ for data too
CELL_CHARS_MAX = 120
NO_LICENSE = (
    "the card names no licence, because the source's card names none: if you know it, write license: into the front "
    "matter of README.md"
)
STYLE_MEANINGS = {
    "subtask": "what the robot is doing, from its first frame until the next one",
    "plan": "what is still to do",
    "memory": "what has been done so far",
    "task_aug": "the task in other words",
    "motion": "what the robot's body does",
    "interjection": "what a person says meanwhile",
    "speech": "what the robot says, as a call of the tool `say`",
    "vqa": "a question about one frame of one camera, and its answer as JSON",
    "trace": "a trace in one camera's pixels",
}


@dataclass(frozen=True)
class Card:
    """The new README.md."""

    text: str
    base: str  # what it was made from: target, source, nothing
    warnings: tuple[str, ...]


def make_card(
    facts: Facts, target: str, url: str, *, source: str | None, local: str | None, remote: str | None
) -> Card:
    """The card of `target`. `local` is the folder's README.md, `remote` the one that the target has now.

    The target's own card wins where we made it or where the target is the source: it may have been edited there.
    """
    base, name = local, "source"
    if remote and remote.strip() and (BEGIN in remote or source == target or not (local and local.strip())):
        base, name = remote, "target"
    if not base or not base.strip():
        base, name = f"# {target.partition('/')[2]}\n", "nothing"
    front, body = front_matter.split(base)
    front = front_matter.with_tags(front, TAGS)
    known = front_matter.read(front)
    for key, value in (("task_categories", TASK_CATEGORIES), ("configs", CONFIGS)):
        if key not in known:
            front = front_matter.with_key(front, key, value)
    warnings = () if known.get("license") else (NO_LICENSE,)
    return Card(front_matter.join(front, _placed(body, section(facts, target, url, source))), name, warnings)


def _placed(body: str, text: str) -> str:
    """The body with our section in its old place, else at the end. A lone marker goes, the text around it stays."""
    if SECTION.search(body):
        return SECTION.sub(lambda _: text, body, count=1)
    body = body.replace(BEGIN, "").replace(END, "").rstrip()
    return f"{body}\n\n{text}\n" if body else f"{text}\n"


def section(facts: Facts, target: str, url: str, source: str | None) -> str:
    """The part between the markers."""
    hub = url.removesuffix(f"/{target}")
    made = f", made from [{_cell(source)}]({hub}/{source})" if source and source != target else ""
    version = f" {_cell(facts.version)}" if facts.version else ""
    parts = [
        BEGIN,
        "## Language annotations",
        f"This is [{target}]({url}){made}: {facts.episodes} episodes with language columns that "
        f"cuebook{version} wrote. This section is replaced when the dataset is published again; "
        "what stands outside of it is kept.",
        _columns(),
        _counts(facts),
        _runs(facts.phases),
        _quality(facts),
        _snippet(target),
        END,
    ]
    return "\n\n".join(p for p in parts if p)


def _columns() -> str:
    rows = [
        (f"`{PERSISTENT}`", "rows that hold until they are replaced; every frame of an episode has all of them"),
        (f"`{EVENTS}`", "rows that stand on exactly the frame they speak of"),
    ]
    return _table(("column", "what it holds"), rows)


def _counts(facts: Facts) -> str:
    if not facts.counts:
        return "No rows were added."
    rows = [
        (f"`{_cell(c.style)}`", STYLE_MEANINGS.get(c.style, ""), f"`{c.column}`", str(c.rows), str(c.episodes))
        for c in facts.counts
    ]
    return _table(("style", "meaning", "column", "rows", "episodes"), rows)


def _runs(phases: Sequence[PhaseRun]) -> str:
    if not phases:
        return ""
    rows = [
        (p.phase, _cell(p.model), _cell(p.backend), _cell(p.time), _cell(p.seed), str(p.done), str(p.failed))
        for p in phases
    ]
    text = _table(("phase", "model", "backend", "run", "seed", "episodes done", "episodes failed"), rows)
    digests = sorted({(name, digest) for p in phases for name, digest in p.prompts.items()})
    if digests:
        prompts = _table(("prompt", "digest"), [(f"`{_cell(n)}`", f"`{_cell(d)}`") for n, d in digests])
        text += f"\n\nPrompts, by the digest of their text:\n\n{prompts}"
    return text


def _quality(facts: Facts) -> str:
    if facts.checked_rows is None:
        checked = "Published without a check of the columns."
    else:
        checked = (
            f"Check before publishing: {facts.checked_rows} rows, {facts.errors} errors, {facts.warnings} warnings."
        )
    left = f"Left out in the last run: {facts.failures} episode phases, {facts.skips} unanswered questions."
    return f"{checked} {left} The whole record is in `meta/cuebook.json`."


def _snippet(target: str) -> str:
    return f"""```python
from lerobot.datasets.lerobot_dataset import LeRobotDataset

dataset = LeRobotDataset("{target}")
print(dataset[0]["{PERSISTENT}"])
```"""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    """Text that cannot leave its cell, open a tag or end a line of code."""
    line = " ".join(str(value).split())[:CELL_CHARS_MAX]
    return line.replace("|", "\\|").replace("<", "&lt;").replace("`", "'").replace("[", "(").replace("]", ")")
