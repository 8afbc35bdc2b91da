"""Realised rates against counting frame by frame, and what a component that never renders is said to lack."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import SettingsError
from tasks.language.narrow import narrowed
from tasks.language.rates import CONTRADICTION, Rates, find_frame, measure_rates
from tasks.language.recipe import Recipe, canonical_recipes, load_recipe
from tasks.language.render import Renderer
from tasks.language.resolve import EpisodeTable
from tasks.language.rows import Row
from tests.language.conftest import Annotated

FPS = 10.0
FRONT, SIDE = "observation.images.front", "observation.images.side"
STYLES = ("subtask", "memory", "plan")


@dataclass
class Rows:
    """Episodes made by hand."""

    tables: Sequence[EpisodeTable]
    lengths: Sequence[int]
    tasks: Sequence[str]
    episode_indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.tables)

    def frames(self, position: int) -> int:
        return self.lengths[position]

    def task(self, position: int) -> str:
        return self.tasks[position]

    def table(self, position: int) -> EpisodeTable:
        return self.tables[position]


def rows_of(dataset: Annotated) -> Rows:
    """An annotated dataset's rows, read by other code than the one that serves training."""
    episodes = [labelled.episode for labelled in dataset.episodes]
    return Rows(
        [labelled.table for labelled in dataset.episodes],
        [e.frames for e in episodes],
        [e.task for e in episodes],
        [e.episode_index for e in episodes],
    )


def by_hand(*tables: tuple[list[tuple[int, Row]], list[tuple[int, Row]]], frames: int = 20, task: str = "go") -> Rows:
    """Episodes 5, 6, … of these rows."""
    count = len(tables)
    return Rows([EpisodeTable(*t) for t in tables], [frames] * count, [task] * count, range(5, 5 + count))


def state(frame: int, text: str, style: str = "subtask") -> tuple[int, Row]:
    return frame, Row("assistant", text, style, frame / FPS)


def renderer(recipe: Recipe | str, cameras: Sequence[str] = (FRONT, SIDE), **options: object) -> Renderer:
    return Renderer(load_recipe(recipe), cameras=cameras, on_ambiguous="skip", **options)  # type: ignore[arg-type]


def one_by_one(rows: Rows, recipe: Renderer, epoch: int = 0) -> tuple[Counter[str], Counter[str]]:
    """(drawn, renderable) by component, each frame for itself."""
    drawn: Counter[str] = Counter()
    able: Counter[str] = Counter()
    for position, episode in enumerate(rows.episode_indices):
        for frame in range(rows.frames(position)):
            at = {"episode": episode, "epoch": epoch, "task": rows.task(position)}
            able.update(recipe.renderable(rows.table(position), frame, **at))
            named = recipe.render_named(rows.table(position), frame, **at)
            drawn[named[0] if named else "nothing"] += 1
    return drawn, able


def check_counts(rates: Rates, drawn: Counter[str], able: Counter[str]) -> None:
    assert {c.name: c.drawn for c in rates.components.values() if c.drawn} == drawn - Counter(nothing=drawn["nothing"])
    assert {c.name: c.renderable for c in rates.components.values() if c.renderable} == able
    assert rates.nothing == drawn["nothing"] and rates.frames == drawn.total()


@pytest.mark.parametrize("recipe", canonical_recipes())
def test_counts_are_those_of_every_frame_rendered_for_itself(tabletop: Annotated, recipe: str) -> None:
    rows = rows_of(tabletop)
    rates = measure_rates(rows, renderer(recipe, tabletop.cameras, seed=3), epoch=2)
    check_counts(rates, *one_by_one(rows, renderer(recipe, tabletop.cameras, seed=3), epoch=2))
    assert rates.frames == rates.frames_total == 120


@settings(max_examples=40, deadline=None)
@given(
    states=st.lists(st.tuples(st.integers(0, 11), st.sampled_from(STYLES)), max_size=8, unique=True),
    events=st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["user", "assistant"])), max_size=6, unique=True),
    task=st.sampled_from(["", "go"]),
)
def test_counts_of_any_rows(states: list[tuple[int, str]], events: list[tuple[int, str]], task: str) -> None:
    persistent = [state(frame, f"{style} {frame}", style) for frame, style in states]
    asked = [(frame, Row(role, "what?", "vqa", frame / FPS, FRONT)) for frame, role in events]
    rows = by_hand((persistent, asked), frames=12, task=task)
    rates = measure_rates(rows, renderer("pi05_hirobot"))
    check_counts(rates, *one_by_one(rows, renderer("pi05_hirobot")))


