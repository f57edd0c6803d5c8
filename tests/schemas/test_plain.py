"""Schemas in plain form: definitions are written out where they are used, and objects are closed."""

from __future__ import annotations

from agentrl.schemas.plain import plain_schema


def test_titles_go_and_values_that_look_like_titles_stay():
    schema = {"title": "X", "properties": {"title": {"title": "Title", "enum": [{"title": "kept"}]}}}
    assert plain_schema(schema) == {
        "properties": {"title": {"enum": [{"title": "kept"}]}},
        "additionalProperties": False,
    }


def test_a_definition_is_written_out_where_it_is_used():
    size = {"properties": {"width": {"type": "integer"}}, "additionalProperties": True}
    schema = {"items": {"$ref": "#/$defs/Size", "description": "Of the box."}, "$defs": {"Size": size}}
    assert plain_schema(schema) == {"items": {**size, "description": "Of the box."}}


def test_definitions_that_refer_to_themselves_through_others_stay():
    tree = {"type": "array", "items": {"$ref": "#/$defs/Branch"}}
    branch = {"anyOf": [{"$ref": "#/$defs/Tree"}, {"$ref": "#/$defs/Leaf"}]}
    definitions = {"Tree": tree, "Branch": branch, "Leaf": {"title": "Leaf", "type": "null"}}
    assert plain_schema({"$ref": "#/$defs/Tree", "$defs": definitions}) == {
        "$ref": "#/$defs/Tree",
        "$defs": {"Tree": tree, "Branch": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]}},
    }
