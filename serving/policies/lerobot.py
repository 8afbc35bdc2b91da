"""Any LeRobot checkpoint: its network shared, its processors one pair a robot, its chunks as lerobot itself has them.

How a family is called is declared in `serving.policies.lerobot_families`; nothing is found out by trying. lerobot is
imported only where a checkpoint is loaded.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from serving.errors import PolicyError
from serving.manifest import ModelSettings, RtcSettings
from serving.policies.exported import check_device
from serving.policies.lerobot_checkpoint import INSTALL, Checkpoint, find, joined
from serving.policies.lerobot_families import Family, Precision, classify, precision
from serving.policies.lerobot_spec import LeRobotOptions, spec_of
from serving.policies.one_thread import OneThread
from serving.policies.options import checked

if TYPE_CHECKING:
    import torch
    from lerobot.configs import PreTrainedConfig

    from serving.policies.lerobot_policy import LeRobotPolicy

log = logging.getLogger(__name__)


def load(model: ModelSettings, rtc: RtcSettings | None = None) -> LeRobotPolicy:
    """The checkpoint `model.repo_or_path` at `model.revision`. Raises PolicyError on whatever does not fit together."""
    options = checked(LeRobotOptions, model.options, "model.options of a LeRobot checkpoint")
    checkpoint = find(model.repo_or_path, model.revision)
    config = checkpoint.config()
    family = classify(config)  # before torch is loaded: what is refused is refused at once
    how = precision(config["type"], family, model.dtype)
    try:
        import lerobot  # noqa: F401
    except ImportError as err:
        raise PolicyError("want lerobot to load this checkpoint", f"no module {err.name}", INSTALL) from err
    check_device(model.device)
    with _reading(checkpoint, config["type"]):
        policy = _assembled(model, rtc or RtcSettings(), options, checkpoint, family, how)
    log.info("loaded %s at %s on %s", model.repo_or_path, checkpoint.revision, model.device)
    if family.note:
        log.warning("%s is served to one robot at a time: %s", config["type"], family.note)
    return policy


def _assembled(
    model: ModelSettings,
    rtc: RtcSettings,
    options: LeRobotOptions,
    checkpoint: Checkpoint,
    family: Family,
    how: Precision,
) -> LeRobotPolicy:
    from serving.policies import lerobot_model as network
    from serving.policies.lerobot_policy import LeRobotPolicy
    from serving.policies.lerobot_processors import Template

    config = network.read_config(checkpoint, model.device)
    if how.own:
        config.dtype = how.own
    active = rtc.enabled and family.rtc
    network.set_rtc(config, rtc if active else None)
    parts = network.parts_of(checkpoint, model.adapter)
    template = Template(checkpoint, config)
    weights_hash = joined(part.weights_hash for part in parts)
    spec = spec_of(model, checkpoint.revision, weights_hash, rtc if active else None, family, config, template, options)
    policy = network.load_network(parts, config, single=how.single)
    if active:
        network.install_rtc(policy, options.guidance)
    network.compile_network(policy, family, model.compile)
    return LeRobotPolicy(
        policy,
        spec,
        family,
        template,
        autocast=how.autocast,
        differentiates=active and options.guidance == "vjp",
        noise=_noise(options.noise_seed, family, config),
        thread=OneThread("serving-compiled") if model.compile.enabled else None,
    )


def _noise(seed: int | None, family: Family, config: PreTrainedConfig) -> torch.Tensor | None:
    """What every request starts from, where that is asked for."""
    if seed is None:
        return None
    if not family.noise:
        got = f"{config.type}, which draws its own or none"
        raise PolicyError("want a policy that takes noise for noise_seed", got, "leave noise_seed out")
    import torch

    return torch.randn([getattr(config, name) for name in family.noise], generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def _reading(checkpoint: Checkpoint, kind: str) -> Iterator[None]:
    """What lerobot cannot read of a checkpoint, as a PolicyError."""
    try:
        yield
    except PolicyError:
        raise
    except ImportError as err:
        remedy = "install what it names, or the extra of lerobot for this family"
        raise PolicyError(f"want what {kind} needs beside lerobot", _first_line(err), remedy) from err
    except OSError as err:
        remedy = "check the files; where it names the hub (a tokenizer, a backbone), start once while online"
        raise PolicyError(
            f"want every file that {kind} in {checkpoint.folder} needs", _first_line(err), remedy
        ) from err
    except Exception as err:
        remedy = "load it with the release of lerobot that saved it, or save it again"
        raise PolicyError(
            f"want a checkpoint that lerobot can load in {checkpoint.folder}", _first_line(err), remedy
        ) from err


def _first_line(err: Exception) -> str:
    return f"{type(err).__name__}: {(str(err).strip().splitlines() or [''])[0]}"
