"""The typed errors of annotation. Every message says what was wanted, what was got and what to do."""

from __future__ import annotations


class AnnotateError(Exception):
    """Root of all errors a user of the annotator can meet."""

    def __init__(self, wanted: str, got: str = "", remedy: str = "") -> None:
        self.wanted, self.got, self.remedy = wanted, got, remedy
        super().__init__(wanted, got, remedy)  # args rebuild it on the far side of a process boundary

    def __str__(self) -> str:
        parts = [self.wanted]
        if self.got:
            parts.append(f"got: {self.got}")
        if self.remedy:
            parts.append(f"do: {self.remedy}")
        return "\n  ".join(parts)


class SettingsError(AnnotateError):
    """An unknown or impossible setting."""


class DatasetError(AnnotateError):
    """The folder is no LeRobot v3 dataset, or part of it is missing or damaged."""


class DatasetVersionError(DatasetError):
    """The dataset has a layout that must be converted first."""


class VideoError(DatasetError):
    """A video file is missing, truncated or does not hold the frames its metadata promise."""


class DatasetBusyError(AnnotateError):
    """Another run holds the lock of this dataset or of its staging folder."""


class StagingError(AnnotateError):
    """Staged files belong to another dataset or cannot be read."""


class AnswererError(AnnotateError):
    """No question can be answered: server down, wrong model, wrong key. Ends the run."""


class EpisodeError(AnnotateError):
    """One phase of one episode failed. The episode is left out and reported; the others go on."""


class ValidationFailed(AnnotateError):
    """Staged rows break a rule of the language columns. Nothing was written."""


class CommitError(AnnotateError):
    """The new dataset could not be put in place. The old one is still there."""


class PublishError(AnnotateError):
    """The hub refused, or could not be reached. What was uploaded before stays; the dataset on disk is as it was."""


class JobError(AnnotateError):
    """A rented machine could not be had, or what ran there failed."""


class RowError(AnnotateError, ValueError):
    """A row that the language columns cannot hold."""


class AmbiguousRowsError(RowError):
    """Several rows answer one binding at one frame."""


class RecipeError(AnnotateError, ValueError):
    """A recipe that cannot render, found when it is loaded."""


class BatchError(AnnotateError, ValueError):
    """Fields or samples of one batch that do not fit each other."""


class MissingFieldError(AnnotateError, KeyError):
    """A sample lacks a field without which its rows cannot be placed in time."""
