"""Write docs/settings.md from the settings models: `python docs/make_settings.py`."""

from __future__ import annotations

from pathlib import Path

from flows.flags import describe
from tasks.settings import AnnotateSettings

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

Made from the settings models by `docs/make_settings.py`. The same names work as flags (`--plan.max_steps=6`), in YAML
files (`--config=FILE`), and in the Prefect form. `annotate settings --json` prints the JSON Schema.

| Flag | Type | Default | Meaning |
| --- | --- | --- | --- |
"""


def page() -> str:
    """The whole page."""
    rows = (
        f"| `{flag}` | {kind} | {default} | {meaning} |" for flag, *rest in describe(AnnotateSettings)
        for kind, default, meaning in [[text.replace("|", "\\|") for text in rest]]
    )  # fmt: skip
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
