"""Anyone's own policy: `module:function` returns an object that keeps to the protocol in `serving.policies.base`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from configuration.factory import find
from serving.errors import PolicyError
from serving.manifest import ModelSettings, RtcSettings, is_factory
from serving.policies.base import Policy, PolicySpec

METHODS = ("open_session", "predict", "reset", "close")
SESSION_METHODS = ("prepare", "finish", "reset", "close")
GIVEN = ("model", "rtc")  # parameters of a factory that get the settings of that name


def load(model: ModelSettings, rtc: RtcSettings | None = None) -> Policy:
    """Call the factory with `model.options` as keyword arguments, and check what it returns. Raises PolicyError.

    A parameter called `model` gets the ModelSettings (device, dtype, path), one called `rtc` the RtcSettings.
    """
    name = model.family if is_factory(model.family) else model.repo_or_path
    factory = find(name, PolicyError)
    arguments = {**model.options, **_settings(factory, {"model": model, "rtc": rtc or RtcSettings()}, model.options)}
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as err:
        takes = f"{name}{inspect.signature(factory)}"
        raise PolicyError(f"want model.options that fit {takes}", str(err), "correct model.options") from err
    try:
        policy = factory(**arguments)
    except PolicyError:
        raise
    except Exception as err:
        raise PolicyError(f"want {name} to return a policy", f"{type(err).__name__}: {err}", "mend it") from err
    return check_policy(policy, name)


def check_policy(policy: Any, name: str) -> Policy:
    """The policy itself when it keeps to the protocol. Raises PolicyError with all that is missing."""
    spec = getattr(policy, "spec", None)
    if not isinstance(spec, PolicySpec):
        got = f"{type(spec).__name__} from {type(policy).__name__}"
        raise PolicyError(f"want {name} to return a policy with spec: PolicySpec", got, "see docs/policies.md")
    if missing := [m for m in METHODS if not callable(getattr(policy, m, None))]:
        raise PolicyError(f"want methods {', '.join(METHODS)}", f"no {', '.join(missing)}", "see docs/policies.md")
    if wrong := [text for holds, text in _rules(spec) if not holds]:
        raise PolicyError(f"want a spec of {name} that fits together", "; ".join(wrong), "correct its PolicySpec")
    return policy


def check_session(session: Any, name: str) -> None:
    """Raise PolicyError when a session lacks a method."""
    if missing := [m for m in SESSION_METHODS if not callable(getattr(session, m, None))]:
        wanted = f"want methods {', '.join(SESSION_METHODS)} on sessions of {name}"
        raise PolicyError(wanted, f"no {', '.join(missing)} on {type(session).__name__}", "see docs/policies.md")


def _settings(factory: Callable[..., Any], known: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(factory).parameters
    return {name: known[name] for name in GIVEN if name in parameters and name not in options}


def _rules(spec: PolicySpec) -> list[tuple[bool, str]]:
    """(holds, what is wrong otherwise) for everything that the daemon relies on."""
    names, cameras = spec.action_names, [c.name for c in spec.cameras]
    return [
        (spec.action_dim >= 1, f"action_dim {spec.action_dim} is below 1"),
        (spec.chunk_size >= 1, f"chunk_size {spec.chunk_size} is below 1"),
        (spec.state_dim >= 0, f"state_dim {spec.state_dim} is below 0"),
        (spec.batch_max >= 1, f"batch_max {spec.batch_max} is below 1"),
        (spec.fps > 0, f"fps {spec.fps:g} is not above 0"),
        (not names or len(names) == spec.action_dim, f"{len(names)} action_names for action_dim {spec.action_dim}"),
        (len(set(names)) == len(names), "action_names twice"),
        (len(set(cameras)) == len(cameras), "cameras twice"),
        (all(min(c.height, c.width) >= 0 for c in spec.cameras), "a camera of negative size"),
        (not spec.rtc or bool(spec.prefix_form), "rtc without prefix_form"),
        (not spec.rtc or 1 <= spec.execution_horizon <= spec.chunk_size, "rtc without 1 <= horizon <= chunk_size"),
        (spec.history_frames >= 1 and spec.history_step >= 1, "history_frames or history_step below 1"),
        (spec.shared or spec.batch_max == 1, "batch_max above 1 on a policy that is not shared"),
    ]
