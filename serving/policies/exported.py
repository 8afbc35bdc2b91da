"""A torch.export program with its policy.yaml: any network, without the code that made it.

Resizing and normalising the state happen on the pool's threads, everything per pixel on the device: a picture crosses
as bytes, a quarter of its size as floats.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from serving.errors import PolicyError, PredictError
from serving.manifest import ModelSettings
from serving.policies.base import Camera, Chunk, Moment, PolicySpec, Request, SessionInfo
from serving.policies.normalise import Normaliser, statistics_hash
from serving.policies.one_thread import OneThread
from serving.policies.options import Options, checked
from serving.policies.policy_yaml import (
    ACTION,
    DELAY,
    PREFIX,
    PREFIX_ROWS,
    STATE,
    PolicyFile,
    Prefix,
    read_normalisers,
    read_policy_file,
)

if TYPE_CHECKING:
    import torch

    from serving.policies.program import Program

log = logging.getLogger(__name__)

Tensors = Mapping[str, "torch.Tensor"]
IDENTITY = Normaliser()
SMALL_BYTES = 8 << 20  # of a program: below, one thread computes as fast as several


class ExportedOptions(Options):
    """model.options of an exported policy."""

    threads: int | None = Field(
        None, ge=1, description="threads that torch computes with on the CPU; null: one a core, one for small networks"
    )


@dataclass(frozen=True)
class Kit:
    """What sessions and policy share, read only."""

    file: PolicyFile
    normalisers: Mapping[str, Normaliser]
    pin: bool  # host memory that the device can read by itself: copies overlap with work

    def normaliser(self, name: str) -> Normaliser:
        """The feature's own, or the one that changes nothing."""
        return self.normalisers.get(name, IDENTITY)


class ExportedPolicy:
    """The program on its device."""

    def __init__(
        self, spec: PolicySpec, kit: Kit, program: Program, device: str, thread: OneThread | None = None
    ) -> None:
        import torch

        self.spec, self._kit, self._thread = spec, kit, thread
        self._program: Program | None = program
        self._device = torch.device(device)
        self._pictures = {c.name: self._picture_normaliser(c.name) for c in spec.cameras}

    def open_session(self, info: SessionInfo) -> ExportedSession:
        """A robot's preprocessing; nothing of it is kept between requests."""
        return ExportedSession(self._kit)

    def predict(self, batch: Sequence[Tensors]) -> list[np.ndarray]:
        """Chunks in model space, float32 (rows, action_dim) each."""
        return self._predict(batch) if self._thread is None else self._thread(self._predict, batch)

    def _predict(self, batch: Sequence[Tensors]) -> list[np.ndarray]:
        import torch

        with torch.inference_mode():
            inputs = {name: self._batched([sample[name] for sample in batch]) for name in batch[0]}
            for name, normalise in self._pictures.items():
                inputs[name] = normalise(inputs[name])
            if self._program is None:
                raise PredictError("want an open policy", "a closed one", "load it again")
            chunks = self._program(inputs).cpu()  # waits for the device
        return list(chunks.numpy())

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Free the device. Twice is once."""
        import torch

        if self._thread is not None:
            self._thread.close()
        self._program = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _batched(self, samples: list[torch.Tensor]) -> torch.Tensor:
        """Samples side by side on the device, each copied there by itself."""
        import torch

        if self._device.type == "cpu":
            return torch.stack(samples)
        batch = torch.empty((len(samples), *samples[0].shape), dtype=samples[0].dtype, device=self._device)
        for row, sample in zip(batch, samples, strict=True):
            row.copy_(sample, non_blocking=True)
        return batch

    def _picture_normaliser(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        import torch

        item = self._kit.normaliser(name).moved(lambda values: torch.from_numpy(values).to(self._device))

        def run(pixels: torch.Tensor) -> torch.Tensor:
            """Uint8 (..., height, width, 3) to normalised float32 (..., 3, height, width)."""
            return item.forward(pixels.movedim(-1, -3).to(torch.float32) / 255)

        return run


class ExportedSession:
    """One robot's preprocessing."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def prepare(self, request: Request) -> Tensors:
        """The program's inputs without the batch dimension; pictures still as bytes."""
        file = self._kit.file
        moments = _moments(request, file.history.frames)
        inputs = {camera.name: self._pictures(moments, camera.name) for camera in file.cameras}
        if file.state is not None:
            inputs[STATE] = self._states(moments)
        if file.prefix is not None:
            inputs |= self._prefix(request, file.prefix)
        return {name: inputs[name].pin_memory() if self._kit.pin else inputs[name] for name in file.order}

    def finish(self, raw: np.ndarray) -> Chunk:
        """The chunk before and after unnormalising."""
        return Chunk(model=raw, robot=self._kit.normaliser(ACTION).inverse(raw))

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to free."""

    def _states(self, moments: Sequence[Moment]) -> torch.Tensor:
        import torch

        if any(m.state is None for m in moments):
            raise PredictError("want the robot's state", "none", "send it")
        states = np.stack([m.state for m in moments])  # type: ignore[misc]
        values = torch.from_numpy(self._kit.normaliser(STATE).forward(states))
        return values if self._kit.file.history.frames > 1 else values[0]

    def _pictures(self, moments: Sequence[Moment], name: str) -> torch.Tensor:
        import torch

        camera = next(c for c in self._kit.file.cameras if c.name == name)
        frames = [resize(m.images[name], camera.height, camera.width) for m in moments]
        return torch.stack(frames) if self._kit.file.history.frames > 1 else frames[0]

    def _prefix(self, request: Request, prefix: Prefix) -> dict[str, torch.Tensor]:
        """The tail in model space, its true length beside it: rows of zeros behind it are no actions."""
        import torch

        tail = request.prefix_model if prefix.form == "model" else request.prefix_robot
        filled = np.zeros((prefix.rows, self._kit.file.action.dim), np.float32)
        rows = 0
        if tail is not None:
            if prefix.form == "robot":
                tail = self._kit.normaliser(ACTION).forward(tail)
            rows = min(len(tail), prefix.rows)
            filled[:rows] = tail[:rows]
        return {
            PREFIX: torch.from_numpy(filled),
            PREFIX_ROWS: torch.tensor(rows),
            DELAY: torch.tensor(request.delay_steps),
        }


def resize(picture: np.ndarray, height: int, width: int) -> torch.Tensor:
    """A uint8 RGB picture (height, width, 3) of the wanted size, as a tensor.

    Bilinear with antialiasing, as torchvision resizes in training: without it a large picture made small loses lines
    that the network has learnt from. torch does it on bytes, and is here anyway.
    """
    import torch
    from torch.nn.functional import interpolate

    from serving.policies.torch_threads import torch_threads

    pixels = torch.from_numpy(picture)
    if picture.shape[:2] == (height, width):
        return pixels
    planes = pixels.permute(2, 0, 1)[None]
    with torch_threads(1):
        sized = interpolate(planes, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return sized[0].permute(1, 2, 0)


def _moments(request: Request, frames: int) -> list[Moment]:
    """The last moments, oldest first; at an episode's begin the oldest one stands in for those before it."""
    known = [*request.history, request.moment][-frames:]
    return [known[0]] * (frames - len(known)) + known


