"""Staged rows: JSONL per episode and module, with a receipt that says what they were made from.

A staged file counts only while its receipt names its key (what it was made from) and its digest (what is in it).
Layout: `<staging>/episode_000007/plan.jsonl` and `plan.receipt.json` beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.dataset.files import STAGING_NAME, write_atomic
from tasks.errors import StagingError
from tasks.language.rows import Row
from tasks.language.styles import MODULES
from tasks.settings import AnnotateSettings


def staging_path(settings: AnnotateSettings) -> Path:
    """Where the run stages: as set, else inside the dataset, or beside an output folder that does not exist yet."""
    if settings.staging_dir is not None:
        return settings.staging_dir
    if settings.output is not None:
        return settings.output.parent / f".{settings.output.name}{STAGING_NAME}"
    assert settings.root is not None
    return settings.root / STAGING_NAME


def digest_bytes(data: bytes) -> str:
    """Short content digest."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_json(value: Any) -> str:
    """Digest of a JSON-able value, independent of key order."""
    return digest_bytes(json.dumps(value, sort_keys=True, default=str).encode())


@dataclass(frozen=True)
class Receipt:
    """What a staged file is. `facts` is what later phases and the report need to know of how it was made."""

    key: str  # digest of everything the rows depend on
    digest: str  # of the staged bytes
    rows: int
    base_rows: int  # rows of the module's own; those after them were added by the plan refresh
    facts: dict[str, Any]  # effective task, skipped questions, usage


class Staging:
    """One staging folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, episode_index: int, module: str) -> Path:
        """Where a module's rows of one episode lie."""
        if module not in MODULES:
            raise StagingError(f"want a module of {', '.join(MODULES)}", repr(module))
        return self.root / f"episode_{episode_index:06d}" / f"{module}.jsonl"

    def _receipt_path(self, episode_index: int, module: str) -> Path:
        return self.path(episode_index, module).with_suffix(".receipt.json")

    def write(
        self,
        episode_index: int,
        module: str,
        rows: Sequence[Row],
        *,
        key: str,
        facts: dict[str, Any],
        base_rows: int | None = None,
    ) -> Receipt:
        """Stage rows, then their receipt. A kill between the two leaves a file that counts as not made."""
        data = "".join(row.to_json() + "\n" for row in rows).encode()
        path = self.path(episode_index, module)
        path.parent.mkdir(parents=True, exist_ok=True)
        receipt = Receipt(key, digest_bytes(data), len(rows), len(rows) if base_rows is None else base_rows, facts)
        self._receipt_path(episode_index, module).unlink(missing_ok=True)
        write_atomic(path, data)
        write_atomic(self._receipt_path(episode_index, module), json.dumps(receipt.__dict__, sort_keys=True).encode())
        return receipt

    def receipt(self, episode_index: int, module: str) -> Receipt | None:
        """The receipt if the staged file is there and unaltered, else None."""
        try:
            receipt = Receipt(**json.loads(self._receipt_path(episode_index, module).read_bytes()))
            data = self.path(episode_index, module).read_bytes()
        except (OSError, ValueError, TypeError):
            return None
        return receipt if receipt.digest == digest_bytes(data) else None

    def rows(self, episode_index: int, module: str) -> list[Row]:
        """Staged rows in order; a missing file is an empty list, blank lines are ignored."""
        path = self.path(episode_index, module)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except UnicodeDecodeError as err:
            raise unreadable(path, err) from err
        lines = [line for line in text.split("\n") if line.strip()]  # not splitlines: U+2028 may stand inside a string
        try:
            objects = _objects(lines)
            return [Row.from_json(o) for o in objects]
        except (ValueError, AttributeError) as err:
            raise unreadable(path, err) from err

    def discard(self, episode_index: int, module: str) -> None:
        """Forget a staged file."""
        self._receipt_path(episode_index, module).unlink(missing_ok=True)
        self.path(episode_index, module).unlink(missing_ok=True)

    def files(self, wanted: Iterable[tuple[int, str]]) -> list[Path]:
        """Paths of staged files that exist, in the order asked."""
        return [p for p in (self.path(e, m) for e, m in wanted) if p.exists()]


def _objects(lines: list[str]) -> list[Any]:
    """The value of each line; all at once, which takes half the time, unless one of them is no value by itself."""
    try:
        values = json.loads(f"[{','.join(lines)}]")
        if len(values) == len(lines):
            return values
    except ValueError:
        pass
    return [json.loads(line) for line in lines]


def unreadable(path: Path, err: Exception) -> StagingError:
    """The error for a staged file that holds something else than JSON lines."""
    return StagingError(f"want JSON lines in {path}", str(err), "delete the file; the next run makes it again")
