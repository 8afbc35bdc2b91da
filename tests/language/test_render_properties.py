"""Rendering over random rows and random recipes, against an oracle, and by what a sample may never be."""

from __future__ import annotations

import copy
import itertools
import json
import logging
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import AmbiguousRowsError
from tasks.language.recipe import Recipe, load_recipe
from tasks.language.render import Renderer, Sample
from tasks.language.resolve import EpisodeTable
from tasks.language.rows import Row, say
from tests.language import oracle
from tests.language.oracle import Contradiction, Episode, Scene
from tests.language.random_recipes import CAMERAS, FRAMES, TASKS, random_episode, random_recipe

EXAMPLES, BATCH = 800, 200  # recipes, each with rows of its own

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def quiet(caplog):
    """Thousands of warnings are not kept for the report of a test."""
    caplog.set_level(logging.ERROR, logger="tasks.language.render")


def example(seed: int) -> tuple[Random, Recipe, Episode]:
    """A recipe and rows to render by it, the same for the same seed."""
    random = Random(seed)
    return random, random_recipe(random), random_episode(random)


def table_of(episode: Episode) -> EpisodeTable:
    return EpisodeTable.at_fps(episode.states, episode.events, episode.fps)


def expanded(recipe: Recipe) -> dict[str, tuple[Recipe, str | None]]:
    """Components and their cameras, by the names that they get."""
    found: dict[str, tuple[Recipe, str | None]] = {}
    for name, part in (recipe.blend or {"recipe": recipe}).items():
        if part.cameras is None:
            found[name] = part, None
            continue
        short = [c.rsplit(".")[-1] for c in (CAMERAS if part.cameras == "all" else part.cameras)]
        found |= {f"{name}_{word}": (part, f"observation.images.{word}") for word in short}
    return found


def slow_samples(recipe: Recipe, episode: Episode, frame: int, task: str | None, spoken: str | None) -> dict[str, Any]:
    """What each component gives at a frame, by the oracle; those that cannot render, or contradict, are left out."""
    made = {}
    for name, (part, camera) in expanded(recipe).items():
        try:
            sample = oracle.render(Scene(episode, frame, part, spoken, task, camera))
        except Contradiction:
            continue
        if sample is not None:
            made[name] = sample
    return made


def texts_of(message: dict[str, Any]) -> list[str]:
    """What a message says in words."""
    content = message.get("content", [])
    return [content] if isinstance(content, str) else [block["text"] for block in content if "text" in block]


def assert_sound(sample: Sample) -> None:
    """Nothing that a training loop could choke on."""
    messages, targets = sample["messages"], sample["target_message_indices"]
    assert messages and len(messages) == len(sample["message_streams"])
    assert set(sample["message_streams"]) <= {"high_level", "low_level"}
    assert targets == sorted(set(targets)) and set(targets) <= set(range(len(messages)))
    assert targets or "low_level" in sample["message_streams"]
    for i, message in enumerate(messages):
        assert message["role"] in ("user", "assistant", "system", "tool")
        assert {"role"} < set(message) <= {"role", "content", "tool_calls"}
        assert message.get("content", "?") and message.get("tool_calls", "?")
        assert all(text.strip() for text in texts_of(message))
        assert i not in targets or texts_of(message) or message.get("tool_calls")
    assert "${" not in json.dumps(sample)
    json.dumps(sample, allow_nan=False)


@pytest.mark.parametrize("first", range(0, EXAMPLES, BATCH))
def test_samples_are_what_the_oracle_lays_out(first):
    """Which components can render, what they say, and that routed ones win wherever they can and never appear else."""
    seen: Counter[str] = Counter()
    for seed in range(first, first + BATCH):
        random, recipe, episode = example(seed)
        task, override = random.choice(TASKS), random.choice((None, None, *TASKS))
        renderer, table = Renderer(recipe, cameras=CAMERAS, seed=seed, on_ambiguous="skip"), table_of(episode)
        routed = {name for name, (part, _) in expanded(recipe).items() if part.route}
        assert renderer.names == tuple(expanded(recipe))
        spoken = [override] if override is not None else table.rephrasings or [task]
        options = {"episode": 1, "task": task, "task_override": override}
        for frame in range(FRAMES):
            possible = [slow_samples(recipe, episode, frame, task, words) for words in spoken]
            able = renderer.renderable(table, frame, **options)
            assert able == list(possible[0]), (seed, frame)
            named = renderer.render_named(table, frame, **options)
            assert (named is None) == (not able), (seed, frame)
            seen["nothing" if named is None else "routed" if named[0] in routed else "drawn"] += 1
            if named is None:
                continue
            name, sample = named
            assert_sound(sample)
            assert sample in [samples[name] for samples in possible], (seed, frame)
            assert name in (routed & set(able) or set(able)), (seed, frame)
    assert min(seen.values()) > BATCH / 4 and len(seen) == 3  # random recipes do all of it


