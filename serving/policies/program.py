"""A torch.export program, ready to be called with any batch up to its largest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import PolicyError
from serving.manifest import CompileSettings
from serving.policies.policy_yaml import PolicyFile

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

EXPORT_AGAIN = "export it again, or correct policy.yaml"


@dataclass(frozen=True)
class _Variant:
    """One program file on its device."""

    call: Any
    dtypes: tuple[Any, ...]  # of its inputs, in order
    batch_min: int
    batch_max: int  # equal to batch_min: fixed


class Program:
    """One or several program files behind one call."""

    def __init__(self, policy: PolicyFile, folder: Path, device: str, compiled: CompileSettings) -> None:
        self._order = policy.order
        files = policy.program if isinstance(policy.program, dict) else {0: policy.program}
        self._variants = [_load(folder / name, policy, size, device, compiled) for size, name in sorted(files.items())]
        self._sizes = sorted(set(policy.batch_sizes))
        self.hash = file_hash([folder / name for _, name in sorted(files.items())])
        most = max(v.batch_max for v in self._variants)
        if (wanted := max(policy.batch_max, *self._sizes, 1)) > most:
            raise PolicyError(f"want a program that takes batches of {wanted}", f"at most {most}", EXPORT_AGAIN)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The chunks of a batch, float32 (batch, rows, action_dim); inputs have the batch as their first dimension."""
        import torch

        values = [inputs[name] for name in self._order]
        count = len(values[0])
        variant, size = self._choose(count)
        if size > count:  # the last sample again: what it gives is thrown away
            filled = torch.arange(size, device=values[0].device).clamp_(max=count - 1)
            values = [v.index_select(0, filled) for v in values]
        values = [v.to(dtype) for v, dtype in zip(values, variant.dtypes, strict=True)]
        out = variant.call(*values)
        chunks = out if isinstance(out, torch.Tensor) else out[0]
        return chunks[:count].float()

    def _choose(self, count: int) -> tuple[_Variant, int]:
        """The smallest program that takes a batch, and the size it is called with."""
        size = next((s for s in self._sizes if s >= count), count)
        variant = next(v for v in self._variants if v.batch_max >= size)
        return variant, max(size, variant.batch_min)


def file_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, one after the other."""
    content = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                content.update(piece)
    return content.hexdigest()


def _load(path: Path, policy: PolicyFile, size: int, device: str, compiled: CompileSettings) -> _Variant:
    import torch
    from torch.export.passes import move_to_device_pass

    if not path.is_file():
        raise PolicyError(f"want the program {path}", "no such file", "copy the whole folder, or export it again")
    try:
        program = torch.export.load(path)
    except Exception as err:
        got = f"{type(err).__name__}: {str(err).splitlines()[0] if str(err) else ''}"
        remedy = f"export it again with torch {torch.__version__.split('+')[0]} or older"
        raise PolicyError(f"want a torch.export program in {path}", got, remedy) from err
    dtypes, low, high = _signature(program, policy, path)
    if size and not low <= size <= high:
        raise PolicyError(f"want batches of {size} in {path.name}", f"{low} to {high}", EXPORT_AGAIN)
    call = move_to_device_pass(program, device).module()
    if compiled.enabled:
        call = torch.compile(call, mode=compiled.mode, dynamic=compiled.dynamic or None)
    return _Variant(call, dtypes, low, size or high)


def _signature(program: ExportedProgram, policy: PolicyFile, path: Path) -> tuple[tuple[Any, ...], int, int]:
    """Types of the inputs and the range of the batch, after a check of every shape."""
    import torch

    nodes = {node.name: node for node in program.graph.nodes}
    named = [name for name in program.graph_signature.user_inputs if isinstance(name, str) and name in nodes]
    if len(named) != len(policy.order):
        wanted = f"want inputs {', '.join(policy.order)} in {path.name}"
        raise PolicyError(wanted, f"{len(named)} inputs: {', '.join(named)}", EXPORT_AGAIN)
    low, high = 1, 2**31
    dtypes = []
    for node_name, name in zip(named, policy.order, strict=True):
        value = nodes[node_name].meta["val"]
        if not isinstance(value, torch.Tensor) or not _fits(value.shape, policy.shape(name)):
            got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            wanted = f"want {name} of shape {_shown(policy.shape(name))} in {path.name}"
            raise PolicyError(wanted, f"{got}", EXPORT_AGAIN)
        least, most = _batch_range(value.shape[0], program)
        low, high = max(low, least), min(high, most)
        dtypes.append(value.dtype)
    outputs = [nodes[name].meta["val"] for name in program.graph_signature.user_outputs if name in nodes]
    chunk = (policy.chunk_size, policy.action.dim)
    if not outputs or not _fits(outputs[0].shape, chunk):
        got = f"{list(outputs[0].shape)}" if outputs else "none"
        raise PolicyError(f"want a chunk of shape {_shown(chunk)} from {path.name}", got, EXPORT_AGAIN)
    return tuple(dtypes), low, high


def _fits(shape: Sequence[Any], wanted: tuple[int, ...]) -> bool:
    """Whether a traced shape is the batch and then what is wanted; a symbolic size fits anything."""
    inner = list(shape)[1:]
    return len(shape) == len(wanted) + 1 and all(
        not isinstance(a, int) or a == b for a, b in zip(inner, wanted, strict=True)
    )


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(['batch', *map(str, shape)])}]"


def _batch_range(size: Any, program: ExportedProgram) -> tuple[int, int]:
    """Least and most samples of a call."""
    if isinstance(size, int):
        return size, size
    bounds = program.range_constraints.get(size.node.expr)
    if bounds is None:
        return 1, 2**31
    upper = int(bounds.upper) if bounds.upper.is_finite else 2**31
    return max(1, int(bounds.lower)), upper
