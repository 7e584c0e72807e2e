"""Code is coloured while its lines come, by what Pygments knows of the language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from styled import marked, plain, style

from bitnet_chat.markdown.language import find

SNIPPETS = {
    "python": 'def f(x: int):\n    """Doc,\n    it\'s"""\n    return f\'{x}\' if x else "a\\"b" + 1.5  # no\n',
    "js": "const a = `x\n${b}`; /* c\n d */ let r = 'it\\'s'; // e\n",
    "bash": "for f in *.txt; do echo \"it's $f\" | grep -v 'x' # c\ndone\n",
    "c": "#include <x.h>\nint main(void) { char c = '\"'; /* a\n b */ return 0; }\n",
    "rust": "fn f<'a>(x: &'a str) -> i32 { let c = '\"'; 0 } // x\n",
    "json": '{"a": [1, true, "it\'s"]}\n',
    "yaml": 'key: it\'s # c\nb: "x"\n',
    "html": '<div class="a b">It\'s <!-- x\ny --> "z"</div>\n',
    "sql": "SELECT 'it''s' FROM t -- x\n",
    "diff": "--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new\n same\n",
}


def code(language: str, text: str) -> str:
    """The lines within a fence."""
    return marked(style(f"```{language}\n{text}```\n")).removeprefix(f"{{2:```{language}}}\n").removesuffix("{2:```}\n")


@pytest.mark.parametrize(
    ("language", "text", "shown"),
    [
        ("python", "def f(x):", "{35:def} {1:f}(x):"),
        ("python", "@cached\nclass A: pass", "@{35:cached}\n{35:class} {1:A}: {35:pass}"),
        ("python", "x = None and 1.5e3", "x = {36:None} {35:and} {36:1.5e3}"),
        ("python", '"""a\nb""" c', '{32:"""a}\n{32:b"""} c'),
        ("python", "s = 'a\\'b' # c 'd'", "s = {32:'a\\'b'} {2:# c 'd'}"),
        ("python", "s = 'open\nafter", "s = {32:'open}\nafter"),
        ("python", "a = '' + \"\"", "a = {32:''} + {32:\"\"}"),
        ("python", "print(self.print)", "{36:print}({36:self}.print)"),
        ("js", "`a\n${b}` + c", "{32:`a}\n{32:${b}`} + c"),
        ("js", "a /* b\nc */ d // e", "a {2:/* b}\n{2:c */} d {2:// e}"),
        ("bash", 'echo "it\'s" $HOME a#b # c', '{36:echo} {32:"it\'s"} ${36:HOME} a#b {2:# c}'),
        ("c", "#include <x>\nchar c = '\"'; int d;", "#{35:include} <x>\n{36:char} c = {32:'\"'}; {36:int} d;"),
        ("rust", "fn f<'a>() {}", "{35:fn} {1:f}<'a>() {}"),
        ("json", '{"a": [1, true]}', '{{32:"a"}: [{36:1}, {36:true}]}'),
        ("yaml", "key: it's # c", "{35:key}: it's {2:# c}"),
        ("html", '<p id="x">it\'s</p><!-- "', '<{35:p} id={32:"x"}>it\'s</{35:p}>{2:<!-- "}'),
        ("sql", "select 'a''b' -- c", "{35:select} {32:'a''b'} {2:-- c}"),
        ("diff", "+a\n-b\n@@ 1\n c", "{32:+a}\n{31:-b}\n{36:@@ 1}\n c"),
        ("php", 'echo $a . "b"; // c', '{35:echo} ${36:a} . {32:"b"}; {2:// c}'),
        ("lua", "local a = [[b]] -- c", "{35:local} a = [[b]] {2:-- c}"),
        ("css", "/* a */ b { color: red; }", "{2:/* a */} "),
        ("PYTHON title=x", "None", "{36:None}"),
        ("text", "if None", "if None"),
        ("", "if None", "if None"),
        ("nothing-like-this", 'if None "a" # b', 'if None "a" # b'),
    ],
)
def test_looks(language: str, text: str, shown: str) -> None:
    assert code(language, text + "\n").startswith(shown)


def test_a_very_long_word_is_plain() -> None:
    assert code("python", f"{'x' * 30} None{'e' * 30} None\n") == f"{'x' * 30} None{'e' * 30} {{36:None}}\n"


@pytest.mark.parametrize("language", SNIPPETS)
def test_what_comes_out_does_not_depend_on_the_parts(language: str) -> None:
    source = f"```{language}\n{SNIPPETS[language]}```\nafter"
    assert style(*source) == style(source) and plain(style(source)) == source
    for size in range(2, 9):
        assert style(*(source[at : at + size] for at in range(0, len(source), size))) == style(source)


@given(
    st.sampled_from(sorted(SNIPPETS)),
    st.lists(st.sampled_from(sorted("".join(SNIPPETS.values()))) | st.text(max_size=3)),
)
def test_any_text_in_any_language(language: str, parts: list[str]) -> None:
    from bitnet_chat.text.sanitize import visible

    source = f"````{language}\n{visible(''.join(parts))}"
    assert plain(style(source)) == source
    assert style(*source) == style(source)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("~~~py\nif\n```\n~~~\nif", "{2:~~~py}\n{35:if}\n```\n{2:~~~}\nif"),
        ("````\n```\n````\n*a*", "{2:````}\n```\n{2:````}\n{2:*}{3:a}{2:*}"),
        ("```py\nif", "{2:```py}\n{35:if}"),
        ("```py\nif\n``", "{2:```py}\n{35:if}\n``"),
        ("```py\nif\n```", "{2:```py}\n{35:if}\n{2:```}"),
        ("```\na\n``` b\n```  \n*c*", "{2:```}\na\n``` b\n{2:```  }\n{2:*}{3:c}{2:*}"),
        ("- ```py\n  if\n  ```\n*a*", "{35:-} {2:```py}\n  {35:if}\n{2:  ```}\n{2:*}{3:a}{2:*}"),
        ("   ```\n   a\n      ```\nx", "   {2:```}\n   a\n{2:      ```}\nx"),
        ("```\n    ```\nx", "{2:```}\n    ```\nx"),
        ("> ```py\n> if\n> ```\n> a", "{2:>} {2:```py}\n{2:>} {35:if}\n{2:>}{2: ```}\n{2:>} {3:a}"),
        ("> ```py\n> if\nif", "{2:>} {2:```py}\n{2:>} {35:if}\nif"),
        ("```py `x` y", "{2:```py }{36:`x` y}"),
        ("``` ```", "{2:``` ```}"),
    ],
)
def test_fences(text: str, shown: str) -> None:
    assert marked(style(text)).replace("}{2:", "") == shown.replace("}{2:", "")
    assert plain(style(text)) == text


def test_languages_are_learnt_once() -> None:
    assert find("python title=x") is find("Python") is not None
    assert find("{.python .x}") is find("python")
    assert find("") is None and find("x" * 1000) is None
