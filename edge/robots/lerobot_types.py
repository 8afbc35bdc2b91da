"""Robots and teleoperators of an installed lerobot, by the type they are registered with and LeRobot's own options."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from configuration.flags import nearest
from edge.errors import RobotError, SettingsError

log = logging.getLogger(__name__)

CAMERAS = "lerobot.cameras"
EXTRA = "pip install 'cuebook[lerobot]' into Python 3.12 or newer"
DRIVERS = "install the drivers that this error names"
OPTIONS_NAMED = 12  # in one message


@dataclass(frozen=True)
class Family:
    """Devices of one sort."""

    package: str
    config: str  # class that all configurations derive from
    make: str  # function that makes a device of a configuration
    flag: str
    ours: tuple[str, ...] = ()  # kinds that are not LeRobot's, for messages


def make_device(family: Family, kind: str, options: Mapping[str, Any]) -> Any:
    """A device, not connected. Raises SettingsError with the nearest type or option, RobotError where it fails."""
    config_class, known = _types(family, kind)
    if kind not in known:
        raise no_such(kind, family.ours, known, family.flag)
    config = _config(family, config_class, kind, options)
    make = getattr(importlib.import_module(family.package), family.make)
    try:
        return make(config)
    except Exception as err:
        cause = _cause(err)
        remedy = DRIVERS if isinstance(cause, ImportError) else f"look at {family.flag}…"
        raise RobotError(f"want to make {kind}", f"{type(cause).__name__}: {cause}", remedy) from err


def _types(family: Family, kind: str) -> tuple[Any, tuple[str, ...]]:
    """The class of all configurations, and the types that are registered. Raises SettingsError without lerobot."""
    try:
        package = importlib.import_module(family.package)
        _register(family.package)
        _register(CAMERAS)
    except ImportError as err:
        got = "lerobot is not installed" if err.name == "lerobot" else f"lerobot: no module {err.name}"
        if sys.version_info < (3, 12):
            got += f", and this is Python {sys.version_info.major}.{sys.version_info.minor}"
        raise no_such(kind, family.ours, (), family.flag, f"none of ours, and {got}; for LeRobot's: {EXTRA}") from err
    _plugins()
    config_class = getattr(package, family.config)
    return config_class, tuple(sorted(config_class.get_known_choices()))


def _register(package_name: str) -> None:
    """Import all of a package: types are registered when their module is. Those whose driver is missing stay out."""
    package = importlib.import_module(package_name)
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            continue
        try:
            importlib.import_module(f"{package_name}.{module.name}")
        except Exception as err:  # noqa: BLE001 a driver of somebody else's robot
            log.debug("%s.%s was left out: %s", package_name, module.name, err)


def _plugins() -> None:
    """Packages that bring types of their own (lerobot_robot_…, lerobot_camera_…)."""
    importlib.import_module("lerobot.utils.import_utils").register_third_party_plugins()


def _config(family: Family, config_class: Any, kind: str, options: Mapping[str, Any]) -> Any:
    import draccus

    own = [f for f in fields(config_class.get_choice_class(kind)) if f.init]
    known = [f.name for f in own]
    for name in options:
        if name not in known:
            shown = ", ".join(family.flag + k for k in known[:OPTIONS_NAMED])
            remedy = nearest(name, known, family.flag) or f"it knows {shown}"
            raise SettingsError(f"want options of {kind}", f"unknown {family.flag}{name}", remedy)
    needed = [f.name for f in own if f.default is MISSING and f.default_factory is MISSING]
    if missing := ", ".join(family.flag + name for name in needed if name not in options):
        raise SettingsError(f"want options of {kind}", f"no {missing}", f"give {missing}")
    try:
        return draccus.decode(config_class, {**options, "type": kind})
    except Exception as err:
        cause = _cause(err)
        got = str(err).strip() + ("" if cause is err else f" ({cause})")
        raise SettingsError(f"want options {family.flag}… that {kind} takes", got, "correct them") from err


def _cause(err: BaseException) -> BaseException:
    """What an error began with: LeRobot wraps errors together with whole configurations."""
    while err.__cause__ is not None:
        err = err.__cause__
    return err


def no_such(kind: str, ours: tuple[str, ...], theirs: Iterable[str], flag: str, why: str = "") -> SettingsError:
    """The error for an unknown kind: the nearest of ours and of LeRobot's."""
    theirs = tuple(theirs)
    known = f"{', '.join((*ours, 'module:function'))}" + (f"; of LeRobot: {', '.join(theirs)}" if theirs else "")
    got = repr(kind) + (f" ({why})" if why else "")
    return SettingsError(f"want {flag}type to be one of {known}", got, nearest(kind, (*ours, *theirs)) or "choose one")