def test_an_even_sample_reaches_every_episode(tabletop: Annotated) -> None:
    rates = measure_rates(rows_of(tabletop), renderer("subtask"), frames_max=12)
    assert (rates.frames, rates.frames_total) == (12, 120)
    assert sum(c.drawn for c in rates.components.values()) == 12
    told: list[tuple[int, int]] = []
    measure_rates(rows_of(tabletop), renderer("subtask"), frames_max=12, progress=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_more_frames_asked_for_than_there_are() -> None:
    assert measure_rates(by_hand(([state(0, "reach")], [])), renderer("subtask"), frames_max=10**6).frames == 20


def test_only_some_episodes() -> None:
    rows = by_hand(([], []), ([state(0, "reach")], []))
    assert measure_rates(rows, renderer("subtask"), positions=[1]).frames_total == 20
    assert measure_rates(rows, renderer("subtask"), positions=[1]).nothing == 0


def test_examples_are_frames_on_which_the_component_is_drawn(tabletop: Annotated) -> None:
    rows, recipe = rows_of(tabletop), renderer("subtask_mem_vqa_speech", tabletop.cameras)
    rates = measure_rates(rows, recipe)
    seen = 0
    for component in rates.components.values():
        assert len(component.examples) == component.drawn.bit_length()
        for episode, frame in component.examples:
            position = list(rows.episode_indices).index(episode)
            named = recipe.render_named(rows.table(position), frame, episode=episode, task=rows.task(position))
            assert named is not None and named[0] == component.name
            seen += 1
    assert seen > 7


def test_what_a_component_lacks_is_counted_on_every_frame() -> None:
    rates = measure_rates(by_hand(([state(5, "reach")], [])), renderer("subtask_mem", ()))
    memory = rates.components["memory_update"]
    assert (memory.drawn, memory.renderable) == (0, 0)
    assert memory.lacks["current_memory"] == memory.lacks["prior_memory"] == 20
    assert rates.components["high_level_subtask"].lacks == {"subtask": 5}
    assert (rates.nothing, rates.task_only) == (5, 5)


def test_frames_without_a_task_have_nothing_to_fall_back_to() -> None:
    rows = by_hand(([state(5, "reach")], []), task="")
    assert measure_rates(rows, renderer("subtask")).task_only == 0
    rephrased = by_hand(([state(5, "reach"), (0, Row("user", "do it", "task_aug", 0.0))], []), task="")
    assert measure_rates(rephrased, renderer("subtask")).task_only == 5


def test_contradicting_rows_are_counted_and_named() -> None:
    rows = by_hand(([state(0, "reach")], []), ([state(10, "lift"), state(10, "drop"), state(15, "rest")], []))
    rates = measure_rates(rows, renderer("subtask"))
    assert rates.ambiguous == 5 and rates.first_ambiguous is not None
    assert (
        "episode 6" in rates.first_ambiguous and "lift" in rates.first_ambiguous and "2 rows" in rates.first_ambiguous
    )
    assert rates.components["low_level_execution"].lacks[CONTRADICTION] == 5


def test_shares_of_a_recipe_and_its_json() -> None:
    rates = measure_rates(by_hand(([state(0, "reach")], [])), renderer("subtask_mem_vqa_speech"))
    told = json.loads(json.dumps(rates.to_json()))
    assert [c["name"] for c in told["components"]][-2:] == ["ask_vqa_front", "ask_vqa_side"]
    assert sum(c["share"] for c in told["components"]) == pytest.approx(1)
    assert told["components"][-1]["routed"] and told["components"][-1]["lacks"] == {"vqa_query": 20, "vqa": 20}
    assert told["components"][0]["drawn"] + told["components"][1]["drawn"] == told["frames"] == 20


def test_the_first_frame_on_which_a_rare_component_can_render() -> None:
    asked = [(7, Row(role, "what?", "vqa", 0.7, SIDE)) for role in ("user", "assistant")]
    rows = by_hand(([state(0, "reach")], []), ([state(0, "reach")], asked))
    recipe = renderer("subtask_mem_vqa_speech")
    assert find_frame(rows, recipe, "ask_vqa_side", range(2)) == (1, 7)
    assert find_frame(rows, recipe, "ask_vqa_front", range(2)) is None
    assert find_frame(rows, recipe, "ask_vqa_side", [0]) is None


# ------------------------------------------------------------------------------------------------ some components only


def test_components_are_chosen_by_name_or_by_one_camera() -> None:
    recipe = load_recipe("subtask_mem_vqa_speech")
    both = narrowed(recipe, (FRONT, SIDE), ["ask_vqa", "memory_update"])
    assert renderer(both).names == ("memory_update", "ask_vqa_front", "ask_vqa_side")
    one = renderer(narrowed(recipe, (FRONT, SIDE), ["ask_vqa_side"]))
    assert one.weights == {"ask_vqa_side": pytest.approx(0.075)}
    assert narrowed(load_recipe("subtask_joint"), (), ["recipe"]) == load_recipe("subtask_joint")


def test_an_unknown_component_gets_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match="did you mean ask_vqa_side") as info:
        narrowed(load_recipe("subtask_mem_vqa_speech"), (FRONT, SIDE), ["ask_vqa_sde"])
    assert "memory_update" in info.value.wanted
