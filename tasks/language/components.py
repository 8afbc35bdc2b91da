"""A recipe made ready to render: cameras expanded, names numbered, texts cut into pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from tasks.errors import RecipeError
from tasks.language.expression import CAMERA, Binding, parse_binding
from tasks.language.recipe import CAMERA_NAME, CANONICAL_TASK, DEFAULTS, TASK, Recipe, Turn
from tasks.language.template import Slot, parse_template

ALONE = "recipe"  # name of the only component of a recipe that is no blend
TASK_SLOT, CANONICAL_TASK_SLOT = 0, 1

Pieces = tuple[str | tuple[int, str | None], ...]  # literal texts, and (slot, default)


@dataclass(frozen=True, slots=True)
class Block:
    """One content block: a function that fills it in, and what it needs."""

    fill: Callable[[Callable[[int], str | None]], dict[str, Any]]
    if_present: int | None
    needs: tuple[int, ...]
    likes: tuple[int, ...]  # slots with a default
    text: Pieces | None  # what it says in words, where it does


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """A turn with its names as slot numbers."""

    role: str
    stream: str
    target: bool
    if_present: int | None
    if_absent: int | None
    calls: int | None
    needs: tuple[int, ...]  # slots whose text the whole turn needs
    likes: tuple[int, ...]  # slots that it takes where there are any: with a default, and tool calls
    text: Pieces | None
    blocks: tuple[Block, ...] | None


@dataclass(frozen=True, slots=True)
class Component:
    """One recipe of a blend, for one camera where it is repeated for several."""

    name: str
    weight: float
    routed: bool
    turns: tuple[TurnPlan, ...]


@dataclass
class Slots:
    """Numbers for what names stand for; components that ask the same share a slot."""

    bindings: list[Binding | None] = field(default_factory=lambda: [None, None])  # task, canonical_task
    names: list[str] = field(default_factory=lambda: [TASK, CANONICAL_TASK])
    _known: dict[Binding, int] = field(default_factory=dict)

    def of(self, name: str, bindings: Mapping[str, Binding]) -> int:
        """The slot of a name, given the bindings in force."""
        if name in bindings:
            binding = bindings[name]
            if binding not in self._known:
                self._known[binding] = len(self.bindings)
                self.bindings.append(binding)
                self.names.append(name)
            return self._known[binding]
        return TASK_SLOT if name == TASK else CANONICAL_TASK_SLOT


def compile_recipe(recipe: Recipe, cameras: Sequence[str]) -> tuple[tuple[Component, ...], Slots]:
    """The components of a recipe over these cameras (keys). Raises RecipeError when none is left, or one is unknown."""
    slots = Slots()
    blend = recipe.blend if recipe.blend is not None else {ALONE: recipe}
    components = [c for name, part in blend.items() for c in _expand(name, part, cameras, slots)]
    if not components:
        raise RecipeError(
            "want cameras for a recipe that is repeated for each camera", "a dataset without any", "use another recipe"
        )
    names = [c.name for c in components]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RecipeError("want a name of its own for each component", ", ".join(sorted(twice)), "rename one of them")
    return tuple(components), slots


def short_name(camera: str) -> str:
    """A camera's key without what all cameras share: observation.images.front -> front."""
    return camera.rsplit(".", 1)[-1]


def _expand(name: str, recipe: Recipe, cameras: Sequence[str], slots: Slots) -> Iterator[Component]:
    weight = 1.0 if recipe.weight is None else recipe.weight
    if recipe.cameras is None:
        yield _component(name, weight, recipe, None, cameras, slots)
        return
    chosen = list(cameras) if recipe.cameras == "all" else [_camera(c, cameras, name) for c in recipe.cameras]
    for camera in chosen:
        short = short_name(camera)
        unique = sum(short_name(c) == short for c in chosen) == 1
        yield _component(f"{name}_{short if unique else camera}", weight / len(chosen), recipe, camera, cameras, slots)


def _camera(wanted: str, cameras: Sequence[str], component: str) -> str:
    """The key of a camera that a recipe names in full or in short; taken as it is where no cameras are known."""
    found = [c for c in cameras if c == wanted or short_name(c) == wanted]
    if wanted in cameras or not cameras:
        return wanted
    if len(found) == 1:
        return found[0]
    close = get_close_matches(wanted, [*cameras, *map(short_name, cameras)], n=1, cutoff=0.5)
    remedy = f"did you mean {close[0]}?" if close else "write cameras: all"
    raise RecipeError(f"want a camera of {', '.join(cameras)} in cameras of {component}", repr(wanted), remedy)


