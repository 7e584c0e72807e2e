"""Markdown as safe HTML: the parser, the rendering of each kind of token, and the allowed tags. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline, image, link
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from bitnet_chat.server.web.code_html import language_of, whole

_LOOKS, _LEAST = 8, 4_000
"""Limit of the characters scanned for the ends of links: a multiple of the length of the text, plus a constant."""
_ADDRESS = re.compile(r"(https?://|mailto:)[^\s]", re.IGNORECASE)

TAGS = {
    *("p", "br", "hr", "blockquote", "ul", "ol", "li", "em", "strong", "s", "a", "code", "pre", "span", "div"),
    *("h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
_CLEANER = nh3.Cleaner(
    tags=TAGS,
    clean_content_tags={"script", "style"},
    attributes={"a": {"href", "title"}, "pre": {"data-language"}, "ol": {"start"}},
    tag_attribute_values={
        "pre": {"class": {"code", "code more"}},
        "ul": {"class": {"more"}},
        "ol": {"class": {"more"}},
        "a": {"class": {"image"}},
        "div": {"class": {"table"}},
        "th": {"class": {"left", "center", "right"}},
        "td": {"class": {"left", "center", "right"}},
        "span": {"class": set("pcesntkfabdi")},
    },
    set_tag_attribute_values={"a": {"target": "_blank"}, "div": {"tabindex": "0"}, "pre": {"tabindex": "0"}},
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    link_rel="noopener noreferrer nofollow",
    strip_comments=True,
)


class _Renderer(RendererHTML):
    """Rendering of each kind of token."""

    def image(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[index]
        words = self.renderInlineAsText(token.children or [], options, env) or "image"
        return f'<a class="image" href="{escapeHtml(str(token.attrGet("src") or ""))}">{escapeHtml(words)}</a>'

    def fence(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        return whole(tokens[index].content, language_of(tokens[index].info))

    def code_block(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        return whole(tokens[index].content, "")

    def table_open(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        return '<div class="table"><table>'

    def table_close(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        return "</table></div>"

    def heading_open(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        return f"<{_lower(tokens[index].tag)}>"

    def heading_close(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        return f"</{_lower(tokens[index].tag)}>"

    def cell_open(self, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
        side = str(tokens[index].attrGet("style") or "").removeprefix("text-align:")
        classed = f' class="{side}"' if side else ""
        return f"<{tokens[index].tag}{classed}>"

    th_open = td_open = cell_open


def _lower(tag: str) -> str:
    return f"h{min(6, int(tag[1]) + 2)}"


_Rule = Callable[[StateInline, bool], bool]
_SPENT = -1
"""Key in the cache of a parser state (whose keys are positions) for the number of characters scanned for labels."""


def _bounded(rule: _Rule) -> _Rule:
    """Return a rule for links or images with linear cost. The original scans all following text for each bracket that
    is not closed; this one stops if no destination follows, and after a number of scans.
    """

    def bounded(state: StateInline, silent: bool) -> bool:
        spent = state.cache.get(_SPENT, 0)
        if spent > _LOOKS * len(state.src) + _LEAST or state.src.find("](", state.pos) < 0:
            return False
        found = rule(state, silent)
        if not found and state.src[state.pos] in "![":
            state.cache[_SPENT] = state.cache.get(_SPENT, 0) + state.posMax - state.pos
        return found

    return bounded


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough"])
    parser.inline.ruler.at("link", _bounded(link))
    parser.inline.ruler.at("image", _bounded(image))
    parser.disable("reference")
    parser.validateLink = lambda url: _ADDRESS.match(url) is not None  # type: ignore[method-assign]
    return parser


MARKDOWN = _parser()


def clean(html: str) -> str:
    """Return HTML with the generated tags and attributes only, without white space at its ends."""
    return _CLEANER.clean(html).strip()
