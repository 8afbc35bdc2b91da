"""Datasets annotated once per session by the real command, and their episodes as tables of rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.dataset.episode import Episode
from tasks.dataset.layout import open_dataset
from tasks.language.resolve import EpisodeTable
from tasks.language.rows import Row
from tasks.language.stored import episode_rows
from tasks.language.styles import PERSISTENT, column_for_style
from tests.answers.bad_server import BadServer
from tests.conftest import real_dataset
from tests.end_to_end.annotate import run


@dataclass(frozen=True)
class Labelled:
    """One annotated episode."""

    episode: Episode
    rows: list[Row]

    @property
    def table(self) -> EpisodeTable:
        """Its rows by frame."""
        placed = [(self.episode.nearest(row.timestamp), row) for row in self.rows]
        states = [(at, row) for at, row in placed if column_for_style(row.style) == PERSISTENT]
        return EpisodeTable(states, [(at, row) for at, row in placed if column_for_style(row.style) != PERSISTENT])

    def at(self, frame: int, style: str | None, camera: str | None = None) -> list[Row]:
        """Rows of a style that have this frame's timestamp."""
        time_s = self.episode.times[frame]
        return [r for r in self.rows if (r.timestamp, r.style, r.camera) == (time_s, style, camera)]


@dataclass(frozen=True)
class Annotated:
    """An annotated dataset."""

    root: Path
    cameras: tuple[str, ...]
    episodes: list[Labelled]


def read_annotated(root: Path) -> Annotated:
    """All rows of a dataset on disk."""
    dataset = open_dataset(root)
    return Annotated(root, dataset.cameras, [Labelled(e, episode_rows(dataset, e)) for e in dataset.episodes()])


@pytest.fixture(scope="session")
def tabletop(generated_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Annotated:
    """The generated dataset: plans and speech from motion, questions on both cameras from a server."""
    root = tmp_path_factory.mktemp("annotated") / "tabletop"
    assert run(generated_dataset, f"--output={root}", "--phases=plan,interjections")[0] == 0
    with BadServer("ok") as server:
        asked = ["--vlm.backend=openai", f"--vlm.api_base={server.api_base}", f"--vlm.model_id={server.model}"]
        assert run(root, "--phases=vqa", *asked)[0] == 0
    return read_annotated(root)


@pytest.fixture(scope="session")
def humanoid(tmp_path_factory: pytest.TempPathFactory) -> Annotated:
    """A real recording, annotated without a model; one camera."""
    root = tmp_path_factory.mktemp("annotated") / "g1"
    assert run(real_dataset("g1-bottle-v3"), f"--output={root}")[0] == 0
    return read_annotated(root)
