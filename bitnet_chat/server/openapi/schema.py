"""Building blocks of JSON schemas for the OpenAPI document. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
ANYTHING: Schema = {}
NULL: Schema = {"type": "null"}
OBJECT: Schema = {"type": "object"}
AMOUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": ["number", "null"]}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def between(least: float, most: float, schema: Schema = NUMBER) -> Schema:
    return {**schema, "minimum": least, "maximum": most}


def one_of(*values: object) -> Schema:
    return {"enum": list(values)}


def array(items: Schema, **more: object) -> Schema:
    return {"type": "array", "items": items, **more}


def any_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def nullable(schema: Schema) -> Schema:
    """The schema or null, which means the same as absence."""
    if schema in (ANYTHING, NULL):
        return schema
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return any_of(schema, NULL)


def request_object(needed: Mapping[str, Schema], more: Mapping[str, Schema]) -> Schema:
    """An object of a request: unknown names are refused, and null means the same as absence."""
    return {**open_object(needed, more), "additionalProperties": False}


def open_object(needed: Mapping[str, Schema], more: Mapping[str, Schema]) -> Schema:
    """The same with unknown names ignored."""
    return {
        "type": "object",
        "properties": {**needed, **{name: nullable(schema) for name, schema in more.items()}},
        "required": list(needed),
    }


def reply_object(needed: Mapping[str, Schema], more: Mapping[str, Schema] | None = None) -> Schema:
    """An object of a reply: later versions may add names."""
    return {"type": "object", "properties": {**needed, **(more or {})}, "required": list(needed)}


def body(schema: Schema, *, required: bool = True) -> Schema:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def answer(description: str, schema: Schema | None = None, *, kind: str = "application/json") -> Schema:
    return {"description": description, **({} if schema is None else {"content": {kind: {"schema": schema}}})}


def errors(schema: Schema, descriptions: Mapping[int, str], *statuses: int) -> dict[str, Schema]:
    return {str(status): answer(descriptions[status], schema) for status in statuses}


def parameter(place: str, name: str, schema: Schema, description: str) -> Schema:
    return {
        "in": place,
        "name": name,
        "required": place == "path",
        "schema": schema,
        "description": description,
    }


def operation(
    id: str, tag: str, summary: str, responses: Mapping[str, Schema], *parameters: Schema, body: Schema | None = None
) -> Schema:
    made: Schema = {"operationId": id, "tags": [tag], "summary": summary, "responses": dict(responses)}
    if parameters:
        made["parameters"] = list(parameters)
    if body is not None:
        made["requestBody"] = body
    return made


def names(schemas: Sequence[str]) -> Schema:
    """Any of several schemas of the document."""
    return {"oneOf": [ref(name) for name in schemas]}
