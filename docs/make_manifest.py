"""Write the table in docs/manifest.md and serving/manifest.schema.json: `python docs/make_manifest.py`."""

from __future__ import annotations

from pathlib import Path

from configuration.flags import describe
from serving.manifest import Manifest
from serving.manifest_schema import SCHEMA, text

PAGE = Path(__file__).with_name("manifest.md")
BEGIN, END = "<!-- fields -->\n", "<!-- end of fields -->\n"
HEAD = "| Flag | Type | Default | Meaning |\n| --- | --- | --- | --- |\n"


def table() -> str:
    """Every field: its flag, type, default and meaning."""
    rows = ([cell.replace("|", "\\|") for cell in row[1:]] for row in describe(Manifest))
    names = (row[0] for row in describe(Manifest))
    return HEAD + "".join(f"| `{name}` | {' | '.join(row)} |\n" for name, row in zip(names, rows, strict=True))


def page() -> str:
    """The page with its table made anew; everything around the table is kept."""
    written = PAGE.read_text(encoding="utf-8")
    before, after = written.split(BEGIN)[0], written.split(END)[1]
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(text(), encoding="utf-8")
