"""A sample depends on seed, episode, frame and epoch alone: not on the process, the order, or the hash seed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from random import Random

import pytest

from tasks.language.recipe import load_recipe
from tasks.language.render import Renderer, Sample
from tasks.language.resolve import EpisodeTable
from tasks.language.rows import Row
from tests.conftest import REPO

EPISODES, FRAMES, EPOCHS = 4, 40, 2
FPS = 10.0
CAMERAS = ("observation.images.front", "observation.images.wrist")
Key = tuple[int, int, int]  # episode, frame, epoch
KEYS: list[Key] = list(product(range(EPISODES), range(FRAMES), range(EPOCHS)))

RECIPE = {
    "blend": {
        "say": {
            "weight": 0.5,
            "messages": [
                {"role": "user", "content": "${task}", "stream": "high_level"},
                {
                    "role": "assistant",
                    "content": "${subtask}",
                    "stream": "high_level",
                    "target": True,
                    "if_present": "subtask",
                },
            ],
        },
        "act": {"weight": 0.3, "messages": [{"role": "user", "content": "${task}: ${subtask}", "stream": "low_level"}]},
        "recall": {
            "weight": 0.2,
            "bindings": {"prior": "nth_prev(style=memory)"},
            "messages": [
                {"role": "user", "content": "Known: ${prior:-nothing}", "stream": "high_level"},
                {"role": "assistant", "content": "${memory}", "stream": "high_level", "target": True},
            ],
        },
        "answer": {
            "weight": 0.1,
            "route": "vqa",
            "cameras": "all",
            "bindings": {
                "vqa": "emitted_at(t, style=vqa, role=assistant, camera=${camera})",
                "vqa_query": "emitted_at(t, style=vqa, role=user, camera=${camera})",
            },
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "${vqa_query}"}], "stream": "high_level"},
                {"role": "assistant", "content": "${vqa}", "stream": "high_level", "target": True},
            ],
        },
        "greet": {
            "weight": 0.4,
            "messages": [
                {"role": "user", "content": "${interjection}", "stream": "high_level"},
                {"role": "assistant", "stream": "high_level", "target": True, "tool_calls_from": "speech"},
            ],
        },
    }
}

# Of all samples of `digest_of(renderer())`. It changes only with the draws, and then trained mixtures change with it.
GOLDEN = "f5abe7511f3b6a62"
GOLDEN_RATES = {
    "act": 74,
    "say": 112,
    "answer_front": 10,
    "answer_wrist": 8,
    "greet": 3,
    "recall": 33,
    "nothing": 80,
}


def renderer(seed: int = 11) -> Renderer:
    return Renderer(load_recipe(RECIPE), cameras=CAMERAS, seed=seed)


def table_of(episode: int) -> EpisodeTable:
    """Rows with umlauts, rephrasings, questions on both cameras, an interjection; the last episode has none."""
    if episode == EPISODES - 1:
        return EpisodeTable((), ())
    states = [Row("assistant", f"Schritt {i} – öffnen", "subtask", i * 0.7) for i in range(5)]
    states += [Row("assistant", f"{i} things done", "memory", 1.0 + i) for i in range(2)]
    states += [Row("user", f"way {i} of {episode}", "task_aug", 0.0) for i in range(3)]
    events: list[tuple[int, Row]] = [(7, Row("user", "wait", "interjection", 0.7)), (7, Row.speech("I wait", 0.7))]
    for frame, camera in product((3, 12, 13), CAMERAS):
        events.append((frame, Row("user", f"what is at {frame}?", "vqa", frame / FPS, camera)))
        events.append((frame, Row("assistant", f"a cup on {camera}", "vqa", frame / FPS, camera)))
    return EpisodeTable.at_fps(states, events, FPS)


def samples_of(render: Renderer, keys: list[Key]) -> dict[Key, tuple[str, Sample] | None]:
    """Samples by key, rendered in the order of the keys."""
    tables = [table_of(episode) for episode in range(EPISODES)]
    return {
        (episode, frame, epoch): render.render_named(
            tables[episode], frame, episode=episode, epoch=epoch, task=f"task of {episode}" if episode else None
        )
        for episode, frame, epoch in keys
    }


def digest_of(render: Renderer, keys: list[Key] = KEYS) -> str:
    """One number for all samples."""
    samples = samples_of(render, keys)
    text = json.dumps([samples[key] for key in sorted(samples)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_draws_are_those_of_earlier_releases():
    render = renderer()
    assert digest_of(render) == GOLDEN
    assert render.counts == GOLDEN_RATES


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_another_process_with_another_hash_seed_gives_the_same(hash_seed):
    script = "from tests.language.test_determinism import digest_of, renderer; print(hash('a'), digest_of(renderer()))"
    environment = {"PYTHONHASHSEED": hash_seed, "PATH": "", "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text_hash, digest = done.stdout.split()
    assert digest == GOLDEN
    assert int(text_hash) != hash("a")


def test_a_renderer_sent_to_workers_gives_there_what_it_gives_here():
    """Two spawned processes, each with every other sample, as a loader deals them out."""
    here, render = samples_of(renderer(), KEYS), renderer()
    render.render(table_of(0), 0, episode=0)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(samples_of, [render, render], [KEYS[::2], KEYS[1::2]], timeout=120))
    assert {**parts[0], **parts[1]} == here


def test_a_pickled_renderer_draws_the_same_and_counts_anew():
    render = renderer()
    assert digest_of(render) == GOLDEN
    copied = pickle.loads(pickle.dumps(render))
    assert copied.names == render.names and not copied.counts
    assert digest_of(copied) == GOLDEN


def test_the_order_of_samples_does_not_matter():
    shuffled = KEYS.copy()
    Random(0).shuffle(shuffled)
    assert digest_of(renderer(), shuffled) == digest_of(renderer(), KEYS[::-1]) == GOLDEN


def test_an_episode_alone_gives_what_it_gives_among_others():
    """Nothing depends on where in a dataset, or in which part of one, an episode lies."""
    among_others, render = samples_of(renderer(), KEYS), renderer()
    alone = samples_of(render, [key for key in KEYS if key[0] == 2])
    assert alone == {key: among_others[key] for key in alone}


@pytest.mark.parametrize("part", ["episode", "frame", "epoch", "seed"])
def test_each_part_of_the_key_changes_the_draws(part):
    """At frames where rows and components are the same, so that nothing but the draw differs."""
    table = table_of(1)

    def draws(shift: int) -> list[str]:
        moved = {name: shift if name == part else 0 for name in ("episode", "frame", "epoch", "seed")}
        render = renderer(seed=moved["seed"])
        where = {"episode": moved["episode"], "epoch": moved["epoch"], "task": "t"}
        return [render.render_named(table, 1000 + n * 10 + moved["frame"], **where)[0] for n in range(200)]

    same = sum(a == b for a, b in zip(draws(0), draws(1), strict=True))
    assert 40 < same < 120  # of 200; two fair draws of 0.5, 0.3 and 0.2 agree in 76


def test_other_components_leave_the_rephrasings_alone():
    """A recipe that is changed still speaks of the task in the same words at the same frame."""
    alone, blend, table = Renderer(load_recipe(RECIPE["blend"]["act"]), seed=11), renderer(), table_of(1)
    drawn = {f: blend.render_named(table, f, episode=1) for f in range(FRAMES)}
    acting = {f: sample for f, (name, sample) in drawn.items() if name == "act"}
    assert len(acting) > 5
    assert {f: alone.render(table, f, episode=1) for f in acting} == acting
