"""Which model is offered first."""

from __future__ import annotations

from dataclasses import dataclass

SMALL = "smollm2-135m"


@dataclass(frozen=True, slots=True)
class FirstModel:
    name: str
    size: int
    why: str
    better: tuple[str, int, str] | None = None


def first_model() -> FirstModel:
    return FirstModel(SMALL, 93_000_000, "", ("qwen3-4b", 2_500_000_000, "bitnet-chat models pull qwen3-4b"))
