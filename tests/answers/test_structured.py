"""The schema that servers are held to, the rungs of asking for JSON, and how a reply is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tasks import questions
from tasks.answers.structured import OFF, read, response_format, schema, wire_schema
from tasks.questions import BboxQA, Count, Description, Memory, Rephrasings, Segments, TaskAugAxes

ANSWERS = [
    c
    for c in vars(questions).values()
    if isinstance(c, type) and issubclass(c, questions.Answer) and c is not questions.Answer
]
BARE = {"type", "properties", "required", "additionalProperties", "items", "enum", "anyOf"}  # what all servers take
CHEAP = {"minimum", "maximum", "minItems", "maxItems", "minLength"}  # bounds that grammar compilers are quick with


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in (*node.get("properties", {}).values(), *node.get("anyOf", ())):
        yield from nodes(inner)
    if "items" in node:
        yield from nodes(node["items"])


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_decoder_that_is_held_to_the_schema_must_end(answer):
    for node in nodes(schema(answer)):
        wanted = {"string": "maxLength", "array": "maxItems", "number": "maximum", "integer": "maximum"}
        bound = wanted.get(node.get("type", ""))
        assert bound is None or bound in node or "enum" in node


@pytest.mark.parametrize("answer", ANSWERS)
def test_servers_are_sent_what_they_take(answer):
    for bare, allowed in ((False, BARE | CHEAP), (True, BARE)):
        for node in nodes(wire_schema(answer, bare)):
            assert set(node) <= allowed
            if node.get("type") == "object":
                assert node["required"] == list(node["properties"]) and node["additionalProperties"] is False


def test_schemas_hold_bounds_and_no_text_for_people():
    assert schema(Description)["properties"]["description"]["maxLength"] == 6000
    assert schema(Segments)["properties"]["subtasks"]["maxItems"] == 200
    text = json.dumps(schema(BboxQA))
    assert not any(f'"{word}"' in text for word in ("title", "description", "$ref", "$defs", "const", "default"))
    detection = schema(BboxQA)["properties"]["answer"]["properties"]["detections"]["items"]
    assert detection["properties"]["bbox_format"] == {"type": "string", "enum": ["xyxy"]}
    assert detection["properties"]["bbox"]["minItems"] == 4


def test_empty_texts_of_a_list_are_no_reason_to_ask_again():
    assert read('{"rephrasings": ["", "take it", " ", null]}', Rephrasings)[0].rephrasings == ["take it"]
    assert read('{"rephrasings": ["take it", 3]}', Rephrasings)[0] is None


def test_servers_are_told_of_short_lists_only():
    assert "maxItems" not in wire_schema(Segments)["properties"]["subtasks"]
    answer = wire_schema(BboxQA)["properties"]["answer"]
    detections = answer["properties"]["detections"]
    assert detections["minItems"] == 1 and detections["items"]["properties"]["bbox"]["maxItems"] == 4


def test_fields_named_like_keywords_stay():
    class Odd(questions.Answer):
        title: str
        minimum: float
        maxLength: int

    assert list(wire_schema(Odd, True)["properties"]) == ["title", "minimum", "maxLength"]


def test_response_formats_go_from_schema_to_none():
    formats = [response_format(Count, rung) for rung in range(OFF + 1)]
    assert formats[0]["json_schema"] == {"name": "Count", "schema": wire_schema(Count), "strict": True}
    assert formats[1:] == [{"type": "json_object"}, None]
    assert response_format(Count, 0, bare=True)["json_schema"] == {"name": "Count", "schema": wire_schema(Count, True)}


def test_the_last_object_that_fits_the_answer_wins():
    answer, problem = read('{"label": "cup", "count": 2}\nNote: {"sure": true}', Count)
    assert (answer.count, problem) == (2, "")


def test_fields_that_have_a_default_may_be_left_out_of_a_reply():
    assert read('{"label": "cup", "count": 2}', Count)[0].note is None


def test_an_answer_wrapped_in_one_more_object_is_read():
    assert read('{"result": {"label": "cup", "count": 2}}', Count)[0].count == 2
    assert read('{"a": {"b": {"label": "cup", "count": 2}}}', Count)[0] is None


def test_an_object_about_something_else_is_no_list_of_rephrasings():
    assert read('{"thought": "none"}', TaskAugAxes)[0] is None
    assert read('{"omit_arm": ["take it"]}', TaskAugAxes)[0].omit_arm == ["take it"]


def test_a_misfit_is_explained():
    answer, problem = read('{"label": "cup", "count": "two"}', Count)
    assert answer is None and "count" in problem and "integer" in problem
    assert read("", Count)[1] == read(" \n", Count)[1] == "the reply is empty"
    assert read("two", Count)[1] == "the reply holds no JSON object"


def test_too_long_a_text_is_refused_in_the_reply_since_no_server_is_told_of_it():
    assert read(json.dumps({"memory": "x" * 1001}), Memory)[0] is None


def test_nan_and_lone_surrogates_do_not_pass():
    assert read('{"subtasks": [{"text": "a", "start": NaN, "end": 1}]}', Segments)[0] is None
    assert read('{"memory": "\\ud800"}', Memory)[0] is None
