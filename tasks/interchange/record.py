"""What imports and exports leave in meta/cuebook.json, beside the entries of annotation runs."""

from __future__ import annotations

import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

from tasks.write import PROVENANCE

KEY = "interchange"
ENTRIES_KEPT = 50
STAGED = "staged"  # identity of the rows that the last run wrote


def with_entry(root: Path, entry: dict[str, Any], *, rows_changed: bool) -> dict[str, Any]:
    """The record of the dataset at `root` with one more entry, the newest first.

    Where rows have changed, the next annotation run must not take them for those that it wrote last.
    """
    try:
        found = json.loads((root / PROVENANCE).read_bytes())
    except (OSError, ValueError):
        found = {}
    record = found if isinstance(found, dict) else {}
    if rows_changed:
        record.pop(STAGED, None)
    earlier = record.get(KEY)
    stamped = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **entry}
    entries = [stamped, *(earlier if isinstance(earlier, list) else [])][:ENTRIES_KEPT]
    return {**record, "cuebook": importlib.metadata.version("cuebook"), KEY: entries}
