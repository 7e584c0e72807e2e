"""JSON as a grammar (GBNF), for a library that has none of its own. Pure."""

from __future__ import annotations

RULES = {
    "value": "object | array | string | number | boolean | null",
    "object": '"{" space ( member ( space "," space member )* space )? "}"',
    "member": 'string space ":" space value',
    "array": '"[" space ( value ( space "," space value )* space )? "]"',
    "string": r'"\"" char* "\""',
    "char": r'[^"\\\x00-\x1f\x7f] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] )',
    # A model that may write any number of digits or blanks may write nothing else.
    "number": 'integer ( "." [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,3} )?',
    "integer": '"-"? ( "0" | [1-9] [0-9]{0,15} )',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "space": r'( " " | "\n" [ \t]{0,20} )?',
}

ANY_JSON = "\n".join(f"{name} ::= {body}" for name, body in {"root": "value", **RULES}.items())