def test_the_same_key_gives_the_same_sample_and_it_is_the_callers_own():
    for seed in range(BATCH):
        random, recipe, episode = example(seed)
        renderer, table = Renderer(recipe, cameras=CAMERAS, on_ambiguous="skip"), table_of(episode)
        rows = copy.deepcopy((episode.states, episode.events))
        where = {"frame": random.randrange(FRAMES), "episode": 2, "epoch": 1, "task": random.choice(TASKS)}
        named = renderer.render_named(table, **where)
        kept = copy.deepcopy(named)
        if named is not None:
            _spoil(named[1])
        assert renderer.render_named(table, **where) == kept, seed
        assert (episode.states, episode.events) == rows, seed


def _spoil(value: Any) -> None:
    """Change everything that can be changed."""
    inner = list(value.values()) if isinstance(value, dict) else list(value)
    for item in inner:
        if isinstance(item, dict | list):
            _spoil(item)
    value.clear()


def test_contradictions_raise_or_only_leave_their_component_out():
    """Whatever is drawn afterwards: in every epoch, or in none."""
    raised = 0
    for seed in range(BATCH):
        random, recipe, episode = example(seed)
        where = {"frame": random.randrange(FRAMES), "episode": 0, "task": random.choice(TASKS)}
        table = table_of(episode)
        strict, lenient = (Renderer(recipe, cameras=CAMERAS, on_ambiguous=how) for how in ("raise", "skip"))
        try:
            able = strict.renderable(table, **where)
        except AmbiguousRowsError as err:
            assert "rows" in err.got and err.remedy
            assert set(lenient.renderable(table, **where)) < set(lenient.names), seed
            raised += 1
            continue
        assert able == lenient.renderable(table, **where), seed
        for epoch in range(3):
            assert strict.render_named(table, epoch=epoch, **where) == lenient.render_named(table, epoch=epoch, **where)
    assert raised > BATCH / 8


