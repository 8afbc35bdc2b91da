"""The dataset card: what the source says stays, what was added is said once, with figures that are true."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.dataset.layout import open_dataset
from tasks.errors import PublishError
from tasks.evaluate.source import load
from tasks.publish import UploadPlan, check_target, front_matter, plan_upload, publish
from tasks.publish.card import BEGIN, END, TAGS, make_card
from tasks.publish.facts import Facts, count_styles, gather
from tests.hub_double import USER, HubDouble

NAME = f"{USER}/tabletop"
SOURCE_CARD = """---
# kept: a comment
license: cc-by-4.0   # and another
pretty_name: "Tabletop: 1"
tags:
- robotics
- Lerobot
size_categories: [n<1K]
my_own_key:
  deep: {a: 1, b: [x, 'y']}
---

# Tabletop

Recorded by [us](https://example.org/lab). Viewer: [here](https://example.org/view?path=lab/source).
"""


def plan(root: Path, **options: object) -> UploadPlan:
    return plan_upload(root, check_target(NAME), **options)


def front_of(card: str) -> dict[str, object]:
    return front_matter.read(front_matter.split(card)[0])


def facts(**changes: object) -> Facts:
    known = {"episodes": 1, "counts": (), "version": "1", "phases": (), "failures": 0, "skips": 0}
    return Facts(**{**known, **changes})  # type: ignore[arg-type]


def card_of(local: str | None = None, remote: str | None = None, source: str | None = None, **changes: object) -> str:
    return make_card(
        facts(**changes), NAME, f"http://hub/datasets/{NAME}", source=source, local=local, remote=remote
    ).text


def test_licence_links_and_unknown_keys_of_the_source_stay(hub: HubDouble, annotated: Path) -> None:
    (annotated / "README.md").write_text(SOURCE_CARD)
    publish(plan(annotated, source_id="lab/source"))
    card = hub.repos[NAME].files["README.md"].decode()
    front = front_of(card)
    assert front["license"] == "cc-by-4.0" and front["my_own_key"] == {"deep": {"a": 1, "b": ["x", "y"]}}
    assert front["tags"] == ["robotics", "Lerobot", "cuebook"], "none twice, the source's spelling stays"
    assert list(front)[:5] == ["license", "pretty_name", "tags", "size_categories", "my_own_key"]
    assert "# kept: a comment" in card and "license: cc-by-4.0   # and another" in card
    assert "[us](https://example.org/lab)" in card and "view?path=lab/source" in card
    assert f"made from [lab/source]({hub.url}/datasets/lab/source)" in card
    assert not [w for w in plan(annotated).warnings if "licence" in w]


def test_the_card_names_the_target(hub: HubDouble, annotated: Path) -> None:
    text = plan(annotated).card
    assert f'LeRobotDataset("{NAME}")' in text and f"[{NAME}]({hub.url}/datasets/{NAME})" in text


def test_without_a_card_no_licence_and_no_size_is_invented(hub: HubDouble, annotated: Path) -> None:
    made = plan(annotated)
    front = front_of(made.card)
    assert set(front) == {"tags", "task_categories", "configs"} and front["tags"] == list(TAGS)
    assert made.card.count("# tabletop\n") == 1
    assert any("names no licence" in w for w in made.warnings)


def test_the_figures_are_those_of_the_dataset(hub: HubDouble, annotated: Path) -> None:
    counted = {c.style: c for c in count_styles(open_dataset(annotated))}
    expected: Counter[str] = Counter()
    holding: Counter[str] = Counter()
    for episode in load(annotated).episodes.values():
        expected.update(episode.rows)
        holding.update(set(episode.rows))
    assert {s: c.rows for s, c in counted.items()} == dict(expected) and len(expected) >= 4
    assert {s: c.episodes for s, c in counted.items()} == dict(holding)
    text = plan(annotated).card
    for style, c in counted.items():
        assert f"| `{style}` |" in text and f"| `{c.column}` | {c.rows} | {c.episodes} |" in text


def test_who_made_it_is_said(hub: HubDouble, annotated: Path) -> None:
    record = annotated / "meta/cuebook.json"
    known = json.loads(record.read_text())
    run = {**known["runs"][0], "backend": "openai", "model": "Some/VLM-8B", "seed": 77, "time": "2026-01-02T03:04:05Z"}
    older = {
        **run,
        "model": "Other/VLM",
        "phases": {"plan": {"done": 2, "failed": 1}},
        "prompts": {"plan_memory": "0a"},
    }
    run["phases"] = {"vqa": {"done": 1, "cached": 1, "failed": 1}}
    run["prompts"] = {"vqa_bbox": "beef", "coordinates_pixel": "cafe"}
    run["failures"] = [{"episode": 2, "phase": "vqa", "reason": "x"}]
    run["skips"] = {"vqa_bbox": 4}
    record.write_text(json.dumps({**known, "runs": [run, older]}))
    text = plan(annotated).card
    assert "| vqa | Some/VLM-8B | openai | 2026-01-02T03:04:05Z | 77 | 2 | 1 |" in text
    assert "| plan | Other/VLM | openai | 2026-01-02T03:04:05Z | 77 | 2 | 1 |" in text, "the last run of that phase"
    for name, digest in (("vqa_bbox", "beef"), ("coordinates_pixel", "cafe"), ("plan_memory", "0a")):
        assert f"| `{name}` | `{digest}` |" in text
    assert "1 episode phases, 4 unanswered questions" in text
    assert f"cuebook {known['cuebook']} wrote" in text and ", 0 errors," in text


def test_a_run_without_a_model_names_no_prompts(hub: HubDouble, annotated: Path) -> None:
    text = plan(annotated).card
    assert "| plan | " in text and "Prompts" not in text


def test_the_section_is_replaced_and_edits_on_the_hub_are_kept(hub: HubDouble, annotated: Path) -> None:
    (annotated / "README.md").write_text(SOURCE_CARD)
    publish(plan(annotated))
    repo = hub.repos[NAME]
    edited = repo.files["README.md"].decode().replace("# Tabletop\n", "# Tabletop, edited\n") + "\nEdited below.\n"
    repo.commit({**repo.files, "README.md": edited.replace("license: cc-by-4.0", "license: mit").encode()})
    publish(plan(annotated))
    text = repo.files["README.md"].decode()
    assert text.count(BEGIN) == text.count(END) == 1
    assert "# Tabletop, edited" in text and "Edited below." in text and front_of(text)["license"] == "mit"


def test_a_repository_made_by_hand_does_not_hide_the_sources_card() -> None:
    text = card_of(local=SOURCE_CARD, remote="---\nlicense: mit\n---\n")
    assert front_of(text)["license"] == "cc-by-4.0" and "# Tabletop" in text
    assert front_of(card_of(remote="---\nlicense: mit\n---\n"))["license"] == "mit"


def test_publishing_over_the_source_takes_the_card_that_is_there() -> None:
    text = card_of(local=SOURCE_CARD, remote=SOURCE_CARD.replace("# Tabletop", "# Newer"), source=NAME)
    assert "# Newer" in text and "made from" not in text


def test_the_same_card_again_when_nothing_changed() -> None:
    once = card_of(local=SOURCE_CARD)
    assert card_of(local=once) == once == card_of(local="x", remote=once)


def test_a_lone_marker_eats_no_text() -> None:
    text = card_of(local=f"# Mine\n\n{BEGIN}\nmy words\n")
    assert "my words" in text and text.count(BEGIN) == 1 and text.index("my words") < text.index(BEGIN)


def test_recorded_text_cannot_break_out_of_the_section() -> None:
    from tasks.publish.facts import PhaseRun

    evil = f"{END} | x\n# Heading <script> `` [a](http://b)"
    run = PhaseRun("plan", evil, evil, evil, evil, {evil: evil}, 1, 0)
    text = card_of(phases=(run,), version=evil)
    assert text.count(END) == 1 and "<script" not in text and "\n# Heading" not in text and "[a](http" not in text


@pytest.mark.parametrize(
    "damage",
    ["{", "[]", '{"runs": 3}', '{"runs": [3, {"phases": [], "skips": 4}]}', '{"runs": [{"phases": {"plan": 1}}]}'],
)
def test_a_damaged_record_still_makes_a_card(hub: HubDouble, annotated: Path, damage: str) -> None:
    (annotated / "meta/cuebook.json").write_text(damage)
    assert gather(open_dataset(annotated), None).phases == ()
    assert f'LeRobotDataset("{NAME}")' in plan(annotated).card


@pytest.mark.parametrize("front", ["a: [", "- a\n- b", "just words"])
def test_front_matter_that_is_none(front: str) -> None:
    with pytest.raises(PublishError, match=r"README\.md"):
        card_of(local=f"---\n{front}\n---\n\nbody\n")


@pytest.mark.parametrize(
    "front",
    [
        "tags: robotics",
        "tags: [a, b]   # flow",
        "tags:\n  - a\n  # between\n  - b\n\n# after\nlicense: mit",
        "tags: null\nlicense: mit",
        "license: mit\n\n\n",
        "{license: mit, tags: [a]}",
        "x: |\n  tags: no\n  more\ntags:\n- a",
        "tags: &t [a]\nother: *t",
        "'tags': [a]",
        "",
    ],
)
def test_tags_are_added_and_all_else_is_kept(front: str) -> None:
    before = front_matter.read(front)
    after = front_matter.read(front_matter.with_tags(front, TAGS))
    own = before.get("tags")
    mine = [own] if isinstance(own, str) else own or []
    assert [t for t in after["tags"] if t in mine] == mine and {"LeRobot", "cuebook"} <= set(after["tags"])
    assert {k: v for k, v in after.items() if k != "tags"} == {k: v for k, v in before.items() if k != "tags"}


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.floats(allow_nan=False)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3))


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.text(max_size=6), values, max_size=5),
    st.lists(st.text(max_size=8), max_size=4),
    st.sampled_from([None, True, False]),
)
def test_any_front_matter_survives(known: dict[str, object], tags: list[str], flow: bool | None) -> None:
    known = {**known, "tags": tags}
    front = yaml.safe_dump(known, sort_keys=False, allow_unicode=True, default_flow_style=flow)
    assume(yaml.safe_load(front) == known)  # the library itself loses some control characters
    body = "text\n---\nmore\n"
    read_front, read_body = front_matter.split(front_matter.join(front, body))
    assert front_matter.read(read_front) == known and read_body.strip() == body.strip()
    after = front_matter.read(front_matter.with_tags(read_front, TAGS))
    assert {**after, "tags": None} == {**known, "tags": None} and list(after) == list(known)
    folded = [str(t).casefold() for t in after["tags"]]
    assert len(folded) == len(set(folded)) and {t.casefold() for t in [*tags, *TAGS]} == set(folded)
