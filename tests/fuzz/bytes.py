"""Changes to bytes that were right."""

from __future__ import annotations

import random
from collections.abc import Sequence


def mutated(chance: random.Random, text: bytes, words: Sequence[bytes]) -> bytes:
    """`text` after a few changes: bytes flipped, `words` put in or over others, parts doubled, moved, taken out, cut off."""
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 1, 2, 10, 100)))
        part = text[start:end]
        kind = chance.randrange(6)
        if kind == 0:
            part = chance.randbytes(len(part))
        elif kind == 1:
            part = chance.choice(words)
        elif kind == 2:
            part = part + chance.choice(words)
        elif kind == 3:
            part = part * 2
        elif kind == 4:
            other = chance.randrange(len(text) + 1)
            part = text[other : other + 50]
        else:
            part = b""
        text = text[:start] + part + text[end:]
    return text[: chance.randrange(len(text) + 1)] if chance.random() < 0.05 else text
