"""JSON out of whatever a model writes."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.answers.json_text import TEXT_CHARS_MAX, objects, without_thoughts


def first(text: str):
    return next(objects(text), None)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        '  \n{"a": 1}\n',
        '```json\n{"a": 1}\n```',
        'Sure!\n```\n{"a": 1}\n```\nAnything else?',
        '<think>Maybe {"a": 2}?</think>{"a": 1}',
        '<think>x</think> <THINK>y</THINK> {"a": 1}',
        'it may be {"a": 2}, no.</think>{"a": 1}',  # a lone closing tag
        '</think></think>{"a": 1}<think>',
        'The answer is {"a": 1}. Is that right?',
        'First {"a": 3}, better: {"a": 1}',  # the last one wins
        'The set {x} and {"a": 1}',
        'An open { brace, then {"a": 1}',
        '{"a": 1} and a stray } or {',
        'A 5" pipe { and then\n{"a": 1}',  # a stray quote inside a stray brace
        '{ not json {"a": 1} }',
        '\ufffd\ufffd{"a": 1}\ufffd',
    ],
)
def test_the_object_is_found(text):
    assert first(text) == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "prose",
        "null",
        "[1, 2]",
        '"{"',
        '{"a": 1',
        '<think>{"a": 1}',  # a cut-off thought is no answer
        '{"a": 1}</think>',
        "{'a': 1}",
        "}{",
        "{" * 1000,
    ],
)
def test_nothing_is_made_up(text):
    assert first(text) is None


@pytest.mark.parametrize(
    "value", ["a } b { c", 'say "hi" {', "back\\slash\\", "line\nbreak", "</think>", "```", "\ufffd"]
)
def test_strings_keep_their_braces_quotes_and_tags(value):
    text = json.dumps({"a": value}, ensure_ascii=False)
    assert first(text) == {"a": value}
    if "think" not in value:
        assert first(f"Here you are: {text} (done)") == {"a": value}


def test_raw_line_breaks_inside_strings_are_taken():
    assert first('{"a": "one\ntwo"}') == {"a": "one\ntwo"}
    assert first('so: {"a": "one\ntwo"}') == {"a": "one\ntwo"}


def test_candidates_come_last_first_so_that_a_schema_can_choose():
    assert list(objects('{"a": 1} {"b": {"c": 2}} {bad} {"d": 3}')) == [{"d": 3}, {"b": {"c": 2}}, {"a": 1}]


def test_of_a_longer_text_the_end_is_read():
    assert first("x" * (2 * TEXT_CHARS_MAX) + '{"a": 1}') == {"a": 1}


def test_deep_nesting_is_survived():
    assert first('{"a":' * 100_000 + "1" + "}" * 100_000) is None
    assert first("9" * 100_000) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
prose = st.text(alphabet=st.characters(exclude_characters='{}"\\<>', exclude_categories=["Cs"]), max_size=40)


@given(st.dictionaries(st.text(), values, max_size=4), prose, prose)
def test_any_object_survives_prose_around_it(value, before, after):
    assert first(f"{before}{json.dumps(value)}{after}") == value


@given(st.text(alphabet='{}"\\:,1a\n <>/think', max_size=300))
def test_any_text_ends_and_gives_objects_only(text):
    assert all(isinstance(value, dict) for value in objects(text))


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", "b "]), max_size=30))
def test_thoughts_leave_no_tag(parts):
    assert "think" not in without_thoughts("".join(parts))


ADVERSARIAL = {
    "open braces": lambda n: "{" * n,
    "closed braces": lambda n: "{" * (n // 2) + "}" * (n // 2),
    "closing tags first": lambda n: "</think><think>" * (n // 15),
    "open tags": lambda n: "<think>" * (n // 7),
    "quotes": lambda n: "{" + '"' * n,
    "backslashes": lambda n: '{"' + "\\" * n,
    "nested broken objects": lambda n: '{"a":' * (n // 7) + "x" + "}" * (n // 7),
    "many broken objects": lambda n: '{"a":x}' * (n // 7),
    "many objects": lambda n: '{"a":1}' * (n // 7) + "}",
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_time_grows_with_the_length_only(name):
    make = ADVERSARIAL[name]

    def cpu_s(n: int) -> float:
        text = make(n)
        best = 1e9
        for _ in range(3):
            began = time.thread_time()
            list(objects(text))
            best = min(best, time.thread_time() - began)
        return best

    small, large = cpu_s(16_000), cpu_s(128_000)
    assert large < 8 * 5 * small + 0.02  # a quadratic scan would take 64 times as long
