"""The typed error of the network. It says what was wanted, what was got and what to do."""

from __future__ import annotations

from serving.wire.errors import Told


class TransportError(Told, Exception):
    """The network cannot be opened, or nobody answers."""
