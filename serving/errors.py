"""The typed errors of the daemon. Every message says what was wanted, what was got and what to do."""

from __future__ import annotations

from serving.wire.errors import Told


class ServingError(Told, Exception):
    """Root of all errors that a user of the daemon can meet."""


class ManifestError(ServingError, ValueError):
    """An unknown or impossible setting."""


class PolicyError(ServingError):
    """A policy cannot be loaded, or does not do what it declares."""


class PredictError(ServingError):
    """One request could not be answered; the others go on."""
