"""`annotate costs`: what the calls of earlier runs cost, from their ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.console import guard, out

Kind = Literal["phase", "episode", "question", "server", "model", "run"]


def costs(
    root: Annotated[Path, typer.Option(help="annotated dataset, its staging folder, or a ledger file")],
    by: Annotated[Kind, typer.Option(help="what to sum by")] = "phase",
    run: Annotated[str | None, typer.Option(help="one run only, by its id (see --by=run)")] = None,
    price_in: Annotated[float | None, typer.Option("--price_in", min=0, help="money per million tokens sent")] = None,
    price_out: Annotated[float | None, typer.Option("--price_out", min=0, help="money per million tokens got")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="all sums as JSON")] = False,
) -> None:
    """Sum up what was asked of a model: calls, tokens, time and money, also of runs that were interrupted.

    \b
    Examples:
      annotate costs --root=DATASET
      annotate costs --root=DATASET --by=server --price_in=0.4 --price_out=1.6
    """
    with guard(as_json):
        from tasks import ledger

        found = ledger.find_ledgers(root)
        sums = ledger.costs(found, run, price_in, price_out)
        if as_json:
            out.print_json(json.dumps({"ledgers": [str(p) for p in found], **sums.to_json()}))
            return
        from flows.render import costs_table

        out.print(costs_table(sums, by))
        out.print(f"from {', '.join(map(str, found))}", highlight=False, markup=False, soft_wrap=True)
