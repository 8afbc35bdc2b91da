"""`module:function`: somebody's own Python, found where a command is started."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from configuration.flags import nearest

Error = Callable[[str, str, str], Exception]  # (wanted, got, remedy)


def find(name: str, error: Error) -> Callable[..., Any]:
    """The function that `module:function` names; the working folder is searched too. Raises `error`."""
    module_name, _, attribute = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:  # a script's own folder is on the path, a command's working folder is not
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as err:
        if err.name is None or not f"{module_name}.".startswith(f"{err.name}."):
            raise error(f"want {module_name} to import", f"no module {err.name}", "install it") from err
        remedy = f"start in its folder ({folder} is searched), or install it"
        raise error(f"want a module {module_name}", "there is none", remedy) from err
    except Exception as err:
        raise error(f"want {module_name} to import", f"{type(err).__name__}: {err}", "mend it") from err
    factory = getattr(module, attribute, None)
    if not callable(factory):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module_name]
        got = "none" if factory is None else type(factory).__name__
        remedy = nearest(attribute, own) or f"it has {', '.join(own) or 'none'}"
        raise error(f"want a function {attribute} in {module_name}", got, remedy)
    return factory
