"""What the calls of a run cost, summed up from its ledger by DuckDB (the queries are in `tasks/sql`)."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import duckdb

from tasks.answers.ledger import LEDGER_NAME
from tasks.dataset.files import STAGING_NAME
from tasks.errors import StagingError

TOKENS_PRICED = 1_000_000  # prices are money per so many tokens
DUCKDB_CONFIG = {
    "autoinstall_known_extensions": False,  # json is built in; nothing is ever downloaded
    "autoload_known_extensions": False,
    "preserve_insertion_order": False,
}


@dataclass(frozen=True)
class Prices:
    """Money per million tokens; None: unknown, and nothing is turned into money when both are."""

    tokens_in: float | None = None
    tokens_out: float | None = None

    def money(self, tokens_in: int, tokens_out: int) -> float | None:
        """What tokens cost."""
        if self.tokens_in is None and self.tokens_out is None:
            return None
        return (tokens_in * (self.tokens_in or 0.0) + tokens_out * (self.tokens_out or 0.0)) / TOKENS_PRICED


@dataclass(frozen=True)
class Cost:
    """What some calls cost. `attempts` are requests to a server: retries and corrections count, too."""

    calls: int = 0
    answered: int = 0
    skipped: int = 0
    unknown: int = 0  # the answerer cannot know, which is no failure
    lost: int = 0  # the run ended before
    attempts: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    picture_bytes: int = 0
    latency_s: float = 0.0
    latency_median_s: float = 0.0
    latency_p95_s: float = 0.0
    money: float | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Costs:
    """The costs of one run, or of all that a ledger holds."""

    total: Cost = Cost()
    by_phase: dict[str, Cost] = field(default_factory=dict)
    by_episode: dict[str, Cost] = field(default_factory=dict)  # by its index; "" where a question had no episode
    by_question: dict[str, Cost] = field(default_factory=dict)
    by_server: dict[str, Cost] = field(default_factory=dict)
    by_model: dict[str, Cost] = field(default_factory=dict)
    by_run: dict[str, Cost] = field(default_factory=dict)
    ledger: Cost = Cost()  # of all runs

    def by(self, kind: str) -> dict[str, Cost]:
        """Costs by phase, episode, question, server, model or run."""
        return getattr(self, f"by_{kind}")

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        groups = {f"by_{k}": {name: cost.to_json() for name, cost in self.by(k).items()} for k in KINDS}
        return {"total": self.total.to_json(), **groups, "ledger": self.ledger.to_json()}


KINDS = tuple(f.name.removeprefix("by_") for f in fields(Costs) if f.name.startswith("by_"))


def costs(
    path: Path | Sequence[Path],
    run_id: str | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
) -> Costs:
    """What the calls in ledgers cost, those of one run or all. A line cut by a kill is left out.

    Raises StagingError when a file is missing or unreadable.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    prices = Prices(price_in, price_out)
    try:
        for file in paths:
            file.open("rb").close()  # DuckDB takes a missing file for a pattern without matches
        with duckdb.connect(config=DUCKDB_CONFIG) as db:
            db.execute(_sql("ledger_lines"), {"paths": [glob.escape(str(p)) for p in paths]})
            found = _sums(db, run_id, prices)
            everything = found if run_id is None else _sums(db, None, prices)
    except (OSError, duckdb.Error) as error:
        raise StagingError(f"want the calls recorded in {paths[0]}", str(error), "pass the ledger of a run") from error
    groups: dict[str, dict[str, Cost]] = {f"by_{kind}": {} for kind in KINDS}
    for kind, name, cost in found:
        if kind is not None:
            groups[f"by_{kind}"][name] = cost
    return Costs(_total(found), **groups, ledger=_total(everything))


def find_ledgers(place: Path) -> list[Path]:
    """The ledgers of a dataset (staged inside it or beside it), of a staging folder, or the file itself."""
    if place.is_file():
        return [place]
    beside = place.resolve().parent / f".{place.resolve().name}{STAGING_NAME}"
    folders = (place, place / STAGING_NAME, beside)
    found = [folder / LEDGER_NAME for folder in folders if (folder / LEDGER_NAME).is_file()]
    if not found:
        raise StagingError(
            f"want a ledger of calls in {place}",
            f"no {LEDGER_NAME} in it, in its staging folder or beside it",
            "pass the staging folder or the file that the run named; runs without a model keep none",
        )
    return found


Sum = tuple[str | None, str, Cost]  # kind of group, its name, its cost


def _sums(db: duckdb.DuckDBPyConnection, run_id: str | None, prices: Prices) -> list[Sum]:
    rows = db.execute(_sql("ledger_costs"), {"run_id": run_id}).fetchall()
    names = [f.name for f in fields(Cost)][: len(rows[0]) - 2]
    found = []
    for kind, name, *values in rows:
        cost = dict(zip(names, values, strict=True))
        found.append((kind, name, Cost(**cost, money=prices.money(cost["tokens_in"], cost["tokens_out"]))))
    return found


def _total(found: Sequence[Sum]) -> Cost:
    return next(cost for kind, _, cost in found if kind is None)


@lru_cache(maxsize=2)
def _sql(script: str) -> str:
    return package_files("tasks").joinpath("sql", f"{script}.sql").read_text(encoding="utf-8")
