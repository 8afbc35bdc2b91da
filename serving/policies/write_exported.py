"""A network on disk as an exported policy: program, statistics, policy.yaml."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from serving.errors import PolicyError
from serving.policies.policy_yaml import DELAY, FILE_NAME, PREFIX_ROWS, PolicyFile

if TYPE_CHECKING:
    import torch

STATISTICS_FILE = "normalisation.safetensors"
PROGRAM_FILE = "policy.pt2"
EXAMPLE_BATCH = 2  # a batch of one would be taken for a constant


def write_exported(
    folder: Path | str,
    file: PolicyFile,
    network: torch.nn.Module,
    statistics: Mapping[str, Mapping[str, npt.ArrayLike]],
    batch_sizes: Sequence[int] = (),
) -> Path:
    """Trace a network and write the three files into a new or empty folder; all of them, or none.

    The network takes `file.order` as positional inputs. Raises PolicyError when it cannot be traced.
    """
    folder = Path(folder).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PolicyError("want a new or empty folder to export into", f"{folder} is not", "choose another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        file = _write_programs(work, file, network, batch_sizes)
        _write_statistics(work, statistics)
        file.normalisation.file = STATISTICS_FILE if statistics else None
        (work / FILE_NAME).write_text(_text(file), encoding="utf-8")
        work.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        work.rename(folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return folder


def _write_programs(work: Path, file: PolicyFile, network: torch.nn.Module, batch_sizes: Sequence[int]) -> PolicyFile:
    import torch

    names: dict[int, str] = {}
    for size in batch_sizes or [0]:
        name = f"policy_b{size}.pt2" if size else PROGRAM_FILE
        torch.export.save(trace(network, file, size), work / name)
        names[size] = name
    return file.model_copy(update={"program": names if batch_sizes else PROGRAM_FILE})


def trace(network: torch.nn.Module, file: PolicyFile, batch: int = 0) -> Any:
    """The torch.export program of a network, for one batch size, or for any up to batch_max with 0."""
    import torch

    count = batch or EXAMPLE_BATCH
    example = tuple(_example(name, file, count) for name in file.order)
    dynamic = None
    if not batch and file.batch_max > 1:
        size = torch.export.Dim("batch", min=1, max=file.batch_max)
        dynamic = (tuple({0: size} for _ in example),) if _is_variadic(network) else tuple({0: size} for _ in example)
    elif not batch:
        example = tuple(value[:1] for value in example)
    try:
        with torch.no_grad():
            return torch.export.export(network, example, dynamic_shapes=dynamic)
    except Exception as err:
        first = next((line for line in str(err).splitlines() if line.strip()), "")
        remedy = "export it with batch_sizes, or serve the checkpoint itself (family lerobot)"
        raise PolicyError(
            "want a network that torch.export can trace", f"{type(err).__name__}: {first}", remedy
        ) from err


def _example(name: str, file: PolicyFile, count: int) -> torch.Tensor:
    import torch

    kind = torch.int64 if name in (PREFIX_ROWS, DELAY) else torch.float32
    return torch.zeros(count, *file.shape(name), dtype=kind)


def _is_variadic(network: torch.nn.Module) -> bool:
    import inspect

    kinds = [p.kind for p in inspect.signature(network.forward).parameters.values()]
    return kinds == [inspect.Parameter.VAR_POSITIONAL]


def _write_statistics(work: Path, statistics: Mapping[str, Mapping[str, npt.ArrayLike]]) -> None:
    from safetensors.numpy import save_file

    flat = {
        f"{feature}.{name}": np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        for feature, entries in statistics.items()
        for name, values in entries.items()
    }
    if flat:
        save_file(flat, work / STATISTICS_FILE)


def _text(file: PolicyFile) -> str:
    import yaml

    head = "# What the program takes and gives. Every field is explained in docs/policies.md.\n"
    values = file.model_dump(exclude_none=True)
    return head + yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110)
