"""Print how many samples were rendered and a digest of them all: the same in every Python.

python tests/compat/hash_samples.py
"""

from __future__ import annotations

import json
import sys
from hashlib import blake2b

from tasks.language.recipe import canonical_recipes, load_recipe
from tasks.language.render import Renderer
from tasks.language.resolve import EpisodeTable, rows_of
from tests.compat.hand_made import CAMERAS, FPS, FRAMES, TASK, Episode, episode


def table(made: Episode) -> EpisodeTable:
    events = [(frame, row) for frame, rows in enumerate(made.events) for row in rows_of(rows)]
    return EpisodeTable.at_fps(rows_of(made.persistent), events, FPS)


def main() -> int:
    tables = [table(episode(i, rephrasings=True)) for i in range(4)]
    digest, count = blake2b(digest_size=16), 0
    for name in canonical_recipes():
        for seed, epoch in ((0, 0), (7, 3)):
            renderer = Renderer(load_recipe(name), cameras=CAMERAS, seed=seed)
            for number, rows in enumerate(tables):
                for frame in range(FRAMES):
                    sample = renderer.render(rows, frame, episode=number, epoch=epoch, task=TASK)
                    digest.update(json.dumps(sample, sort_keys=True).encode())
                    count += sample is not None
    print(json.dumps({"samples": count, "digest": digest.hexdigest(), "python": sys.version_info[:2]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
