"""JSON as a grammar (GBNF), for a library that has none of its own. Pure."""

from __future__ import annotations

RULES = {
    "value": "object | array | string | number | boolean | null",
    "object": '"{" space ( member ( space "," space member )* space )? "}"',
    "member": 'string space ":" space value',
    "array": '"[" space ( value ( space "," space value )* space )? "]"',
    "string": r'"\"" char* "\""',
    "char": r'[^"\\\x00-\x1f\x7f] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] )',
    "number": '"-"? ( "0" | [1-9] [0-9]* ) ( "." [0-9]+ )? ( [eE] [-+]? [0-9]+ )?',
    "integer": '"-"? ( "0" | [1-9] [0-9]* )',
    "boolean": '"true" | "false"',
    "null": '"null"',
    # A model that may write any number of blanks may write nothing else.
    "space": r'( " " | "\n" [ \t]? [ \t]? [ \t]? [ \t]? [ \t]? [ \t]? [ \t]? [ \t]? )?',
}

ANY_JSON = "\n".join(f"{name} ::= {body}" for name, body in {"root": "value", **RULES}.items())