def _known_as(name: str, cameras: Sequence[str]) -> str:
    """The key of the only camera of that short name; else the name as it is, which then matches no row."""
    found = [c for c in cameras if name in (c, short_name(c))]
    return found[0] if len(found) == 1 else name


def _component(
    name: str, weight: float, recipe: Recipe, camera: str | None, cameras: Sequence[str], slots: Slots
) -> Component:
    bindings = dict(DEFAULTS)
    for key, text in (recipe.bindings or {}).items():
        binding = parse_binding(text)
        if (named := binding.selector.camera) is not None:
            meant = camera if named == CAMERA else _known_as(named, cameras)
            binding = replace(binding, selector=replace(binding.selector, camera=meant))
        bindings[key] = binding
    turns = tuple(_Turns(bindings, camera, slots).plan(turn) for turn in recipe.messages or ())
    return Component(name, weight, recipe.route is not None, turns)


@dataclass(frozen=True)
class _Turns:
    """Turns of one component, its names known."""

    bindings: Mapping[str, Binding]
    camera: str | None
    slots: Slots

    def plan(self, turn: Turn) -> TurnPlan:
        """A turn ready to render."""
        text = self._pieces(turn.content) if isinstance(turn.content, str) else None
        blocks = tuple(self._block(block) for block in turn.content) if isinstance(turn.content, list) else None
        calls = self._slot(turn.tool_calls_from)
        likes = _likes(text or ()) if calls is None else (*_likes(text or ()), calls)
        return TurnPlan(
            turn.role, turn.stream, turn.target, self._slot(turn.if_present), self._slot(turn.if_absent), calls,
            _needs(text or ()), likes, text, blocks,
        )  # fmt: skip

    def _slot(self, name: str | None) -> int | None:
        return None if name is None else self.slots.of(name, self.bindings)

    def _pieces(self, text: str) -> Pieces:
        pieces: list[str | tuple[int, str | None]] = []
        for piece in parse_template(text):
            if not isinstance(piece, Slot):
                pieces.append(piece)
            elif piece.name == CAMERA_NAME and self.camera is not None and CAMERA_NAME not in self.bindings:
                pieces.append(self.camera)
            else:
                pieces.append((self.slots.of(piece.name, self.bindings), piece.default))
        return tuple(pieces)

    def _block(self, block: Mapping[str, Any]) -> Block:
        used: list[Pieces] = []
        shape = {k: self._filler(v, used) for k, v in block.items() if k != "if_present"}
        pieces = tuple(piece for text in used for piece in text)
        return Block(
            lambda text_of: {k: fill(text_of) for k, fill in shape.items()},
            self._slot(block.get("if_present")),
            _needs(pieces),
            _likes(pieces),
            self._pieces(block["text"]) if isinstance(block.get("text"), str) else None,
        )

    def _filler(self, value: Any, used: list[Pieces]) -> Callable[[Callable[[int], str | None]], Any]:
        """A function that makes a fresh copy of a value with all texts in it (noted in `used`) filled in."""
        if isinstance(value, str):
            pieces = self._pieces(value)
            used.append(pieces)
            return lambda text_of: fill_in(pieces, text_of)
        if isinstance(value, Mapping):
            parts = {k: self._filler(v, used) for k, v in value.items()}
            return lambda text_of: {k: fill(text_of) for k, fill in parts.items()}
        if isinstance(value, list):
            items = [self._filler(v, used) for v in value]
            return lambda text_of: [fill(text_of) for fill in items]
        return lambda text_of: value


def _needs(pieces: Pieces) -> tuple[int, ...]:
    return tuple(dict.fromkeys(p[0] for p in pieces if not isinstance(p, str) and p[1] is None))


def _likes(pieces: Pieces) -> tuple[int, ...]:
    return tuple(dict.fromkeys(p[0] for p in pieces if not isinstance(p, str) and p[1] is not None))


def fill_in(pieces: Pieces, text_of: Callable[[int], str | None]) -> str:
    """The text of pieces whose needs are met."""
    return "".join([p if isinstance(p, str) else text_of(p[0]) or p[1] or "" for p in pieces])
