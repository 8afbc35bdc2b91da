"""Recipes: which rows are bound to which names, and which chat turns are laid out with them.

A recipe is either messages (with bindings) or a blend of such recipes. Everything that can be wrong with one is found
when it is loaded, with its place in the YAML.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

import prompts
from configuration.yaml_source import Place, Source, read_yaml
from tasks.errors import RecipeError
from tasks.language.expression import CAMERA, Binding, parse_binding
from tasks.language.template import names_in, parse_template

RECIPES_DIR = Path(prompts.__file__).with_name("recipes")
TASK, CANONICAL_TASK, CAMERA_NAME = "task", "canonical_task", "camera"
DEFAULT_BINDINGS: dict[str, str] = {
    "subtask": "active_at(t, style=subtask)",
    "memory": "active_at(t, style=memory)",
    "plan": "active_at(t, style=plan)",
    "speech": "emitted_at(t, role=assistant, tool_name=say)",
    "interjection": "emitted_at(t, style=interjection)",
    "vqa": "emitted_at(t, style=vqa, role=assistant)",
    "vqa_query": "emitted_at(t, style=vqa, role=user)",
}
DEFAULTS: dict[str, Binding] = {name: parse_binding(text) for name, text in DEFAULT_BINDINGS.items()}

Use = Literal["text", "presence", "calls"]  # what a turn wants of a name

KEY = "[key]"  # pydantic's own mark of a wrong key
KINDS: dict[str, tuple[str, str]] = {  # pydantic's types of errors -> what is wanted, how to write it
    "model_type": ("a mapping", "write its keys below it, one a line"),
    "dict_type": ("a mapping", "write its keys below it, one a line"),
    "list_type": ("a list", "begin each item with a dash"),
    "string_type": ("text", "put it in quotes"),
    "bool_type": ("true or false", "write it without quotes"),
    "float_type": ("a number", "write it like 0.25, without quotes"),
}

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


def _wrong(wanted: str, got: str, remedy: str, *place: str | int) -> NoReturn:
    """Refuse, with a place inside the model at hand."""
    context = {"wanted": wanted, "got": got, "remedy": remedy, "place": place}
    raise PydanticCustomError("recipe", "{wanted}; got: {got}; do: {remedy}", context)


def _check_content(content: Any) -> Any:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        _wrong("want content as text or a list of blocks", f"{content!r}", "put text in quotes")
    for i, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            _wrong("want blocks like {type: text, text: …}", f"{block!r}", "give the block a type", i)
        if odd := [key for key in block if not isinstance(key, str)]:
            _wrong("want the keys of a block as text", repr(odd[0]), "put the key in quotes", i)
        if not isinstance(block.get("if_present", ""), str):
            _wrong("want one name in if_present", repr(block["if_present"]), "name a binding", i, "if_present")
    return content


def _check_cameras(cameras: Any) -> Any:
    if cameras is None or cameras == "all":
        return cameras
    if not isinstance(cameras, list) or not cameras or not all(isinstance(c, str) and c for c in cameras):
        _wrong("want cameras: all, or a list of cameras", repr(cameras), "write cameras: [front, wrist], for example")
    if len(set(cameras)) < len(cameras):
        _wrong("want each camera once", repr(cameras), "leave the second one out")
    return cameras


def _key(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _check_blend(blend: Any) -> Any:
    """Refuse a blend in a blend before its own parts are looked at: their errors would only lead astray."""
    for name, component in blend.items() if isinstance(blend, Mapping) else ():
        inner = component.blend if isinstance(component, Recipe) else _key(component, "blend")
        if inner is not None:
            _wrong("want messages in a component", "another blend", "blends do not nest", name, "blend")
    return blend


class Turn(BaseModel):
    """One chat turn."""

    model_config = _STRICT

    role: Literal["user", "assistant", "system", "tool"] = Field(description="who speaks")
    content: Annotated[str | list[dict[str, Any]] | None, BeforeValidator(_check_content)] = Field(
        None,
        description="text, or a list of blocks like {type: text, text: …}; ${name} is filled in, ${name:-text} has a "
        "default; a block may have its own if_present. May be left out with tool_calls_from",
    )
    stream: Literal["high_level", "low_level"] = Field(
        description="high_level: language only; low_level: the policy acts on this turn (action loss)"
    )
    target: bool = Field(False, description="the policy learns to say this turn (text loss)")
    if_present: str | None = Field(None, description="name of a binding; without its row the turn is left out")
    if_absent: str | None = Field(None, description="name of a binding; where it has a row the turn is left out")
    tool_calls_from: str | None = Field(None, description="name of a binding; its row's tool calls go into the turn")

    @model_validator(mode="after")
    def _says_something(self) -> Turn:
        if self.content is None and self.tool_calls_from is None:
            _wrong("want content, or tool_calls_from", "neither", "write what this turn says", "content")
        if self.content is not None and not (self.content.strip() if isinstance(self.content, str) else self.content):
            _wrong("want content that says something", repr(self.content), "leave the turn out", "content")
        only_blocks = isinstance(self.content, list) and self.tool_calls_from is None
        if self.target and only_blocks and not any(isinstance(block.get("text"), str) for block in self.content):
            _wrong("want words to learn in a target turn", "no text block", "add {type: text, text: …}", "content")
        for place, text in self.templates():
            _check_template(text, place)
        return self

    def templates(self) -> Iterator[tuple[Place, str]]:
        """Every text with placeholders, and its place in the turn."""
        if isinstance(self.content, str):
            yield ("content",), self.content
        for i, block in enumerate(self.content if isinstance(self.content, list) else ()):
            for key, value in block.items():
                if key != "if_present":  # a name, not a text
                    yield from _texts(value, ("content", i, key))

    def names(self) -> Iterator[tuple[Place, str, Use]]:
        """Every name that the turn uses, where, and what for."""
        if self.if_present is not None:
            yield ("if_present",), self.if_present, "presence"
        if self.if_absent is not None:
            yield ("if_absent",), self.if_absent, "presence"
        if self.tool_calls_from is not None:
            yield ("tool_calls_from",), self.tool_calls_from, "calls"
        for i, block in enumerate(self.content if isinstance(self.content, list) else ()):
            if "if_present" in block:
                yield ("content", i, "if_present"), block["if_present"], "presence"
        for place, text in self.templates():
            yield from ((place, name, "text") for name in names_in(parse_template(text)))


def _texts(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """All strings of a value, at any depth."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*place, str(key)))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _texts(item, (*place, i))


