"""info.json and shard metadata after annotation."""

from __future__ import annotations

import json

import pytest

from tasks.errors import DatasetError
from tasks.language.info import SAY_TOOL, merge_info, merge_info_text, shard_metadata

INFO = {"fps": 10, "features": {"action": {"dtype": "float32", "shape": [2], "names": None}}, "own": {"é": [1, 2.5]}}
OTHER_TOOL = {"type": "function", "function": {"name": "look"}}


def test_features_and_tool_are_added_and_the_rest_stays():
    merged = merge_info({**INFO, "tools": [OTHER_TOOL]}, [])
    assert list(merged["features"]) == ["action", "language_persistent", "language_events"]
    assert merged["features"]["language_events"] == {"dtype": "language", "shape": [1], "names": None}
    assert merged["tools"] == [OTHER_TOOL, SAY_TOOL]
    assert merged["own"] == INFO["own"] and merged["fps"] == 10
    assert merge_info(merged, []) == merged


def test_an_own_say_tool_is_kept():
    own = {"type": "function", "function": {"name": "say", "description": "mine"}}
    assert merge_info({**INFO, "tools": [own]}, [])["tools"] == [own]


def test_dropped_columns_leave_the_features():
    features = {**INFO["features"], "subtask_index": {"dtype": "int64", "shape": [1], "names": None}}
    assert "subtask_index" not in merge_info({**INFO, "features": features}, ["subtask_index"])["features"]


@pytest.mark.parametrize("indent", [None, 2, 4, "\t"])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_formatting_is_kept(indent, end, ascii_only):
    text = json.dumps(INFO, indent=indent, ensure_ascii=ascii_only) + end
    merged = merge_info_text(text, [])
    assert merged == json.dumps(merge_info(INFO, []), indent=indent, ensure_ascii=ascii_only) + end
    assert merge_info_text(merged, []) == merged


def test_broken_info_is_named():
    with pytest.raises(DatasetError, match=r"info\.json"):
        merge_info_text("{", [])


def test_hub_metadata_follows_the_columns():
    hub = {
        "info": {"features": {"a": {"_type": "Image"}, "tools": {"dtype": "string", "_type": "Value"}}},
        "fingerprint": "x",
    }
    got = json.loads(shard_metadata({b"huggingface": json.dumps(hub).encode()}, ["a"])[b"huggingface"])
    features = got["info"]["features"]
    assert list(features) == ["a", "language_persistent", "language_events"] and features["a"] == {"_type": "Image"}
    assert features["language_persistent"]["feature"]["timestamp"] == {"dtype": "float32", "_type": "Value"}
    assert "timestamp" not in features["language_events"]["feature"] and "fingerprint" not in got


def test_pandas_metadata_loses_dropped_columns_and_other_keys_stay():
    pandas = {
        "index_columns": [],
        "columns": [{"name": "a", "field_name": "a"}, {"name": "tools", "field_name": "tools"}],
    }
    got = shard_metadata({b"pandas": json.dumps(pandas).encode(), b"own": b"1", b"ARROW:schema": b"old"}, ["a"])
    assert [c["name"] for c in json.loads(got[b"pandas"])["columns"]] == ["a"]
    assert got[b"own"] == b"1" and b"ARROW:schema" not in got


@pytest.mark.parametrize("broken", [b"{", b"[]", b"{}", b'{"info": 3}'])
def test_metadata_that_cannot_be_read_is_dropped(broken):
    assert shard_metadata({b"huggingface": broken, b"pandas": broken, b"own": b"1"}, ["a"]) == {b"own": b"1"}
