"""Write prompts/recipes/recipe.schema.json from the recipe model, for editors: `python docs/make_recipe_schema.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.language.recipe import RECIPES_DIR, Recipe

SCHEMA = Path(RECIPES_DIR) / "recipe.schema.json"
DIALECT = "http://json-schema.org/draft-07/schema#"  # the newest that all editors with YAML support know
NULL = {"type": "null"}


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file."""
    made = _plain(Recipe.model_json_schema())
    made["definitions"] = made.pop("$defs")
    recipe, turn = made["definitions"]["Recipe"], made["definitions"]["Turn"]
    recipe["oneOf"] = [{"required": ["messages"]}, {"required": ["blend"]}]
    recipe["properties"]["weight"]["exclusiveMinimum"] = 0
    for name in ("messages", "cameras"):
        _lists(recipe["properties"][name])["minItems"] = 1
    component = {"allOf": [{"$ref": "#/definitions/Recipe"}], "required": ["messages", "weight"]}  # blends do not nest
    recipe["properties"]["blend"].update(additionalProperties=component, minProperties=1)
    turn["properties"]["content"]["anyOf"].append(NULL)  # may be said beside tool_calls_from
    turn["anyOf"] = [{"required": ["content"]}, {"required": ["tool_calls_from"]}]
    _lists(turn["properties"]["content"])["items"].update(
        required=["type"], properties={"type": {"type": "string"}, "if_present": turn["properties"]["if_present"]}
    )
    return {"$schema": DIALECT, "title": "Training recipe", **made}


def _plain(value: Any) -> Any:
    """Without what only a program needs: titles made of names, null beside the type of a key that may be left out."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value.replace("#/$defs/", "#/definitions/") if isinstance(value, str) else value
    kept = {k: _plain(v) for k, v in value.items() if not (k == "title" and isinstance(v, str))}
    if kept.get("default", "") is None:
        del kept["default"]
    options = [option for option in kept.get("anyOf", ()) if option != NULL]
    if len(options) == 1:
        del kept["anyOf"]
        return {**options[0], **kept}
    return {**kept, "anyOf": options} if options else kept


def _lists(field: dict[str, Any]) -> dict[str, Any]:
    """The part of a field's schema that is a list."""
    return next(option for option in field.get("anyOf", [field]) if option.get("type") == "array")


def text() -> str:
    """The file's text."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text(), encoding="utf-8")
