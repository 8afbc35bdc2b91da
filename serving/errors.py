"""The typed errors of the daemon. Every message says what was wanted, what was got and what to do."""

from __future__ import annotations


class ServingError(Exception):
    """Root of all errors that a user of the daemon can meet."""

    def __init__(self, wanted: str, got: str = "", remedy: str = "") -> None:
        self.wanted, self.got, self.remedy = wanted, got, remedy
        super().__init__(wanted, got, remedy)

    def __str__(self) -> str:
        parts = [self.wanted]
        if self.got:
            parts.append(f"got: {self.got}")
        if self.remedy:
            parts.append(f"do: {self.remedy}")
        return "\n  ".join(parts)


class ManifestError(ServingError, ValueError):
    """An unknown or impossible setting."""


class PolicyError(ServingError):
    """A policy cannot be loaded, or does not do what it declares."""


class TransportError(ServingError):
    """The network layer cannot be opened, or nobody answers."""


class PredictError(ServingError):
    """One request could not be answered; the others go on."""
