"""What a training loop would get: samples at chosen frames, and what a recipe consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.dataset.layout import open_dataset
from tasks.errors import DatasetError, SettingsError
from tasks.language.expression import parse_binding
from tasks.language.narrow import narrowed
from tasks.language.rates import ComponentRate, Rates, find_frame, measure_rates, stretch_at
from tasks.language.recipe import DEFAULT_BINDINGS, RECIPES_DIR, Recipe, canonical_recipes, load_recipe
from tasks.language.render import Renderer, Sample
from tasks.language.row_store import RowStore, open_rows
from tasks.language.styles import MODULE_STYLES

EDITOR_NOTE = "# yaml-language-server"  # a comment for editors
LACKS_SHOWN_MAX = 3


@dataclass(frozen=True)
class Shown:
    """One frame and its sample."""

    episode_index: int
    frame_index: int
    time_s: float
    component: str | None  # None: nothing renders
    task: str  # the dataset's
    renderable: list[str]  # all components that could render here
    sample: Sample | None
    lacks: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of each component asked for, when none renders

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


class Preview:
    """A recipe over a dataset."""

    def __init__(self, root: Path, recipe: Recipe, *, seed: int = 0, epoch: int = 0) -> None:
        """Raises DatasetError when the dataset is not annotated, RecipeError when its cameras do not fit the recipe."""
        self.dataset, self.recipe, self.seed, self.epoch = open_dataset(root), recipe, seed, epoch
        self.rows: RowStore = open_rows(self.dataset)
        self.renderer = self._renderer(recipe)

    def _renderer(self, recipe: Recipe) -> Renderer:
        return Renderer(recipe, cameras=self.dataset.cameras, seed=self.seed, on_ambiguous="skip")

    def rates(self, frames_max: int | None) -> Rates:
        """Realised rates over the dataset."""
        return measure_rates(self.rows, self.renderer, frames_max=frames_max, epoch=self.epoch)

    def show(self, episode_index: int, frame: int, component: str | None = None) -> Shown:
        """The sample of a frame; of one component when it is named, whatever the draw says.

        Raises SettingsError for an episode, frame or component that does not exist.
        """
        position = self.rows.position(episode_index)
        frames = self.rows.frames(position)
        if not 0 <= frame < frames:
            want = f"want a frame of episode {episode_index}, 0 to {frames - 1}"
            raise SettingsError(want, str(frame), "choose one of them, or leave --frame out")
        table, task = self.rows.table(position), self.rows.task(position)
        asked = self._only(component)
        named = asked.render_named(table, frame, episode=episode_index, epoch=self.epoch, task=task)
        here = stretch_at(self.renderer, table, frame, task)
        name, sample = named or (None, None)
        time_s = float(self.rows.timestamps(position)[frame])
        lacks = {} if named else {c: names for c, names in here.lacks.items() if c in asked.names}
        return Shown(episode_index, frame, time_s, name, task, list(here.able), sample, lacks)

    def pick(self, rates: Rates, count: int, episode_index: int | None, component: str | None) -> list[tuple[int, int]]:
        """(episode_index, frame) of up to `count` frames that show different components, or the one that is named.

        Raises SettingsError for an unknown episode or component, DatasetError when the component renders nowhere.
        """
        narrow = self._only(component)
        if episode_index is not None:
            rates = measure_rates(self.rows, self.renderer, positions=[self.rows.position(episode_index)])
        wanted = [rates.components[name] for name in narrow.names if name in rates.components]
        found = _in_turns([c.examples for c in wanted], count)
        if found or component is None:
            return found
        return [self._search(narrow, wanted, episode_index)]

    def _search(self, narrow: Renderer, wanted: Sequence[ComponentRate], episode_index: int | None) -> tuple[int, int]:
        """A frame on which a component that was never drawn can render."""
        positions = range(len(self.rows)) if episode_index is None else [self.rows.position(episode_index)]
        for component in wanted:
            if (at := find_frame(self.rows, narrow, component.name, positions)) is not None:
                return self.rows.episode_indices[at[0]], at[1]
        where = "the dataset" if episode_index is None else f"episode {episode_index}"
        raise DatasetError(
            f"want a frame of {where} on which {wanted[0].name} can render",
            f"none: {why_never(wanted[0])}",
            _remedy(self.recipe, wanted[0]),
        )

    def _only(self, component: str | None) -> Renderer:
        if component is None:
            return self.renderer
        return self._renderer(narrowed(self.recipe, self.dataset.cameras, [component]))


def _in_turns(examples: Sequence[Sequence[tuple[int, int]]], count: int) -> list[tuple[int, int]]:
    """The first example of each, then the second of each, until there are enough."""
    longest = max(map(len, examples), default=0)
    return [some[turn] for turn in range(longest) for some in examples if turn < len(some)][:count]


def why_never(component: ComponentRate) -> str:
    """What a component lacks most often, in words."""
    most = component.lacks.most_common(LACKS_SHOWN_MAX)
    return "; ".join(f"{name} is missing on {count:,} frames" for name, count in most) or "it is never tried"


def _remedy(recipe: Recipe, component: ComponentRate) -> str:
    """Which phase of annotation would make the rows that a component lacks most."""
    texts = dict(DEFAULT_BINDINGS)
    for key, part in (recipe.blend or {component.name: recipe}).items():
        if component.name == key or component.name.startswith(f"{key}_"):
            texts |= part.bindings or {}
    for name, _ in component.lacks.most_common():
        style = parse_binding(texts[name]).selector.style if name in texts else ""
        if phase := next((phase for phase, styles in MODULE_STYLES.items() if style in styles), None):
            return f"run the phase that makes them (annotate run --phases={phase}), or leave the component out"
    return "look at the rows with `annotate show`, or leave the component out"


# --- recipes by themselves ----------------------------------------------------------------------------------------


def list_recipes() -> dict[str, str]:
    """Canonical recipes by name, with the first comment of each."""
    return {name: _first_comment((RECIPES_DIR / f"{name}.yaml").read_text("utf-8")) for name in canonical_recipes()}


def _first_comment(text: str) -> str:
    comments = (line for line in text.splitlines() if line.startswith("#") and not line.startswith(EDITOR_NOTE))
    return next(comments, "").lstrip("# ")


def describe_recipe(source: Recipe | Mapping[str, Any] | Path | str) -> list[dict[str, Any]]:
    """The components of a recipe: weight, share, route, cameras, bindings in use, turns. Raises RecipeError.

    Without a dataset no cameras are known: what is repeated for each stays one component.
    """
    recipe = load_recipe(source)
    blend = recipe.blend or {"recipe": recipe}
    total = sum(part.weight or 1.0 for part in blend.values())
    return [_component(name, part, (part.weight or 1.0) / total) for name, part in blend.items()]


def _component(name: str, part: Recipe, share: float) -> dict[str, Any]:
    used = dict.fromkeys(name for turn in part.messages or () for _, name, *_ in turn.names())
    texts = DEFAULT_BINDINGS | (part.bindings or {})
    return {
        "name": name,
        "weight": part.weight,
        "share": share,
        "route": part.route,
        "cameras": part.cameras,
        "bindings": {name: texts[name] for name in used if name in texts},
        "unused": [name for name in part.bindings or () if name not in used],
        "turns": [
            {"role": turn.role, "stream": turn.stream, "target": turn.target, "if_present": turn.if_present}
            for turn in part.messages or ()
        ],
    }
