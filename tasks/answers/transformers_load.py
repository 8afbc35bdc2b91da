"""Brings an image-text-to-text model of the transformers library onto its device, or says what is missing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tasks.answers.engine import INSTALL, disable_cudnn_if_asked, told
from tasks.errors import AnswererError
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready."""

    model: Any
    processor: Any
    device: str


def load(settings: VlmSettings) -> Loaded:
    """Load the processor and the model. Raises AnswererError."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise AnswererError(
            "the transformers library for --vlm.backend=transformers", told(error), INSTALL.format(extra="transformers")
        ) from error
    device = _device(settings)
    disable_cudnn_if_asked()
    try:
        with _quiet(transformers):
            processor = _processor(transformers, settings)
            model = _model(torch, transformers, settings, device)
    except AnswererError:
        raise
    except Exception as error:
        raise _explained(error, settings, device) from error
    return Loaded(model.eval(), processor, str(model.device))


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No bar for weights that are read: it would run through the view of the run. Downloads still show theirs."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    bars = transformers.utils.logging
    was, downloads = bars.is_progress_bar_enabled(), not are_progress_bars_disabled()
    bars.disable_progress_bar()  # those of downloads too
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        if was:
            bars.enable_progress_bar()


def _device(settings: VlmSettings) -> str:
    import torch

    there = torch.cuda.is_available()
    if settings.device is None:
        if not there:
            log.warning("no GPU: %s runs on the CPU, which takes long for all but tiny models", settings.model_id)
        return "cuda" if there else "cpu"
    if settings.device.startswith("cuda") and not there:
        raise AnswererError(
            f"--vlm.device={settings.device}",
            "torch finds no GPU",
            "check nvidia-smi and that torch is a CUDA build, or pass --vlm.device=cpu",
        )
    return settings.device


def _processor(transformers: Any, settings: VlmSettings) -> Any:
    processor = transformers.AutoProcessor.from_pretrained(
        settings.model_id, trust_remote_code=settings.trust_remote_code
    )
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise _no_vision(settings, f"{type(processor).__name__}, which reads text or pictures alone")
    if getattr(processor, "chat_template", None) is None:
        if getattr(tokenizer, "chat_template", None) is None:
            raise AnswererError(
                f"a chat template in {settings.model_id}", "none", "take the instruction-tuned variant of the model"
            )
        processor.chat_template = tokenizer.chat_template
    tokenizer.padding_side = "left"  # replies follow the last token of every prompt of a batch
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def _model(torch: Any, transformers: Any, settings: VlmSettings, device: str) -> Any:
    config = transformers.AutoConfig.from_pretrained(settings.model_id, trust_remote_code=settings.trust_remote_code)
    options: dict[str, Any] = {
        "dtype": _dtype(torch, settings, device),
        "low_cpu_mem_usage": True,
        "trust_remote_code": settings.trust_remote_code,
    }
    if settings.device_map == "auto":
        options["device_map"] = "auto"
    elif getattr(config, "quantization_config", None) is not None:
        options["device_map"] = {"": device}  # packed weights cannot be moved afterwards
    model = _auto_class(transformers).from_pretrained(settings.model_id, **options)
    return model if "device_map" in options else model.to(device)


def _auto_class(transformers: Any) -> Any:
    for name in ("AutoModelForImageTextToText", "AutoModelForVision2Seq"):  # renamed between versions
        found = getattr(transformers, name, None)
        if found is not None:
            return found
    raise AnswererError(
        "a transformers library with AutoModelForImageTextToText",
        f"transformers {transformers.__version__}",
        "pip install -U transformers",
    )


def _dtype(torch: Any, settings: VlmSettings, device: str) -> Any:
    if settings.dtype != "auto":
        return getattr(torch, settings.dtype)
    if settings.device_map == "auto":
        return "auto"
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32


def _no_vision(settings: VlmSettings, got: str) -> AnswererError:
    return AnswererError(
        f"a vision-language model as --vlm.model_id={settings.model_id}",
        got,
        "pass a model that takes pictures and text and writes text (pipeline tag image-text-to-text)",
    )


def _explained(error: Exception, settings: VlmSettings, device: str) -> AnswererError:
    """What a library said while loading, with what to do about it."""
    wanted, got = f"model {settings.model_id} on {device}", told(error)
    if is_out_of_memory(error):
        remedy = "take a smaller or quantized model, --vlm.dtype=bfloat16, or --vlm.device_map=auto over several GPUs"
    elif isinstance(error, ImportError):
        remedy = "install the package that the message names"
    elif "trust_remote_code" in got:
        remedy = "read the code that the model brings along; if you trust it: --vlm.trust_remote_code=true"
    elif "image processor" in got:
        return _no_vision(settings, got)
    elif isinstance(error, OSError):
        remedy = f"pass a folder, or download it while online: hf download {settings.model_id} (hf auth login if gated)"
    elif "Unrecognized" in got or "unrecognized" in got:
        return _no_vision(settings, got)
    else:
        remedy = "see the message; a newer transformers library may know this model"
    return AnswererError(wanted, got, remedy)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or this machine, has too little memory."""
    import torch

    said = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)
    )
