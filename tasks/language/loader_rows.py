"""Rows that a loader hands over with every sample, made into tables: once an episode, not once a frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tasks.language.recent import Recent
from tasks.language.resolve import EpisodeTable, rows_of
from tasks.language.rows import Row

EPISODES_HELD = 512  # about 60 KB each with forty rows


class LoaderTables:
    """Tables by what a sample brings along. The last episodes' states are held, and used while they are the same."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._held: Recent[tuple[list[Any], EpisodeTable]] = Recent(EPISODES_HELD)

    def at(self, frame: int, episode: int, persistent: Iterable[Any] | None, events: Sequence[Row]) -> EpisodeTable:
        """The table of a frame: the states as given (mappings), and its events. Raises TypeError on what is no row."""
        given = list(persistent or ())
        known, states = self._held.get(episode, lambda _: (self._states(given), 1))
        if known != given:  # another dataset's episode of that number
            states = self._states(given)[1]
        return states.with_events((frame, row) for row in events)

    def _states(self, given: list[Any]) -> tuple[list[Any], EpisodeTable]:
        """A copy to compare with, since the caller's rows may change; and the table."""
        copies = [dict(row) if isinstance(row, dict) else row for row in given]
        return copies, EpisodeTable.at_fps(rows_of(given), (), self.fps)
