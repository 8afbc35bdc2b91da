"""What every older form of labels has in common: how it is found, opened and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from tasks.dataset.episode import Episode
from tasks.dataset.layout import Dataset
from tasks.interchange.labels import Found

SarmLevel = Literal["sparse", "dense"]


@dataclass(frozen=True)
class FormOptions:
    """What a user may say about a form."""

    sarm_level: SarmLevel | None = None  # None: dense where there is any
    gr00t_map: str | None = None  # "COLUMN=STYLE,…"; None: chosen by what the columns say


class Form(Protocol):
    """An older form, opened. `choices` are sentences that say what is read from where."""

    choices: Sequence[str]

    @staticmethod
    def is_in(dataset: Dataset) -> bool:
        """Whether a dataset has labels of this form."""
        ...

    @classmethod
    def open(cls, dataset: Dataset, episodes: Sequence[Episode], options: FormOptions) -> Self:
        """Read what holds for the whole dataset. Raises DatasetError, SettingsError."""
        ...

    def read(self, episode: Episode) -> dict[str, Found]:
        """One episode's labels by style; styles without any label may be left out. Raises DatasetError."""
        ...
