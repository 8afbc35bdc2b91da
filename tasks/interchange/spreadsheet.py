"""Labels as a CSV file: a line a span, frames and seconds half-open."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tasks.interchange.stored import EpisodeLabels, seconds_at


def csv_text(episodes: Sequence[EpisodeLabels], style: str) -> str:
    """The whole file. A span holds from `start` up to, not including, `end`; its text is in the column of its style."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("episode_index", "start_s", "end_s", "start_frame", "end_frame", style))
    for e in episodes:
        for label in e.labels:
            times = (seconds_at(e.episode, frame) for frame in (label.start, label.stop))
            writer.writerow((e.episode.episode_index, *times, label.start, label.stop, label.text))
    return out.getvalue()
