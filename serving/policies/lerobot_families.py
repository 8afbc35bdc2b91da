"""What is known of LeRobot's policy families. Declared by hand from their code, never inferred from their methods.

Every family overrides `predict_action_chunk`, even those whose version only raises: having it proves nothing. Whoever
is missing here is served to one robot at a time, and the probe at start asks it a real question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from serving.errors import PolicyError

VERIFIED_WITH = "0.6.1"  # the release of lerobot whose code the table was read from
BATCH_MAX = 32  # requests in one call; what a device bears is the manifest's to say

Half = Literal["autocast", "config", ""]
HALVES: Mapping[str, str] = {"float16": "float16", "half": "float16", "bfloat16": "bfloat16"}
SINGLES = ("float32", "float")


@dataclass(frozen=True)
class Family:
    """How one family is called."""

    verified: bool = True  # its code was read: answers depend on the batch alone
    shared: bool = True
    rtc: bool = False  # passes delay, prefix and horizon on to its denoiser unseen, so each sample may have its own
    history: bool = False  # looks at `n_obs_steps` moments
    queues: bool = False  # reads observations from queues that only select_action fills: filled for it, each time
    images_as: str = ""  # where a queue-fed family looks for its pictures
    time_first: bool = False  # chunks come as (rows, batch, action_dim)
    rows: tuple[str, ...] = ("chunk_size", "n_action_steps", "horizon")  # fields that may say the rows of a chunk
    half: Half = "autocast"  # half precision: under autocast, by its own `dtype` field, or "" for not tried
    noise: tuple[str, ...] = ()  # fields that give the shape of the noise that it takes from outside
    ragged_language: bool = False  # tokens are as long as the task: padded to the longest of a batch, masked
    compiled: str = "predict_action_chunk"  # what torch.compile wraps, below the policy
    note: str = ""


IMAGES, IMAGE = "observation.images", "observation.image"
NOISE = ("chunk_size", "max_action_dim")
UNVERIFIED = Family(verified=False, shared=False, half="", note="not verified")

FAMILIES: Mapping[str, Family] = {
    "act": Family(compiled="model", rows=("chunk_size",)),
    "pi0": Family(rtc=True, half="config", rows=("chunk_size",), noise=NOISE, compiled="model.denoise_step"),
    "pi05": Family(rtc=True, half="config", rows=("chunk_size",), noise=NOISE, compiled="model.denoise_step"),
    "smolvla": Family(rtc=True, ragged_language=True, rows=("chunk_size",), noise=NOISE, compiled="model.denoise_step"),
    "diffusion": Family(history=True, rows=("n_action_steps",), compiled="diffusion.unet"),
    "vqbet": Family(history=True, queues=True, images_as=IMAGES, rows=("action_chunk_size",), compiled="vqbet"),
    "multi_task_dit": Family(
        history=True, queues=True, images_as=IMAGES, rows=("n_action_steps",), compiled="noise_predictor"
    ),
    "tdmpc": Family(
        shared=False,
        queues=True,
        images_as=IMAGE,
        time_first=True,
        rows=("horizon",),
        note="starts each plan from the last one",
    ),
    "lingbot_va": replace(UNVERIFIED, verified=True, note="keeps the video that it has imagined so far"),
}

REFUSED: Mapping[str, str] = {
    "gaussian_actor": "it answers with one action, not with a chunk",
    "sac": "it answers with one action, not with a chunk",
    "sarm": "it is a reward model: it judges, it does not act",
    "robometer": "it is a reward model: it judges, it does not act",
    "topreward": "it is a reward model: it judges, it does not act",
    "reward_classifier": "it is a reward model: it judges, it does not act",
}


def classify(config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint by its config.json. Raises PolicyError for what cannot be served."""
    kind = config.get("type")
    if not isinstance(kind, str) or not kind:
        remedy = "give a checkpoint that lerobot saved"
        raise PolicyError("want a LeRobot checkpoint with its type in config.json", f"type {kind!r}", remedy)
    if reason := REFUSED.get(kind):
        remedy = "serve a policy that predicts chunks of actions"
        raise PolicyError("want a policy that predicts chunks of actions", f"{kind}: {reason}", remedy)
    family = FAMILIES.get(kind, UNVERIFIED)
    if kind == "smolvla" and moments(config) > 1:
        return replace(family, shared=False, note="keeps a history of its own")
    return family


def moments(config: Mapping[str, Any]) -> int:
    """How many moments a policy looks at, the current one included."""
    return max(1, int(config.get("n_obs_steps") or 1))


def chunk_rows(family: Family, config: Mapping[str, Any]) -> int:
    """Rows of one answer. Raises PolicyError when the config does not say."""
    if config.get("type") == "tdmpc" and not config.get("use_mpc", True):
        return 1  # without planning it answers with the next action alone
    rows = next((int(config[name]) for name in family.rows if config.get(name)), 0)
    if rows < 1:
        wanted = f"want {' or '.join(family.rows)} in the checkpoint's config"
        raise PolicyError(wanted, "none of them", "save the checkpoint again with this release of lerobot")
    return rows


@dataclass(frozen=True)
class Precision:
    """What a dtype of the manifest means for a family."""

    autocast: str = ""  # torch type to compute in, over the weights as they are
    own: str = ""  # what the family's `dtype` field is set to: it knows which layers bear it
    single: bool = False  # all weights to float32


def precision(kind: str, family: Family, dtype: str | None) -> Precision:
    """How to compute in `dtype`. Raises PolicyError where the family cannot, or was never tried.

    Weights are not cast as a whole: norms, statistics and time embeddings need what they were made in.
    """
    if dtype is None:
        return Precision()
    able = {
        "autocast": "float32, bfloat16 or float16",
        "config": "float32 or bfloat16",
        "": "the checkpoint's own type",
    }
    half = HALVES.get(dtype, "")
    known = dtype in SINGLES or bool(half)
    if not known or not family.half or (family.half == "config" and half == "float16"):
        remedy = "set model.dtype to one of these" if family.half else "leave model.dtype out"
        raise PolicyError(f"want {able[family.half]} for {kind}", dtype, remedy)
    if family.half == "config":
        return Precision(own=half or "float32")
    return Precision(autocast=half, single=not half)
