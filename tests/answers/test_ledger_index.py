"""The index finds the line that a plain search over all lines finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tasks.answers.ledger_index import read_index

DIGESTS = ["aa" * 16, "ab" * 16, "f" * 32]
EPISODES = [None, 0, 1, 70_000]
LINES = st.lists(
    st.fixed_dictionaries(
        {
            "digest": st.sampled_from(DIGESTS),
            "episode": st.sampled_from(EPISODES[:3]),
            "run_id": st.sampled_from(["one", "two"]),
            "answer": st.sampled_from([None, {"memory": "é"}]),
            "outcome": st.sampled_from(["answered", "answered", "lost"]),
            "model": st.just("m"),
        },
        optional={"twin": st.just(1)},
    ),
    min_size=1,
    max_size=25,
)


def searched(lines: list[dict[str, Any]], digest: str, episode: int | None, twin: int) -> int | None:
    """The number of the line that counts: the last word of each run, then the latest run that has an answer."""
    words: dict[tuple, int] = {}
    for number, line in enumerate(lines):
        if line["digest"] == digest and line["outcome"] != "lost":
            words[line["episode"], line.get("twin", 0), line["run_id"]] = number
    for fits in (
        lambda e, t: e == episode and t == twin,
        lambda e, t: e == episode,
        lambda e, t: t == twin,
        lambda e, t: True,
    ):
        fitting = [number for (e, t, _), number in words.items() if fits(e, t)]
        if fitting:
            return max(fitting, key=lambda number: (lines[number]["answer"] is not None, number))
    return None


@given(LINES)
def test_what_is_found_is_what_counts(tmp_path_factory, lines):
    path: Path = tmp_path_factory.mktemp("index") / "l.jsonl"
    lines = [*lines, {**lines[0], "digest": "0" * 32, "outcome": "answered"}]  # at least one that counts
    path.write_text("".join(json.dumps({**line, "number": n}) + "\n" for n, line in enumerate(lines)))
    index = read_index(path)
    for digest in DIGESTS:
        for episode in EPISODES:
            for twin in (0, 1, 2):
                found = index.find(digest, episode, twin)
                assert (found and found["number"]) == searched(lines, digest, episode, twin)


def test_digests_that_begin_alike_are_told_apart(tmp_path):
    path = tmp_path / "l.jsonl"
    path.write_text(json.dumps({"digest": "a" * 32, "model": "m", "answer": None}) + "\n")
    assert read_index(path).find("a" * 16 + "b" * 16, None, 0) is None
