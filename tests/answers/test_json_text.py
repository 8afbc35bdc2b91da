"""JSON out of whatever a model writes."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.answers import json_text
from tasks.answers.json_text import objects, without_thoughts
from tests.answers.hostile_text import SHAPES


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


@given(
    st.dictionaries(st.text(min_size=1), values, min_size=1, max_size=4),
    prose,
    st.sampled_from(
        ["{fence}\n{value}\n```", "<think>{other}</think>{value}", "{other}\n</think>\n{value}", "{value}"]
    ),
    st.sampled_from(["", "\n", "\n\n```\n", " That is all."]),
)
def test_any_object_is_found_in_fences_and_behind_thoughts(value, before, around, after):
    other = json.dumps({"no": 1})
    text = (
        around.replace("{fence}", "```json")
        .replace("{other}", f"{before}{other}")
        .replace("{value}", json.dumps(value))
    )
    assert first(f"{before}\n{text}{after}") == value


# ---------------------------------------------------------------- long and hostile texts


class Work:
    """Counts what is done with a text: characters given to the parser, its calls, marks looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chars = self.calls = self.marks = 0
        loads, scan = json.loads, json_text._braces

        def counted_loads(text, **more):
            self.chars, self.calls = self.chars + len(text), self.calls + 1
            return loads(text, **more)

        def counted_scan(text, newline_ends_string):
            self.marks += sum(text.count(mark) for mark in '{}"\\\n')
            return scan(text, newline_ends_string)

        monkeypatch.setattr(json_text.json, "loads", counted_loads)
        monkeypatch.setattr(json_text, "_braces", counted_scan)


@pytest.mark.parametrize("length", [json_text.END_CHARS_MAX - 10_000, 1_000_000])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_text_costs_is_bounded(shape, length, monkeypatch):
    text = SHAPES[shape](length)
    work = Work(monkeypatch)
    found = list(objects(text))
    parts = 2  # the end and the front
    assert len(found) <= json_text.LAST_MAX + json_text.FIRST_MAX
    assert work.calls <= parts * (json_text.ATTEMPTS_MAX + 1)
    assert work.chars <= parts * (json_text.PARSED_CHARS_MAX + json_text.END_CHARS_MAX)
    assert work.marks <= parts * 2 * json_text.MARKS_MAX  # each part is scanned twice at most


@given(
    st.lists(
        st.sampled_from(["{", "}", '"', "\\", "\n", "[", "]", '{"a":', "1}", "x", "<think>", "</think>"]), max_size=60
    ),
    st.sampled_from([1, 50, 5000]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_repeated_text_costs_a_bounded_amount(monkeypatch, parts, times):
    with monkeypatch.context() as patch:
        work = Work(patch)
        list(objects("".join(parts) * times))
    assert work.calls <= 2 * (json_text.ATTEMPTS_MAX + 1)
    assert work.marks <= 4 * json_text.MARKS_MAX


@pytest.mark.parametrize("shape", ["letters", "lines", "open braces", "quotes", "broken objects", "spaces"])
def test_an_answer_at_either_end_of_a_long_text_is_found(shape):
    garbage = SHAPES[shape](1_000_000)
    assert {"answer": 1} in objects(f'{{"answer": 1}}\n{garbage}')
    assert {"answer": 1} in objects(f'{garbage}\n{{"answer": 1}}')


def test_an_answer_before_other_objects_is_offered_after_the_last_ones():
    text = '{"answer": 1}' + '{"other": 2}' * 50
    found = list(objects(text))
    assert found[0] == {"other": 2} and {"answer": 1} in found


def test_an_answer_behind_long_thoughts_is_found():
    thoughts = 'It may be {"a": 2}, or "b".\n' * 10_000
    assert first(f'<think>{thoughts}</think>{{"a": 1}}') == {"a": 1}
    assert first(f'{thoughts}</think>{{"a": 1}}') == {"a": 1}
