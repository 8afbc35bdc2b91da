"""The typed errors of the robot side. Every message says what was wanted, what was got and what to do."""

from __future__ import annotations

from serving.wire.errors import RejectCode, Told


class EdgeError(Told, Exception):
    """Root of all errors that a user of the robot side can meet."""


class SettingsError(EdgeError, ValueError):
    """An unknown or impossible setting."""


class LinkError(EdgeError):
    """Nobody answers, or not now: it may be tried again."""

    def __init__(
        self, wanted: str, got: str = "", remedy: str = "", retry_after_s: float = 0.0, code: int = RejectCode.NONE
    ) -> None:
        super().__init__(wanted, got, remedy)
        self.retry_after_s, self.code = retry_after_s, code


class ContractError(EdgeError):
    """Server and robot do not fit together: trying again would change nothing."""

    def __init__(self, wanted: str, got: str = "", remedy: str = "", code: int = RejectCode.NONE) -> None:
        super().__init__(wanted, got, remedy)
        self.code = code


class ChunkError(EdgeError):
    """A chunk that may not be executed."""


class RobotError(EdgeError):
    """The robot cannot be reached, read or moved."""


class RecordingError(EdgeError):
    """What was driven cannot be written."""
