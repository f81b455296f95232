"""The printable character that the HF tokenizers format writes for each byte (GPT-2's table)."""

from __future__ import annotations


def _table() -> dict[str, int]:
    """Printable Latin-1 bytes stand for themselves, the others for characters from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


CHAR_TO_BYTE: dict[str, int] = _table()
BYTE_TO_CHAR: dict[int, str] = {byte: char for char, byte in CHAR_TO_BYTE.items()}


def to_chars(token: bytes) -> str:
    return "".join(BYTE_TO_CHAR[byte] for byte in token)
