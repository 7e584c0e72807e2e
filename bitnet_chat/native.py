"""How the files of programs begin. Pure."""

from __future__ import annotations

MAGIC = (
    b"\x7fELF",
    b"MZ",
    *(number.to_bytes(4, order) for number in (0xFEEDFACE, 0xFEEDFACF, 0xCAFEBABE) for order in ("big", "little")),
)
"""ELF, PE, and Mach-O for one processor or several. What begins otherwise is a script, or no program."""


def is_native(head: bytes) -> bool:
    """``head``: the first bytes of a file."""
    return head.startswith(MAGIC)