def names_of(features: Mapping[str, Any], device: str) -> tuple[str, ...]:
    """Names of an action, in LeRobot's order: `{name: float}`, or `{dtype, shape, names}`. Raises RobotError."""
    if "names" in features and "dtype" in features:
        names = features["names"]
        if isinstance(names, Mapping) and all(isinstance(v, int) for v in names.values()):
            return tuple(sorted(names, key=names.__getitem__))
        if isinstance(names, list | tuple) and all(isinstance(n, str) for n in names):
            return tuple(names)
    elif odd := [n for n, kind in features.items() if kind not in (float, int)]:
        wanted = f"want one number a name in the actions of {device}"
        raise RobotError(wanted, f"{odd[0]}: {features[odd[0]]!r}", "write it a module:function that gives numbers")
    else:
        return tuple(features)
    raise RobotError(f"want names for the actions of {device}", repr(features), "write it a module:function with names")


def connect(device: Any, kind: str, flag: str) -> None:
    """Connect without asking anybody to calibrate at a prompt. Raises RobotError; what was opened is closed again."""
    try:
        if takes_calibrate(device.connect):
            device.connect(calibrate=False)
        else:
            device.connect()
        calibrated = device.is_calibrated
    except Exception as err:
        culprit = _camera_not_connected(device)
        let_go(device)
        where = f"camera {culprit} of {kind}" if culprit else kind
        remedy = DRIVERS if isinstance(err, ImportError) else "check power and cables"
        raise RobotError(f"want to connect {where}", f"{type(err).__name__}: {err}", remedy) from err
    if calibrated is False:  # None: a device that knows no calibration
        let_go(device)
        command = f"lerobot-calibrate {flag}type={kind} {flag}id={device.id} and its other options"
        raise RobotError(f"want {kind} {device.id or ''} calibrated".replace("  ", " "), "it is not", f"run {command}")


def takes_calibrate(connect: Callable[..., Any]) -> bool:
    """Whether a device's `connect` has that parameter."""
    return "calibrate" in inspect.signature(connect).parameters


def camera_at_fault(device: Any) -> str:
    """Name of the first camera that is not connected or gives no picture; "" when all do."""
    for name, camera in _cameras(device).items():
        try:
            if not camera.is_connected:
                return name
            (camera.read_latest if hasattr(camera, "read_latest") else camera.read)()
        except Exception:  # noqa: BLE001 that it fails is the answer
            return name
    return ""


def _camera_not_connected(device: Any) -> str:
    """The camera at which connecting ended: they are connected one after the other, once the bus is."""
    connected = {name: camera.is_connected for name, camera in _cameras(device).items()}
    if not (any(connected.values()) or getattr(getattr(device, "bus", None), "is_connected", False)):
        return ""
    return next((name for name, is_connected in connected.items() if not is_connected), "")


def _cameras(device: Any) -> Mapping[str, Any]:
    return getattr(device, "cameras", None) or {}


def let_go(device: Any) -> None:
    """Disconnect whatever of a device is connected, bus by bus and camera by camera where the whole refuses.

    LeRobot's devices refuse to disconnect when one camera is gone, and would leave their motors energised.
    """
    try:
        device.disconnect()
        return
    except Exception as err:  # noqa: BLE001 part by part below
        log.debug("%s does not disconnect as a whole: %s", type(device).__name__, err)
    parts = [*vars(device).values(), *_cameras(device).values()]
    for part in parts:
        if not (hasattr(part, "disconnect") and hasattr(part, "is_connected")):
            continue
        try:
            if part.is_connected:
                part.disconnect()
            elif hasattr(part, "bus"):  # one arm of two, of which a camera is gone
                let_go(part)
        except Exception as err:  # noqa: BLE001 the other parts still must be let go
            log.warning("%s of %s does not disconnect: %s", type(part).__name__, type(device).__name__, err)