def _check_template(text: str, place: Place) -> None:
    try:
        parse_template(text)
    except RecipeError as err:
        _wrong(err.wanted, err.got, err.remedy, *place)


class Recipe(BaseModel):
    """Either `messages` with `bindings`, or a `blend` of such recipes by name."""

    model_config = _STRICT

    messages: list[Turn] | None = Field(None, description="chat turns, in order")
    bindings: dict[str, str] | None = Field(
        None, description="name -> resolver expression, like nth_prev(style=memory, offset=1); overrides the defaults"
    )
    weight: float | None = Field(None, description="share of this component in a blend")
    route: Literal["event", "vqa"] | None = Field(
        None,
        description="event: where this component can render, it (or another one with a route) goes before all others; "
        "vqa means the same",
    )
    cameras: Annotated[Literal["all"] | list[str] | None, BeforeValidator(_check_cameras)] = Field(
        None,
        description="repeat this component for each camera; ${camera} is the camera's key; the weight is shared out",
    )
    blend: Annotated[dict[str, Recipe] | None, BeforeValidator(_check_blend)] = Field(
        None, description="components by name, each with a weight"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if (self.messages is None) == (self.blend is None):
            got = "neither" if self.messages is None else "both"
            _wrong("want either messages or blend", got, "one recipe does one of the two")
        if self.blend is not None:
            self._check_components(self.blend)
        else:
            self._check_messages(self.messages or [])
        return self

    def _check_components(self, blend: Mapping[str, Recipe]) -> None:
        for name in ("route", "cameras", "bindings", "weight"):
            if getattr(self, name) is not None:
                _wrong(f"want no {name} beside blend", repr(getattr(self, name)), "set it on a component", name)
        if not blend:
            _wrong("want at least one component in blend", "none", "name one, with messages and weight", "blend")
        for name, component in blend.items():
            if component.weight is None:
                _wrong("want a weight on every component", "none", "add weight: 1.0", "blend", name)

    def _check_messages(self, messages: list[Turn]) -> None:
        if not messages:
            _wrong("want at least one turn in messages", "none", "write a user and an assistant turn", "messages")
        if self.weight is not None and not (math.isfinite(self.weight) and self.weight > 0):
            _wrong("want weight > 0", repr(self.weight), "leave the component out instead", "weight")
        known = self._known_names()
        for i, turn in enumerate(messages):
            for place, name, use in turn.names():
                if name not in known[use]:
                    self._unknown(name, known[use], ("messages", i, *place))
        if not any(turn.target or turn.stream == "low_level" for turn in messages):
            remedy = "set target: true on what the policy should say, or stream: low_level where it should act"
            _wrong("want a turn that teaches something", "no target and no low_level turn", remedy, "messages")

    def _known_names(self) -> dict[Use, set[str]]:
        """What can be named: rows have tool calls, tasks only words, and a camera is always there."""
        rows = set(DEFAULT_BINDINGS)
        for name, text in (self.bindings or {}).items():
            try:
                binding = parse_binding(text)
            except RecipeError as err:
                _wrong(err.wanted, err.got, err.remedy, "bindings", name)
            if name in (CANONICAL_TASK, CAMERA_NAME) or not name.isidentifier():
                _wrong("want a free name for a binding", repr(name), "choose another word", "bindings", name)
            if binding.selector.camera == CAMERA and self.cameras is None:
                _wrong("want cameras: beside ${camera}", text, "add cameras: all to the component", "bindings", name)
            rows.add(name)
        present = rows | {TASK, CANONICAL_TASK}
        return {"calls": rows, "presence": present, "text": present | ({CAMERA_NAME} if self.cameras else set())}

    def _unknown(self, name: str, known: set[str], place: Place) -> NoReturn:
        if name == CAMERA_NAME and self.cameras is None:
            _wrong("want cameras: beside ${camera}", "none", "add cameras: all to the component", *place)
        close = get_close_matches(name, sorted(known), n=1, cutoff=0.5)
        remedy = f"did you mean {close[0]}?" if close else "declare it under bindings"
        _wrong(f"want a name of {', '.join(sorted(known))}", repr(name), remedy, *place)


def canonical_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return tuple(sorted(path.stem for path in RECIPES_DIR.glob("*.yaml")))


def load_recipe(source: Recipe | Mapping[str, Any] | Path | str) -> Recipe:
    """A recipe from a YAML file, the name of a canonical one, or a mapping. Raises RecipeError with the place."""
    if isinstance(source, Recipe):
        return source
    if isinstance(source, Mapping):
        return parse_recipe(Source(dict(source)))
    return parse_recipe(read_yaml(recipe_path(source), RecipeError, "recipe file"))


def recipe_path(source: Path | str) -> Path:
    """The file of a recipe. Raises RecipeError when there is none, naming the nearest canonical one."""
    path = Path(source).expanduser()
    names = canonical_recipes()
    if str(source) in names:
        return RECIPES_DIR / f"{source}.yaml"
    if path.is_file():
        return path
    close = get_close_matches(path.stem, names, n=1, cutoff=0.5)
    remedy = f"did you mean {close[0]}?" if close else f"use one of {', '.join(names)}, or write a file"
    raise RecipeError("want a recipe file, or the name of a canonical recipe", str(source), remedy)


def parse_recipe(source: Source) -> Recipe:
    """The checked recipe of what was read. Raises RecipeError."""
    if not isinstance(source.data, Mapping):
        got = "nothing" if source.data is None else type(source.data).__name__
        raise RecipeError(f"want a mapping at {source.where(())}", got, "begin with messages: or blend:")
    try:
        return Recipe.model_validate(source.data)
    except ValidationError as err:
        raise _recipe_error(err, source) from None


def _recipe_error(err: ValidationError, source: Source) -> RecipeError:
    """The first error, with its place; how many more there are."""
    # a misspelt key comes before the missing one that it causes
    first, *more = sorted(err.errors(), key=lambda e: (e["type"] != "extra_forbidden", source.line(_place(e))))
    wanted, got, remedy = _in_words(first)
    if more:
        remedy += f" ({len(more)} more error{'s' if len(more) > 1 else ''} in this recipe)"
    return RecipeError(f"{wanted}, at {source.where(_place(first))}", got, remedy)


def _place(error: ErrorDetails) -> Place:
    loc = error["loc"]
    if loc[-1:] == (KEY,):
        loc = (*loc[:-2], str(loc[-2]))
    return (*loc, *error.get("ctx", {}).get("place", ()))


def _in_words(error: ErrorDetails) -> tuple[str, str, str]:
    """wanted, got, remedy of a pydantic error."""
    context = error.get("ctx", {})
    key = error["loc"][-1] if error["loc"] else "recipe"
    got = repr(error["input"])[:80]
    if error["type"] == "recipe":
        return context["wanted"], context["got"], context["remedy"]
    if key == KEY:
        return "want names as text", got, "put the name in quotes"
    if error["type"] == "extra_forbidden":
        known = [*(Turn if "messages" in error["loc"] else Recipe).model_fields]
        close = get_close_matches(str(key), known, n=1, cutoff=0.5)
        return f"want a key of {', '.join(known)}", repr(key), f"did you mean {close[0]}?" if close else "leave it out"
    if error["type"] == "missing":
        field = Turn.model_fields.get(str(key))
        return f"want {key}", "none", f"add {key}: {field.description}" if field else f"add {key}"
    if error["type"] == "literal_error":
        return f"want {key} {context['expected']}", got, "write one of these"
    kind, remedy = KINDS.get(error["type"], (f"something else ({error['msg']})", "correct it"))
    what = f"{error['loc'][-2]}[{key}]" if isinstance(key, int) else key
    return f"want {what} as {kind}", got, remedy
