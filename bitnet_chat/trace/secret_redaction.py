"""Redaction of names, directories and secrets in text. Pure.

Home directories, user and host names, e-mail addresses, keys and tokens are replaced. Text that only resembles a secret
is replaced too: for a bug report, a missing word is better than a disclosed one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_COMMON = """root admin administrator user users ubuntu debian pi guest runner app home localhost local linux windows
macos bitnet chat engine model models main"""
_COMMON_NAMES = frozenset(_COMMON.split())
_HOME = re.compile(r"(?:/(?:home|Users)/|[A-Za-z]:\\+Users\\+)(?P<secret>[^/\\\s\"':;,<>|]{1,100})")
# All repetitions are bounded: megabytes without a blank must not take minutes.
_EMAIL = re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
_LOGIN = re.compile(r"(?<=://)[^\s/@]{1,200}(?=@)")
# Excludes "token: 260", which is frequent in the log of an engine.
_NAMED = re.compile(
    r"(?i)(?<![a-z0-9])(?:[a-z0-9]{1,40}[_-](?:key|token)|apikey|secret|passw(?:or)?d|passphrase|credentials?|authorization)"
    r"[\"']?\s*[=:]\s*[\"']?(?:(?:bearer|basic)\s+)?(?P<secret>(?![<\d.]+\b)[^\s\"',;]{3,})"
)
_BEARER = re.compile(r"(?i)\b(?:bearer|basic)\s+(?P<secret>[A-Za-z0-9._~+/=-]{8,})")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?P<secret>[^-]{1,20000})")
_KNOWN = re.compile(
    r"\b(?:sk|pk|rk|hf|ghp|gho|ghu|ghs|ghr|github_pat|glpat|xox[abprs]|npm|pypi|dop_v1|AKIA|ASIA|AIza|ya29|eyJ)"
    r"[-_.A-Za-z0-9]{12,}"
)
# Upper case, lower case and digits, longer than any word. A hexadecimal hash has one case, and is not a secret.
_RANDOM = re.compile(
    r"(?<![\w/.-])(?=[\w-]*[A-Z])(?=[\w-]*[a-z])(?=[\w-]*[0-9])[A-Za-z0-9_-]{32,}(?![\w/.-])", re.ASCII
)
_SECRET_FLAGS = ("key", "token", "secret", "password", "auth")


@dataclass(frozen=True, slots=True)
class _Find:
    start: int
    end: int
    instead: str


class Redactor:
    """Replaces user names, host names and secrets. Names with fewer than three letters and common names are not
    replaced."""

    def __init__(
        self,
        *,
        homes: Sequence[str] = (),
        users: Sequence[str] = (),
        hosts: Sequence[str] = (),
        secrets: Sequence[str] = (),
    ) -> None:
        """Compile the patterns. ``secrets``: known keys, which are replaced wherever they occur."""
        known = sorted({secret for secret in secrets if len(secret) > 2}, key=len, reverse=True)
        patterns = [(re.compile(re.escape(secret)), "<secret>") for secret in known]
        places = sorted({home.rstrip("/\\") for home in homes}, key=len, reverse=True)
        patterns += [(re.compile(re.escape(place) + r"(?![\w.-])"), "~") for place in places if len(place) > 2]
        patterns += [
            (_HOME, "<user>"),
            (_LOGIN, "<secret>"),
            (_NAMED, "<secret>"),
            (_BEARER, "<secret>"),
            (_PRIVATE_KEY, "<secret>"),
            (_KNOWN, "<secret>"),
            (_RANDOM, "<secret>"),
            (_EMAIL, "<email>"),
        ]
        for names, instead in ((users, "<user>"), (hosts, "<host>")):
            uncommon = {name for name in names if len(name) > 2 and name.lower() not in _COMMON_NAMES}
            wanted = sorted(uncommon, key=len, reverse=True)
            patterns += [
                (re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", re.I), instead) for name in wanted
            ]
        self._patterns = patterns

    def text(self, text: str) -> str:
        """Replace each match by its kind: ``~``, ``<user>``, ``<host>``, ``<email>`` or ``<secret>``."""
        parts, at = [], 0
        for find in self._found(text):
            parts += [text[at : find.start], find.instead]
            at = find.end
        return "".join([*parts, text[at:]])

    def same_length(self, text: str) -> str:
        """Replace each byte of a match by ``x``, for streams whose number of bytes must not change."""
        parts, at = [], 0
        for find in self._found(text):
            secret = text[find.start : find.end].encode("utf-8", "surrogateescape")
            parts += [text[at : find.start], "x" * len(secret)]
            at = find.end
        return "".join([*parts, text[at:]])

    def arguments(self, argv: Sequence[str]) -> list[str]:
        """Redact a command line, including the values of flags whose names indicate a secret."""
        result: list[str] = []
        secret = False
        for argument in argv:
            flag, equals, _ = argument.partition("=")
            names_secret = flag.startswith("-") and flag.lower().endswith(_SECRET_FLAGS)
            if secret and not argument.startswith("-"):
                result.append("<secret>")
            else:
                result.append(f"{flag}=<secret>" if names_secret and equals else self.text(argument))
            secret = names_secret and not equals
        return result

    def value(self, value: object) -> object:
        """Redact a JSON value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(each) for key, each in value.items()}
        return [self.value(each) for each in value] if isinstance(value, list | tuple) else value

    def _found(self, text: str) -> Iterator[_Find]:
        """Yield matches in order without overlaps: the first to begin, and among those the first pattern."""
        finds = []
        for rank, (pattern, instead) in enumerate(self._patterns):
            group = "secret" if "secret" in pattern.groupindex else 0
            finds += [
                (match.start(group), rank, _Find(match.start(group), match.end(group), instead))
                for match in pattern.finditer(text)
            ]
        end = 0
        for _, _, find in sorted(finds, key=lambda each: each[:2]):
            if find.start >= end:
                end = find.end
                yield find
