"""A blend with some of its components only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from tasks.errors import SettingsError
from tasks.language.recipe import Recipe
from tasks.language.render import Renderer


def narrowed(recipe: Recipe, cameras: Sequence[str], names: Sequence[str]) -> Recipe:
    """The recipe with only the named components; a component that is repeated for each camera may be named as a whole
    (ask_vqa) or for one camera (ask_vqa_front). Raises SettingsError on a name that it does not have."""
    if recipe.blend is None:
        _check(names, Renderer(recipe, cameras=cameras).names)
        return recipe
    known: list[str] = []
    kept: dict[str, Recipe] = {}
    for key, part in recipe.blend.items():
        views = dict(_views(key, part, cameras))
        known += [key, *views]
        chosen = [camera for name, camera in views.items() if name in names]
        if key in names:
            kept[key] = part
        elif chosen:
            weight = (part.weight or 1.0) * len(chosen) / len(views)
            kept[key] = part.model_copy(update={"cameras": chosen, "weight": weight})
    _check(names, tuple(dict.fromkeys(known)))
    return Recipe(blend=kept)


def _views(key: str, part: Recipe, cameras: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, camera) of each view of a component that is repeated for cameras."""
    if part.cameras is None or not cameras:
        return
    of = list(cameras) if part.cameras == "all" else part.cameras
    yield from zip(Renderer(Recipe(blend={key: part}), cameras=cameras).names, of, strict=True)


def _check(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]}?" if near else "name one of them"
            raise SettingsError(f"want a component of {', '.join(known)}", repr(name), remedy)
