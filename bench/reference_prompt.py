"""The reference's way to one plan prompt, for bench_prompt: run by a Python that has `lerobot[annotations]`.

    python bench/reference_prompt.py DATASET < {"camera": …, "times": [[…], […]]}

One untimed prompt of episode 0, then one of episode 1; prints its CPU seconds by step and the bytes of its body.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

from lerobot.annotations.steerable_pipeline.frames import make_frame_provider, to_contact_sheet_blocks
from lerobot.annotations.steerable_pipeline.reader import iter_episodes
from lerobot.annotations.steerable_pipeline.vlm_client import _to_openai_messages
from lerobot.datasets.video_utils import get_safe_default_video_backend


def prompt(root: Path, episode: int, camera: str, times: list[float]) -> dict[str, float]:
    """One prompt, everything made afresh."""
    (record,) = iter_episodes(root, only_episodes=(episode,))
    marks = [time.process_time()]
    frames = make_frame_provider(root, camera_key=camera).frames_at(record, times)
    marks.append(time.process_time())
    blocks = to_contact_sheet_blocks(frames, times)
    marks.append(time.process_time())
    messages, _ = _to_openai_messages([{"role": "user", "content": [*blocks, {"type": "text", "text": "?"}]}])
    body = json.dumps({"model": "m", "messages": messages}).encode()
    marks.append(time.process_time())
    decode_s, sheets_s, body_s = (b - a for a, b in pairwise(marks))
    return {
        "decode_s": decode_s,
        "sheets_s": sheets_s,
        "body_s": body_s,
        "cpu_s": marks[-1] - marks[0],
        "frames": len(frames),
        "pictures": len(blocks),
        "bytes": len(body),
    }


if __name__ == "__main__":
    job = json.load(sys.stdin)
    results = [prompt(Path(sys.argv[1]), i, job["camera"], times) for i, times in enumerate(job["times"])]
    print(json.dumps({**results[-1], "decoder": get_safe_default_video_backend()}))