def test_counts_tell_what_was_rendered():
    for seed in range(BATCH // 4):
        random, recipe, episode = example(seed)
        renderer, table = Renderer(recipe, cameras=CAMERAS, on_ambiguous="skip"), table_of(episode)
        given_out: Counter[str] = Counter()
        for frame, epoch in itertools.product(range(FRAMES), range(3)):
            named = renderer.render_named(table, frame, episode=0, epoch=epoch, task=random.choice(TASKS))
            given_out[named[0] if named else "nothing"] += 1
        assert renderer.counts == given_out, seed


# --- draws ---------------------------------------------------------------------------------------------------------


def says(text: str, **more: Any) -> dict[str, Any]:
    """A component of one target turn."""
    return {"messages": [{"role": "assistant", "content": text, "stream": "high_level", "target": True}], **more}


BLEND = load_recipe(
    {
        "blend": {
            "often": says("a", weight=0.5),
            "never": says("${plan}", weight=5.0),
            "sometimes": says("b", weight=0.3),
            "early": says("${subtask}", weight=0.2),
            "front": says("${vqa}", weight=0.01, route="vqa"),
            "twice": says("Again: ${vqa}", weight=0.03, route="vqa"),
        }
    }
)
EARLY = 3000
ASKED = range(1000, 3000)
MANY = EpisodeTable(
    [(0, Row("assistant", "reach", "subtask", 0.0)), (EARLY, Row("assistant", " ", "subtask", EARLY / 10))],
    [(f, Row("assistant", "red", "vqa", f / 10, "front")) for f in ASKED],
)
CHI_SQUARE_MAX = {1: 15.1, 2: 18.4}  # by degrees of freedom; passed by one fair draw in 10,000


def chi_square(counts: Counter[str], weights: dict[str, float]) -> float:
    total, share = sum(counts.values()), sum(weights.values())
    expected = {name: total * weight / share for name, weight in weights.items()}
    return sum((counts[name] - want) ** 2 / want for name, want in expected.items())


@pytest.mark.parametrize(
    ("span", "weights"),
    [
        (range(1000), {"often": 0.5, "sometimes": 0.3, "early": 0.2}),
        (range(EARLY, 5000), {"often": 0.5, "sometimes": 0.3}),
        (ASKED, {"front": 0.01, "twice": 0.03}),
    ],
    ids=["three can render", "two can render", "questions"],
)
@pytest.mark.parametrize("along", ["frames", "episodes", "epochs", "seeds"])
def test_draws_follow_the_weights_of_what_can_render(span, weights, along):
    """Along any part of the key."""
    renderer, frame = Renderer(BLEND, seed=5), span[0]
    counts: Counter[str] = Counter()
    for n, at in enumerate(span):
        if along == "seeds":
            renderer.seed = n
        where = {"frames": (at, 7, 0), "episodes": (frame, n, 0), "epochs": (frame, 7, n), "seeds": (frame, 7, 0)}
        drawn, episode, epoch = where[along]
        counts[renderer.render_named(MANY, drawn, episode=episode, epoch=epoch)[0]] += 1
    assert set(counts) == set(weights)
    assert chi_square(counts, weights) < CHI_SQUARE_MAX[len(weights) - 1]


def test_one_epoch_says_nothing_about_the_next():
    renderer = Renderer(BLEND, seed=5)
    draws = [
        [renderer.render_named(MANY, f, episode=0, epoch=epoch)[0] for f in range(EARLY, 5000)] for epoch in range(3)
    ]
    for one, other in itertools.combinations(draws, 2):
        pairs = Counter(zip(one, other, strict=True))
        share = {"often": 0.625, "sometimes": 0.375}
        expected = {(a, b): share[a] * share[b] for a in share for b in share}
        assert sum((pairs[p] - 2000 * e) ** 2 / (2000 * e) for p, e in expected.items()) < 21.1  # 3 degrees of freedom


def test_a_routed_component_wins_at_any_weight():
    renderer = Renderer(BLEND, seed=1)
    assert {renderer.render_named(MANY, f, episode=0)[0] for f in ASKED} == {"front", "twice"}
    assert renderer.counts["nothing"] == 0


# --- tasks and rephrasings -----------------------------------------------------------------------------------------

REPHRASED = ("clear the table", "make the table clean", "tidy up", "put all away")
ALSO = load_recipe(says("${task} | ${canonical_task:-no task}"))


def rephrased(*texts: str) -> EpisodeTable:
    return EpisodeTable([(0, Row("user", text, "task_aug", 0.0)) for text in texts], ())


def said(renderer: Renderer, table: EpisodeTable, frame: int = 0, **options: Any) -> list[str]:
    return renderer.render(table, frame, episode=0, **options)["messages"][0]["content"].split(" | ")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from((*REPHRASED, "", " ")), max_size=5),
    st.sampled_from(TASKS),
    st.none() | st.just("go"),
    st.integers(0, 9),
)
def test_an_override_beats_rephrasings_and_they_beat_the_task(texts, task, override, frame):
    sample = Renderer(ALSO).render(rephrased(*texts), frame, episode=0, task=task, task_override=override)
    real = [text for text in texts if text.strip()]
    task = task if task and task.strip() else None
    if not (override or real or task):
        assert sample is None
        return
    spoken, canonical = sample["messages"][0]["content"].split(" | ")
    assert canonical == (task or "no task")
    assert spoken in ([override] if override else real or [task])


def test_all_rephrasings_are_reached_within_64_frames_and_evenly():
    renderer, table = Renderer(ALSO, seed=0), rephrased(*REPHRASED)
    assert {said(renderer, table, f, task="t")[0] for f in range(64)} == set(REPHRASED)
    assert {said(renderer, table, epoch=e, task="t")[0] for e in range(64)} == set(REPHRASED)
    counts = Counter(said(renderer, table, f, task="t")[0] for f in range(2000))
    assert chi_square(counts, dict.fromkeys(REPHRASED, 0.25)) < 21.1  # 3 degrees of freedom


def test_the_rephrasing_is_drawn_apart_from_the_component():
    """Else one component would only ever see some of the rephrasings."""
    recipe = load_recipe({"blend": {name: says("${task}", weight=1.0) for name in ("one", "other")}})
    renderer, table = Renderer(recipe), rephrased(*REPHRASED[:2])
    pairs: Counter[Any] = Counter()
    for f in range(1000):
        name, sample = renderer.render_named(table, f, episode=0)
        pairs[name, sample["messages"][0]["content"]] += 1
    assert len(pairs) == 4 and chi_square(pairs, dict.fromkeys(pairs, 0.25)) < 21.1


