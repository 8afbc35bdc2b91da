"""Make an `exported` policy: from a LeRobot checkpoint, or a tiny one with random weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.errors import PolicyError
from serving.manifest import ModelSettings, nearest
from serving.policies.registry import family_of

FPS_DEFAULT = 30.0


def export(
    checkpoint: str | None,
    output: Path | str,
    *,
    tiny: bool = False,
    revision: str = "main",
    fps: float = FPS_DEFAULT,
    batch_max: int = 16,
    batch_sizes: Sequence[int] = (),
    action_names: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write an exported policy into the new folder `output` and return it.

    `checkpoint` is a folder or hub id of a LeRobot policy; with `tiny` there is none, and `options` go to `make_tiny`.
    `batch_sizes` makes one program of each fixed size in place of one for any up to `batch_max`. A checkpoint knows
    neither `fps` nor, in most families, `action_names`. Raises PolicyError.
    """
    _check_torch()
    if tiny:
        if checkpoint:
            raise PolicyError("want no checkpoint for a tiny policy: random weights", checkpoint, "leave it out")
        return _tiny(output, fps, batch_max, batch_sizes, action_names, options or {})
    if not checkpoint:
        raise PolicyError("want a checkpoint to export", "none", "name a folder or hub id, or export a tiny policy")
    family = family_of(ModelSettings(repo_or_path=checkpoint, revision=revision))
    if family != "lerobot":
        raise PolicyError("want a LeRobot checkpoint to export", f"{checkpoint}, of family {family}", "name another")
    from serving.policies.lerobot_export import read_checkpoint
    from serving.policies.write_exported import write_exported

    file, network, statistics = read_checkpoint(checkpoint, revision, fps, list(action_names))
    file.batch_max = max(batch_sizes, default=batch_max)
    return write_exported(output, file, network, statistics, batch_sizes)


def _tiny(
    output: Path | str,
    fps: float,
    batch_max: int,
    batch_sizes: Sequence[int],
    action_names: Sequence[str],
    options: Mapping[str, Any],
) -> Path:
    from serving.policies.tiny import make_tiny

    known = tuple(inspect.signature(make_tiny).parameters)[1:]
    if unknown := [name for name in options if name not in known]:
        raise PolicyError(f"want options of a tiny policy: {', '.join(known)}", unknown[0], nearest(unknown[0], known))
    named = {"action_dim": len(action_names), "action_names": list(action_names)} if action_names else {}
    return make_tiny(output, **{"fps": fps, "batch_max": batch_max, "batch_sizes": batch_sizes, **named, **options})


def _check_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as err:
        raise PolicyError("want torch to export a policy", "none", "pip install 'cuebook[serving]'") from err
