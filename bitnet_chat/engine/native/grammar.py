"""Conversion of JSON schemas to grammars (GBNF), for a library that does not read schemas. Pure.

As in llama.cpp, the properties of an object are generated in the order of the schema. Other properties are allowed only
if the schema names no properties, or by ``additionalProperties``. A schema with an unsupported keyword is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from bitnet_chat.errors import GrammarSchemaError

_RULES = {
    "value": "object | array | string | number | boolean | null",
    "object": '"{" space ( member ( comma member )* space )? "}"',
    "member": "string colon value",
    "array": '"[" space ( value ( comma value )* space )? "]"',
    "string": r'"\"" char* "\""',
    "char": r'[^"\\\x00-\x1f\x7f] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} )',
    # Limited, because a small model may repeat digits or spaces without end.
    "number": 'integer ( "." [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,3} )?',
    "integer": '"-"? ( "0" | [1-9] [0-9]{0,15} )',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "comma": '"," space',
    "colon": '":" space',
    "space": r'( " " | "\n" [ \t]{0,20} )?',
}
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "format", "deprecated", "readOnly", "writeOnly"}
    | {"$schema", "$id", "$comment", "$defs", "definitions"}
)
"""Keywords that do not restrict the value."""
_PLAIN = r'"\\\x00-\x1f\x7f'
"""Characters that must be escaped in JSON strings, and DEL, for a character class of GBNF."""
_NEEDS_ESCAPE = re.compile(r'["\\\x00-\x1f\x7f]')
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def of_schema(schema: Mapping[str, Any], also: Collection[str] = ()) -> str:
    """Return the grammar of the values that ``schema`` allows; ``{}`` allows any object. Raises GrammarSchemaError.

    ``also``: further keywords, which are ignored. It serves to check a schema for a library that supports them itself.
    """
    return _Grammar(schema, also).text()


class _Grammar:
    def __init__(self, schema: Mapping[str, Any], also: Collection[str]) -> None:
        self._schema, self._ignored = schema, _ANNOTATIONS | set(also)
        self._rules = dict(_RULES)
        self._references: dict[str, str] = {}

    def text(self) -> str:
        """Return the grammar."""
        self._rules["root"] = self._any(self._schema) if self._schema else "object"
        return "\n".join(f"{name} ::= {body}" for name, body in self._rules.items())

    def _rule(self, body: str) -> str:
        """Add a rule and return its name."""
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def _any(self, schema: Any) -> str:
        if schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            raise GrammarSchemaError(f"not a schema that allows a value: {json.dumps(schema)[:80]}")
        wanted = {key: value for key, value in schema.items() if key not in self._ignored}
        if not wanted:
            return "value"
        if "$ref" in wanted:
            return self._reference(wanted)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in wanted:
                return self._choice(key, wanted)
        if "const" in wanted or "enum" in wanted:
            values = wanted.pop("enum") if "enum" in wanted else [wanted.pop("const")]
            self._refuse(wanted, {"type"})
            return self._rule(" | ".join(map(_literal, _list("enum", values))))
        kinds = wanted.pop("type", None) or _implied(wanted)
        if isinstance(kinds, list):
            return self._rule(" | ".join(self._typed(kind, self._of_kind(kind, wanted)) for kind in kinds))
        return self._typed(kinds, wanted)

    def _of_kind(self, kind: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a schema for several types that applies to the type ``kind``."""
        others = {key for keys in (_KEYWORDS[each] for each in _TYPES if each != kind) for key in keys}
        return {key: value for key, value in schema.items() if key in _KEYWORDS.get(kind, ()) or key not in others}

    def _typed(self, kind: Any, schema: Mapping[str, Any]) -> str:
        if kind not in _TYPES:
            raise GrammarSchemaError(f"unknown type in a schema: {json.dumps(kind)[:80]}")
        self._refuse(schema, _KEYWORDS[kind])
        match kind:
            case "object" if schema:
                return self._object(schema)
            case "array" if schema:
                return self._array(schema)
            case "string" if schema:
                return self._rule(f'"\\"" char{_range(schema, "minLength", "maxLength")} "\\""')
        return str(kind)

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties, required = schema.get("properties", {}), _list("required", schema.get("required", []))
        if not isinstance(properties, Mapping):
            raise GrammarSchemaError("properties of a schema must be an object")
        more = schema.get("additionalProperties", not properties)
        names = [*properties, *(name for name in required if name not in properties)]
        if more is False and len(names) > len(properties):
            raise GrammarSchemaError(f"the property {names[-1]!r} is required and not allowed")
        extra = self._rule(f"{self._other_key(names)} colon {self._any(more)}") if more is not False else ""
        # From the last property to the first: ``rest`` is what may follow a property, ``begin`` what may begin the
        # object.
        rest = self._rule(f"( comma {extra} )*") if extra else self._rule('""')
        begin = self._rule(f"( {extra} ( comma {extra} )* )?") if extra else rest
        for name in reversed(names):
            item = f"{_literal(name)} colon {self._any(properties.get(name, more))}"
            if name in required:
                begin, rest = self._rule(f"{item} {rest}"), self._rule(f"comma {item} {rest}")
            else:
                begin = self._rule(f"{item} {rest} | {begin}")
                rest = self._rule(f"( comma {item} )? {rest}")
        return self._rule(f'"{{" space {begin} space "}}"')

    def _other_key(self, names: Collection[str]) -> str:
        """Return the rule of a key other than ``names``. It has no escapes, with which one of them could be written."""
        return (
            f'"\\"" {self._rest({name for name in names if not _NEEDS_ESCAPE.search(name)})} "\\""'
            if names
            else "string"
        )

    def _rest(self, taken: Collection[str]) -> str:
        """Return the rule of all texts without escapes other than ``taken``."""
        starts = sorted({text[0] for text in taken if text})
        options = [f"[^{_PLAIN}{''.join(map(_code, starts))}] [^{_PLAIN}]*"]
        for start in starts:
            options.append(f"[{_code(start)}] {self._rest({text[1:] for text in taken if text[:1] == start})}")
        return self._rule(" | ".join(options if "" in taken else ['""', *options]))

    def _array(self, schema: Mapping[str, Any]) -> str:
        item = self._any(schema.get("items", True))
        least, most = _limits(schema, "minItems", "maxItems")
        if most == 0:
            return self._rule('"[" space "]"')
        rest = f"( comma {item} ){{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        items = f"{item} {rest}" if most != 1 else item
        return self._rule(f'"[" space {items} space "]"' if least else f'"[" space ( {items} space )? "]"')

    def _choice(self, key: str, schema: dict[str, Any]) -> str:
        options = _list(key, schema.pop(key))
        self._refuse(schema, set())
        if key == "allOf" and len(options) != 1:
            raise GrammarSchemaError("several schemas in allOf are not supported")
        return self._rule(" | ".join(map(self._any, options)))

    def _reference(self, schema: dict[str, Any]) -> str:
        path = schema.pop("$ref")
        self._refuse(schema, set())
        if path not in self._references:
            self._references[path] = name = self._rule("")  # first, because the target may refer to itself
            self._rules[name] = self._any(self._target(path))
        return self._references[path]

    def _target(self, path: Any) -> Any:
        found: Any = self._schema
        if not isinstance(path, str) or not path.startswith("#"):
            raise GrammarSchemaError(f"the reference {json.dumps(path)[:80]} is not within the schema")
        for step in path.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or step not in found:
                raise GrammarSchemaError(f"the reference {path!r} has no target")
            found = found[step]
        return found

    def _refuse(self, schema: Mapping[str, Any], known: Any) -> None:
        if unknown := sorted(schema.keys() - set(known)):
            raise GrammarSchemaError(
                f"this library does not support {', '.join(map(repr, unknown))} in a JSON schema here"
            )


_KEYWORDS: dict[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "minItems", "maxItems"),
    "string": ("minLength", "maxLength"),
    **dict.fromkeys(("number", "integer", "boolean", "null"), ()),
}


def _implied(schema: Mapping[str, Any]) -> str:
    """Return the type of a schema without ``type``, by its keywords."""
    for kind, keys in _KEYWORDS.items():
        if any(key in schema for key in keys):
            return kind
    raise GrammarSchemaError(f"this schema names no type: {json.dumps(schema)[:80]}")


def _code(character: str) -> str:
    """Return a character as it is written in a character class of GBNF."""
    return f"\\U{ord(character):08x}"


def _literal(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _list(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or (not value and key != "required"):
        raise GrammarSchemaError(f"{key} of a schema must be a list")
    return value


def _limits(schema: Mapping[str, Any], least: str, most: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    if not isinstance(low, int) or not isinstance(high, int | None) or low < 0 or (high is not None and high < low):
        raise GrammarSchemaError(f"{least} and {most} of a schema must be integers in ascending order")
    return low, high


def _range(schema: Mapping[str, Any], least: str, most: str) -> str:
    low, high = _limits(schema, least, most)
    return f"{{{low},{'' if high is None else high}}}"
