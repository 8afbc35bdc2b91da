"""`annotate preview`: what a recipe makes of a dataset, before anything is trained on it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.console import err, guard, out
from tasks.errors import SettingsError

RATES_FRAMES_DEFAULT = 10_000  # evenly spaced: about a second


def preview(
    root: Annotated[Path | None, typer.Option(help="annotated dataset folder; left out: only check the recipe")] = None,
    recipe: Annotated[str | None, typer.Option(help="a canonical recipe's name (see --list), or a YAML file")] = None,
    episode: Annotated[int | None, typer.Option(min=0, help="only this episode")] = None,
    frame: Annotated[int | None, typer.Option(min=0, help="only this frame, counted from the episode's start")] = None,
    component: Annotated[str | None, typer.Option(help="only this component of the blend")] = None,
    count: Annotated[int, typer.Option(min=1, max=100, help="samples to show")] = 3,
    frames: Annotated[
        int, typer.Option(min=0, help="frames to count rates over, evenly spaced; 0: all")
    ] = RATES_FRAMES_DEFAULT,
    seed: Annotated[int, typer.Option(help="of the draws, as in training")] = 0,
    epoch: Annotated[int, typer.Option(min=0, help="of the draws, as in training")] = 0,
    listed: Annotated[bool, typer.Option("--list", help="list the canonical recipes")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="everything as JSON and nothing else")] = False,
) -> None:
    """Show what a training loop would get: rendered samples, and how often each component is really drawn.

    \b
    Examples:
      annotate preview --list
      annotate preview --recipe=my_recipe.yaml                                   check a recipe, without a dataset
      annotate preview --root=DATASET --recipe=subtask_mem
      annotate preview --root=DATASET --recipe=subtask_mem --episode=3 --frame=120
      annotate preview --root=DATASET --recipe=my_recipe.yaml --component=ask_vqa_front --count=10
    """
    with guard(as_json, interrupted="interrupted"):
        if listed:
            return _list(as_json)
        if recipe is None:
            raise SettingsError("want a recipe", "no --recipe", "name one of `annotate preview --list`, or a YAML file")
        if root is None:
            return _describe(recipe, as_json)
        _preview(root, recipe, (episode, frame, component, count), (frames or None, seed, epoch), as_json)


def _list(as_json: bool) -> None:
    from tasks.language.preview import list_recipes

    recipes = list_recipes()
    if as_json:
        return out.print_json(json.dumps(recipes))
    from rich.table import Table

    table = Table("recipe", "what it is for", box=None, header_style="bold")
    for row in recipes.items():
        table.add_row(*row)
    out.print(table)


def _describe(recipe: str, as_json: bool) -> None:
    from tasks.language.preview import describe_recipe

    components = describe_recipe(recipe)
    if as_json:
        return out.print_json(json.dumps({"recipe": recipe, "components": components}))
    from flows.preview_render import recipe_table

    out.print(recipe_table(recipe, components))
    out.print("the recipe is right; add --root=DATASET to see samples", style="dim", highlight=False)


def _preview(
    root: Path,
    recipe: str,
    what: tuple[int | None, int | None, str | None, int],
    how: tuple[int | None, int, int],
    as_json: bool,
) -> None:
    from tasks.language.preview import Preview
    from tasks.language.recipe import load_recipe

    episode, frame, component, count = what
    frames_max, seed, epoch = how
    logging.getLogger("tasks").addHandler(logging.NullHandler())  # contradicting rows are told below the rates
    with err.status("reading rows and rendering frames"):
        view = Preview(root, load_recipe(recipe), seed=seed, epoch=epoch)
        first = view.rows.episode_indices[0] if episode is None else episode
        single = view.show(first, frame, component) if frame is not None else None
        rates = view.rates(frames_max)
    if single is not None:
        shown = [single]
    else:
        shown = [view.show(*at, component) for at in view.pick(rates, count, episode, component)]
    if as_json:
        return _print_json(
            {
                "dataset": str(view.dataset.root),
                "recipe": recipe,
                "seed": seed,
                "epoch": epoch,
                "samples": [s.to_json() for s in shown],
                "rates": rates.to_json(),
            }
        )
    from flows.preview_render import rates_table, samples_view

    out.print(samples_view(shown))
    out.print()
    out.print(rates_table(rates))


def _print_json(value: dict[str, Any]) -> None:
    out.print_json(json.dumps(value))
