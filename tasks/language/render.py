"""One frame's rows laid out as chat turns: which component of a recipe is drawn, and what its turns say.

Draws are hashes of (seed, epoch, episode, frame): the same in every process, for any number of workers, and whatever
else is in the dataset. Only components that can render at the frame take part, so no weight is spent on nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Literal, TypedDict

from tasks.errors import AmbiguousRowsError
from tasks.language.components import (
    CANONICAL_TASK_SLOT,
    Block,
    Component,
    TurnPlan,
    compile_recipe,
    fill_in,
)
from tasks.language.recipe import Recipe
from tasks.language.resolve import EpisodeTable, resolver
from tasks.language.rows import Row

log = logging.getLogger(__name__)

NOTHING = "nothing"  # counted where no component could render
SCALE = 2.0**64

Kept = list[tuple[TurnPlan, Sequence[Block]]]
Resolver = Callable[[EpisodeTable, int], Row | None]


class Sample(TypedDict):
    """One rendered sample; the lists are the caller's own."""

    messages: list[dict[str, Any]]  # role, content and tool_calls where there are any
    message_streams: list[str]  # one a message
    target_message_indices: list[int]  # ascending; empty where only actions are learned


def task_alone(task: str) -> Sample:
    """What is left to learn where no row says anything: to act on the task."""
    messages = [{"role": "user", "content": task}]
    return {"messages": messages, "message_streams": ["low_level"], "target_message_indices": []}


class Renderer:
    """Renders frames by one recipe. Keeps nothing between samples but its counts; safe to pickle by its arguments."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        cameras: Sequence[str] = (),
        seed: int = 0,
        on_ambiguous: Literal["raise", "skip"] = "raise",
    ) -> None:
        """`cameras`: keys of the dataset's cameras. `on_ambiguous`: whether rows that contradict each other raise, or
        only leave their component out. Raises RecipeError when a named camera is unknown."""
        self.recipe, self.cameras, self.seed, self.on_ambiguous = recipe, tuple(cameras), seed, on_ambiguous
        self.components, self._slots = compile_recipe(recipe, cameras)
        self.names = tuple(c.name for c in self.components)
        self.weights = {c.name: c.weight for c in self.components}
        self.counts: Counter[str] = Counter()
        self._resolvers: list[Resolver | None] = [b and resolver(b) for b in self._slots.bindings]
        self._plain = tuple(c for c in self.components if not c.routed)
        self._routed = tuple(c for c in self.components if c.routed)
        self._warned = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _renderer, (self.recipe, self.cameras, self.seed, self.on_ambiguous)

    def render(
        self,
        table: EpisodeTable,
        frame: int,
        *,
        episode: int,
        epoch: int = 0,
        task: str | None = None,
        task_override: str | None = None,
    ) -> Sample | None:
        """The sample of a frame (0-based position in the episode), None when no component can render.

        `task` is the dataset's; rephrasings among the rows stand in for it. `task_override` beats both. Raises
        AmbiguousRowsError where rows contradict each other, unless told to skip.
        """
        named = self.render_named(table, frame, episode=episode, epoch=epoch, task=task, task_override=task_override)
        return None if named is None else named[1]

    def render_named(
        self,
        table: EpisodeTable,
        frame: int,
        *,
        episode: int,
        epoch: int = 0,
        task: str | None = None,
        task_override: str | None = None,
    ) -> tuple[str, Sample] | None:
        """The same, with the component's name."""
        at = _Frame(self._resolvers, table, frame, f"{self.seed}:{epoch}:{episode}:{frame}", task, task_override)
        drawn = None
        if self._routed:
            drawn = self._draw(self._routed, at, "vqa:")
        if drawn is None:
            drawn = self._draw(self._plain, at, "")
        if drawn is None:
            self.counts[NOTHING] += 1
            return None
        component, kept = drawn
        self.counts[component.name] += 1
        return component.name, _sample(kept, at)

    def renderable(
        self,
        table: EpisodeTable,
        frame: int,
        *,
        episode: int = 0,
        epoch: int = 0,
        task: str | None = None,
        task_override: str | None = None,
    ) -> list[str]:
        """Names of all components that can render at a frame."""
        at = _Frame(self._resolvers, table, frame, f"{self.seed}:{epoch}:{episode}:{frame}", task, task_override)
        return [c.name for c in self.components if self._turns(c, at) is not None]

    def missing(
        self, table: EpisodeTable, frame: int, *, task: str | None = None, task_override: str | None = None
    ) -> dict[str, tuple[str, ...]]:
        """For each component that cannot render at a frame, the names it would need and that have nothing here."""
        at = _Frame(self._resolvers, table, frame, "", task, task_override)
        found = {}
        for component in self.components:
            if self._turns(component, at) is None:
                slots = dict.fromkeys(s for turn in component.turns for s in _slots_of(turn) if at.text(s) is None)
                found[component.name] = tuple(self._slots.names[s] for s in slots)
        return found

    def _draw(self, among: Sequence[Component], at: _Frame, prefix: str) -> tuple[Component, Kept] | None:
        """One of the components that can render, by weight."""
        able = [(c, kept) for c in among if (kept := self._turns(c, at)) is not None]
        if len(able) < 2:
            return able[0] if able else None
        draw = _hash(prefix + at.key) / SCALE * sum(c.weight for c, _ in able)
        for choice in able:
            draw -= choice[0].weight
            if draw < 0:
                return choice
        return able[-1]  # rounding

    def _turns(self, component: Component, at: _Frame) -> Kept | None:
        """The turns that a component has at a frame; None when it cannot render there."""
        try:
            return _kept(component, at)
        except AmbiguousRowsError as err:
            if self.on_ambiguous == "raise":
                raise
            if not self._warned:
                log.warning("component %s left out where rows contradict each other: %s", component.name, err)
                self._warned = True
            return None


