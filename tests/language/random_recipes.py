"""Random rows and random recipes: few words and few frames, so that everything meets."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from tasks.language.recipe import Recipe, load_recipe
from tasks.language.rows import Row, say
from tests.language.oracle import Episode

FPS = 8.0
FRAMES = 6
CAMERAS = ("observation.images.front", "observation.images.wrist")
TEXTS = ("reach", "grasp the cup", "größer", "done\n", None, "", "  ", "\n")
TASKS = (None, "", " ", "tidy the table", "tidy the table")
CALLS = (None, None, say("all right"), [*say("one"), *say("two")])
DEFAULTS = ("subtask", "memory", "plan", "speech", "interjection", "vqa", "vqa_query")
BINDINGS = (  # declared by a component, beside the defaults
    ("prior", "nth_prev(style=memory, offset=1)"),
    ("next", "nth_next(style=subtask)"),
    ("begun", "emitted_at(t, style=subtask)"),
    ("subtask", "nth_next(style=subtask, offset=2)"),  # overrides a default
    ("same", "active_at(t, style=memory)"),  # asks the same as a default
)
OF_CAMERA = (
    ("seen", "emitted_at(t, style=vqa, role=assistant, camera=${camera})"),
    ("asked", "emitted_at(t, style=vqa, role=user, camera=${camera})"),
)
WORDS = ("Now: ", " then ", "Say it.", "$5 ", "")


def random_episode(random: Random) -> Episode:
    """States, rephrasings, interjections, speech and questions, some blank, some twice."""
    held = [_state(random) for _ in range(random.randint(0, 8))]
    held += [Row("user", random.choice(TEXTS), "task_aug", 0.0) for _ in range(random.choice((0, 0, 1, 3)))]
    happening = [(random.randrange(FRAMES), _event(random)) for _ in range(random.randint(0, 12))]
    return Episode(tuple(held), tuple(happening), FPS)


def _state(random: Random) -> Row:
    style = random.choice(("subtask", "subtask", "memory", "memory", "plan"))
    return Row("assistant", random.choice(TEXTS), style, random.randrange(FRAMES) / FPS, None, random.choice(CALLS))


def _event(random: Random) -> Row:
    text = random.choice(TEXTS)
    return random.choice(
        [
            Row("user", text, "interjection", 0.0),
            Row.speech("all right", 0.0),
            Row(random.choice(("user", "assistant")), text, "vqa", 0.0, random.choice(CAMERAS)),
            Row(random.choice(("user", "assistant")), text, "vqa", 0.0, random.choice(CAMERAS)),
        ]
    )


def random_recipe(random: Random) -> Recipe:
    """A blend, or a single message recipe."""
    parts = [_component(random) for _ in range(random.randint(1, 4))]
    return load_recipe({"blend": {f"part{i}": part for i, part in enumerate(parts)}} if len(parts) > 1 else parts[0])


def _component(random: Random) -> dict[str, Any]:
    made: dict[str, Any] = {"weight": random.choice((0.01, 0.25, 1.0, 3.0))}
    names: tuple[str, ...] = ("task", "canonical_task")
    declared = dict(random.sample(BINDINGS, random.randint(0, 3)))
    if random.random() < 0.5:
        made["cameras"] = random.choice(("all", ["front"], list(CAMERAS)))
        declared |= dict(OF_CAMERA)
        names += ("camera",)
    if random.random() < 0.3:
        made["route"] = random.choice(("event", "vqa"))
    if declared:
        made["bindings"] = declared
    rows = (*DEFAULTS, *declared)
    made["messages"] = [_turn(random, rows, names) for _ in range(random.randint(1, 3))]
    if not any(turn["target"] or turn["stream"] == "low_level" for turn in made["messages"]):
        made["messages"][-1]["target"] = True
    return made


def _turn(random: Random, rows: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    turn: dict[str, Any] = {
        "role": random.choice(("user", "assistant", "system", "tool")),
        "stream": random.choice(("high_level", "high_level", "low_level")),
        "target": random.random() < 0.5,
        "content": _template(random, (*rows, *names)),
    }
    if random.random() < 0.3:
        turn["content"] = _blocks(random, rows, names)
    if random.random() < 0.4:
        turn["if_present"] = random.choice((*rows, "task"))
    if random.random() < 0.2:
        turn["if_absent"] = random.choice((*rows, "task"))
    if random.random() < 0.3:
        turn["tool_calls_from"] = random.choice(("speech", *rows))
        if random.random() < 0.5:
            del turn["content"]
    return turn


def _template(random: Random, names: Sequence[str]) -> str:
    """Words and placeholders, some with a default; never blank as written."""

    def slot() -> str:
        return random.choice(("${%s}", "${%s}", "${%s:-}", "${%s:-none yet}")) % random.choice(names)

    parts = [random.choice((slot(), slot(), random.choice(WORDS))) for _ in range(random.randint(0, 3))]
    text = "".join(parts)
    return text if text.strip() else text + slot()


def _blocks(random: Random, rows: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    def text() -> str:
        return _template(random, (*rows, *names))

    made: list[dict[str, Any]] = [{"type": "text", "text": text()}]
    if random.random() < 0.5:
        made.insert(0, {"type": "image", "feature": text(), "crop": {"of": [text(), 3]}})
    if random.random() < 0.5:
        made.append({"type": "text", "text": text()})
    for block in made:
        if random.random() < 0.4:
            block["if_present"] = random.choice((*rows, "task"))
    return made