def load(model: ModelSettings) -> ExportedPolicy:
    """The folder `model.repo_or_path` with its policy.yaml. Raises PolicyError on whatever does not fit together."""
    try:
        import torch

        from serving.policies.program import Program
    except ImportError as err:
        remedy = "pip install 'cuebook[serving]'"
        raise PolicyError("want torch to run an exported policy", f"no module {err.name}", remedy) from err
    options = checked(ExportedOptions, model.options, "model.options of an exported policy")
    if model.dtype is not None:
        remedy = "leave model.dtype out; export the policy in that type"
        raise PolicyError("want the type that the program was exported in", f"model.dtype {model.dtype}", remedy)
    if model.adapter.repo_or_path:
        remedy = "merge the adapter before the export"
        raise PolicyError("want no adapter on an exported policy", model.adapter.repo_or_path, remedy)
    check_device(model.device)
    folder = Path(model.repo_or_path).expanduser().absolute()
    file = read_policy_file(folder)
    normalisers = read_normalisers(file, folder)
    if threads := options.threads or (1 if _is_small(folder) and model.device == "cpu" else 0):
        torch.set_num_threads(threads)
    program = Program(file, folder, model.device, model.compile)
    kit = Kit(file, normalisers, pin=model.device.startswith("cuda"))
    thread = OneThread("serving-compiled") if model.compile.enabled else None
    log.info("loaded %s of %s on %s", file.policy_type, folder, model.device)
    return ExportedPolicy(
        _spec(file, model, program.hash, statistics_hash(normalisers)), kit, program, model.device, thread
    )


def _is_small(folder: Path) -> bool:
    """Whether a network is done before a second thread has begun; on a busy machine it waits for that one."""
    return sum(path.stat().st_size for path in folder.glob("*.pt2")) < SMALL_BYTES


def check_device(device: str) -> None:
    """Raise PolicyError when torch cannot reach a device."""
    import torch

    kind, _, index = device.partition(":")
    reachable = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
    }.get(kind, 0)
    if int(index or 0) >= reachable:
        got = f"torch {torch.__version__} sees {reachable} of kind {kind}"
        raise PolicyError(f"want device {device}", got, "set model.device: cpu, or install the torch build for it")


def _spec(file: PolicyFile, model: ModelSettings, checkpoint_hash: str, normalisation_hash: str) -> PolicySpec:
    prefix = file.prefix
    return PolicySpec(
        policy_type=file.policy_type,
        model_repo=model.repo_or_path,
        model_revision=model.revision,
        action_names=tuple(file.action.names),
        action_dim=file.action.dim,
        state_dim=file.state.dim if file.state else 0,
        cameras=tuple(Camera(c.name, c.height, c.width) for c in file.cameras),
        chunk_size=file.chunk_size,
        fps=file.fps,
        shared=True,
        batch_max=file.batch_max,
        mixed_delays=True,  # delay and prefix are inputs of each sample
        rtc=prefix is not None,
        execution_horizon=prefix.rows if prefix else 0,
        prefix_form=prefix.form if prefix else "",
        history_frames=file.history.frames,
        history_step=file.history.step,
        checkpoint_hash=checkpoint_hash,
        normalisation_hash=normalisation_hash,
    )
