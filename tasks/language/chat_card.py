"""What lies beside exported samples so that a trainer finds its way: a README and, where one is read, a description."""

from __future__ import annotations

import json
from collections.abc import Mapping

LLAMAFACTORY_NAME = "dataset_info.json"
HOW = {
    "messages": """Each line is one sample: `messages` with blocks, `{"type": "image"}` where a picture goes, and the
files in `images` in the same order. `target_message_indices` names the turns to be learnt, `message_streams` says which
turns a policy acts on (low_level) and which are words only (high_level).""",
    "prompt_completion": """Each line is one turn to be learnt: `prompt` is what comes before it, `completion` the turn.
`{"type": "image"}` stands where a picture goes, the files are in `images` in the same order.""",
    "llamafactory": """Point LLaMA-Factory's `dataset_dir` to this folder and name a dataset of `dataset_info.json`.
It learns each assistant turn; with `mask_history: true` only the last one.""",
    "inline": """Each line is one sample: `messages` for a chat template, the file in each image block, relative to this
folder. `target_message_indices` names the turns to be learnt.""",
}
LOADING = """```python
import os
from datasets import Image, List, load_dataset

os.chdir("THIS FOLDER")  # pictures are named relative to it
data = load_dataset("json", data_files={{{files}}})
data = data.cast_column("images", List(Image()))
```
"""


def cards(form: str, samples: Mapping[str, int]) -> dict[str, str]:
    """Files of text by name."""
    listed = "".join(f"- `{name}.jsonl`: {count:,} lines\n" for name, count in samples.items())
    text = f"# Chat samples\n\n{listed}- `images/`: the frames that samples show\n\n{HOW[form]}\n"
    if form in ("messages", "prompt_completion"):
        files = ", ".join(f'"{name}": "{name}.jsonl"' for name, count in samples.items() if count)
        text += "\n" + LOADING.format(files=files)
    found = {"README.md": text}
    if form == "llamafactory":
        found[LLAMAFACTORY_NAME] = json.dumps({name: _description(name) for name in samples}, indent=2) + "\n"
    return found


def _description(name: str) -> dict[str, object]:
    """How LLaMA-Factory reads one file."""
    return {
        "file_name": f"{name}.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "function_tag": "function_call",
            "observation_tag": "tool",
            "system_tag": "system",
        },
    }
