"""The schema that servers are held to, and the rungs of asking for JSON."""

from __future__ import annotations

import json

from tasks.answers.structured import OFF, Dialect, read, response_format, schema
from tasks.questions import BboxQA, Count, Description, Memory, Segments


def test_schema_keeps_bounds_and_fields_called_like_keywords_but_no_titles():
    text = json.dumps(schema(Segments))
    assert '"maxItems": 200' in text and '"title"' not in text
    assert schema(Description)["properties"]["description"]["maxLength"] == 6000
    assert "description" not in schema(Description)  # the docstring is not for the model
    assert schema(BboxQA)["$defs"]["Detection"]["properties"]["bbox"]["minItems"] == 4


def test_response_formats_go_from_schema_to_none():
    formats = [response_format(Count, rung) for rung in range(OFF + 1)]
    assert formats[0]["json_schema"] == {"name": "Count", "schema": schema(Count)}
    assert formats[1:] == [{"type": "json_object"}, None]


def test_the_last_object_that_fits_the_answer_wins():
    answer, problem = read('{"label": "cup", "count": 2}\nNote: {"sure": true}', Count)
    assert (answer.count, problem) == (2, "")


def test_a_misfit_is_explained():
    answer, problem = read('{"label": "cup", "count": "two"}', Count)
    assert answer is None and "count" in problem and "integer" in problem
    assert read("", Count)[1] == "the reply is empty"
    assert read("two", Count)[1] == "the reply holds no JSON object"


def test_nan_and_lone_surrogates_do_not_pass():
    assert read('{"subtasks": [{"text": "a", "start": NaN, "end": 1}]}', Segments)[0] is None
    assert read('{"memory": "\\ud800"}', Memory)[0] is None


def test_a_refused_rung_is_left_once_for_all_answers():
    dialect = Dialect("test")
    for _ in range(16):  # requests in flight meet the same refusal
        dialect.refused(0, Count)
    assert dialect.rung(Count) == dialect.rung(Memory) == 1


def test_a_rung_that_served_others_is_left_for_one_answer_only():
    dialect = Dialect("test")
    dialect.proved(0)
    dialect.refused(0, Count)
    assert (dialect.rung(Count), dialect.rung(Memory)) == (1, 0)