def _renderer(recipe: Recipe, cameras: tuple[str, ...], seed: int, on_ambiguous: Literal["raise", "skip"]) -> Renderer:
    return Renderer(recipe, cameras=cameras, seed=seed, on_ambiguous=on_ambiguous)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


_UNKNOWN: Any = object()


class _Frame:
    """What names stand for at one frame, looked up when first asked."""

    __slots__ = ("_resolvers", "_rows", "_task", "_task_override", "frame", "key", "table")

    def __init__(
        self,
        resolvers: Sequence[Resolver | None],
        table: EpisodeTable,
        frame: int,
        key: str,
        task: str | None,
        task_override: str | None,
    ) -> None:
        self.table, self.frame, self.key = table, frame, key
        self._resolvers, self._task, self._task_override = resolvers, task, task_override
        self._rows: list[Any] = [_UNKNOWN] * len(resolvers)

    def value(self, slot: int) -> Row | str | None:
        """The row, or the task's text; None when there is none."""
        row = self._rows[slot]
        if row is _UNKNOWN:
            resolve = self._resolvers[slot]
            if resolve is not None:
                row = resolve(self.table, self.frame)
            else:
                row = (self._task if slot == CANONICAL_TASK_SLOT else self._spoken_task()) or None
            self._rows[slot] = row
        return row

    def text(self, slot: int) -> str | None:
        """What a slot says; None when it says nothing."""
        value = self.value(slot)
        text = value.content if isinstance(value, Row) else value
        return text if text and not text.isspace() else None

    def _spoken_task(self) -> str | None:
        """The override, else one of the rephrasings, else the dataset's task."""
        if self._task_override is not None:
            return self._task_override
        rephrasings = self.table.rephrasings
        if rephrasings:
            return rephrasings[_hash("task_aug:" + self.key) % len(rephrasings)]
        return self._task


def _kept(component: Component, at: _Frame) -> Kept | None:
    """The turns that remain; None when a text is missing that nothing makes optional, or nothing is left to learn."""
    kept: Kept = []
    teaches = False
    for turn in component.turns:
        if turn.if_present is not None and at.value(turn.if_present) is None:
            continue
        if turn.if_absent is not None and at.value(turn.if_absent) is not None:
            continue
        blocks: Sequence[Block] = ()
        if turn.blocks is None:
            lost = [slot for slot in turn.needs if at.text(slot) is None]
        else:
            blocks, lost = _blocks(turn.blocks, at)
        if lost:
            if turn.target or turn.if_present in lost:
                continue
            return None
        for slot in turn.likes:
            at.value(slot)  # rows that contradict each other are met here, not when the component is drawn
        if not turn.needs and not _says_something(turn, blocks, at):
            continue
        kept.append((turn, blocks))
        teaches = teaches or turn.target or turn.stream == "low_level"
    return kept if teaches else None


def _blocks(blocks: Sequence[Block], at: _Frame) -> tuple[list[Block], list[int]]:
    """The blocks that remain, and the slots whose text those still lack that nothing makes optional."""
    kept, missing = [], []
    for block in blocks:
        if block.if_present is not None and at.value(block.if_present) is None:
            continue
        lost = [slot for slot in block.needs if at.text(slot) is None]
        if lost:
            missing += lost if block.if_present not in lost else ()
            continue
        for slot in block.likes:
            at.value(slot)
        if block.text is None or fill_in(block.text, at.text).strip():
            kept.append(block)
    return kept, missing


def _says_something(turn: TurnPlan, blocks: Sequence[Block], at: _Frame) -> bool:
    """Whether anything is left of a turn whose texts may all have fallen back to empty defaults."""
    if turn.text is not None:
        said = bool(fill_in(turn.text, at.text).strip())
    elif turn.target:
        said = any(block.text is not None for block in blocks)  # a picture alone cannot be learned
    else:
        said = bool(blocks)
    return said or bool(_tool_calls(turn, at))


def _slots_of(turn: TurnPlan) -> list[int]:
    slots = [*turn.needs, *(s for b in turn.blocks or () for s in b.needs)]
    return [*slots, *(s for s in (turn.if_present, turn.calls) if s is not None)]


def _tool_calls(turn: TurnPlan, at: _Frame) -> list[Any] | None:
    row = at.value(turn.calls) if turn.calls is not None else None
    return row.tool_calls if isinstance(row, Row) else None


def _sample(kept: Kept, at: _Frame) -> Sample:
    messages: list[dict[str, Any]] = []
    for turn, blocks in kept:
        message: dict[str, Any] = {"role": turn.role}
        if turn.text is not None:
            text = fill_in(turn.text, at.text)
            if turn.needs or text.strip():
                message["content"] = text
        elif blocks:
            message["content"] = [block.fill(at.text) for block in blocks]
        if turn.calls is not None and (calls := _tool_calls(turn, at)):
            message["tool_calls"] = [_copy(call) for call in calls]
        messages.append(message)
    return {
        "messages": messages,
        "message_streams": [turn.stream for turn, _ in kept],
        "target_message_indices": [i for i, (turn, _) in enumerate(kept) if turn.target],
    }


def _copy(value: Any) -> Any:
    """A copy of JSON data, several times faster than the general one."""
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value