# --- cameras -------------------------------------------------------------------------------------------------------

TWO_CAMERAS = EpisodeTable(
    [(0, Row("assistant", "reach", "subtask", 0.0))],
    [(4, Row(role, f"{role} of {camera}", "vqa", 0.4, camera)) for camera in CAMERAS for role in ("user", "assistant")],
)
ASK = {
    "cameras": "all",
    "bindings": {
        "vqa": "emitted_at(t, style=vqa, role=assistant, camera=${camera})",
        "vqa_query": "emitted_at(t, style=vqa, role=user, camera=${camera})",
    },
    "messages": [
        {
            "role": "user",
            "stream": "high_level",
            "content": [{"type": "image", "feature": "${camera}"}, {"type": "text", "text": "${vqa_query}"}],
        },
        {"role": "assistant", "content": "${vqa}", "stream": "high_level", "target": True},
    ],
}


def test_questions_on_two_cameras_are_asked_one_by_one_with_the_right_picture():
    renderer = Renderer(load_recipe(ASK), cameras=CAMERAS)
    assert renderer.names == ("recipe_front", "recipe_wrist")
    assert renderer.renderable(TWO_CAMERAS, 4) == ["recipe_front", "recipe_wrist"]
    seen = Counter()
    for epoch in range(400):
        name, sample = renderer.render_named(TWO_CAMERAS, 4, episode=0, epoch=epoch)
        camera = f"observation.images.{name.removeprefix('recipe_')}"
        picture, question = sample["messages"][0]["content"]
        assert picture["feature"] == camera and question["text"] == f"user of {camera}"
        assert sample["messages"][1]["content"] == f"assistant of {camera}"
        seen[name] += 1
    assert chi_square(seen, dict.fromkeys(renderer.names, 0.5)) < CHI_SQUARE_MAX[1]


def test_a_recipe_that_asks_nothing_renders_where_questions_contradict_each_other():
    renderer = Renderer(load_recipe(says("${subtask}")))
    assert renderer.render(TWO_CAMERAS, 4, episode=0)["messages"][0]["content"] == "reach"


def test_contradicting_questions_raise_or_are_skipped_as_told(caplog):
    caplog.set_level(logging.WARNING, logger="tasks.language.render")
    recipe = load_recipe({"blend": {"ask": says("${vqa}", weight=1.0), "act": says("${subtask}", weight=1.0)}})
    with pytest.raises(AmbiguousRowsError, match="style=vqa, role=assistant") as err:
        Renderer(recipe).render(TWO_CAMERAS, 4, episode=0)
    assert "2 rows" in err.value.got and "camera" in err.value.remedy
    renderer = Renderer(recipe, on_ambiguous="skip")
    assert {renderer.render_named(TWO_CAMERAS, 4, episode=0, epoch=e)[0] for e in range(20)} == {"act"}
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "component ask left out where rows contradict each other"
    ]


def test_weights_of_a_repeated_component_are_shared_out():
    blend = {"ask": {**ASK, "weight": 0.4}, "act": says("x", weight=0.6)}
    renderer = Renderer(load_recipe({"blend": blend}), cameras=CAMERAS)
    assert renderer.weights == {"ask_front": 0.2, "ask_wrist": 0.2, "act": 0.6}


# --- words of rows stay as they are --------------------------------------------------------------------------------


def test_a_placeholder_in_a_row_is_only_words():
    table = EpisodeTable([(0, Row("assistant", "say ${task} or $${plan}", "subtask", 0.0))], ())
    sample = Renderer(load_recipe(says("$${kept} ${subtask} 5 $"))).render(table, 0, episode=0, task="secret")
    assert sample["messages"][0]["content"] == "${kept} say ${task} or $${plan} 5 $"


def test_tool_calls_are_copies_at_any_depth():
    row = Row("assistant", None, None, 0.0, tool_calls=say("hello"))
    turn = {"role": "assistant", "stream": "high_level", "target": True, "tool_calls_from": "speech"}
    renderer, table = Renderer(load_recipe({"messages": [turn]})), EpisodeTable((), [(0, row)])
    first, second = (renderer.render(table, 0, episode=0)["messages"][0]["tool_calls"] for _ in range(2))
    assert first == second == say("hello")
    first[0]["function"]["arguments"]["text"] = "changed"
    assert row.tool_calls == second == say("hello")
