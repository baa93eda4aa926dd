"""Inputs without libFuzzer: those of the corpus, changed at random, as a seed says."""

import random
from itertools import count

_INTERESTING = b"\0\1\n\r \t.:=+-/\"'<>{}[]%,;@\x7f\x80\xff0A"


def mutations(target, corpus, seed, reached=lambda: 0):
    """Yield inputs for ever: those of the corpus first, then changed and joined ones.

    ``reached`` returns how many lines were reached for the first time since its last call.  An
    input that has reached any is changed further: half of the inputs come from such ones.
    """
    yield from corpus
    chance = random.Random(seed)
    pool, found = [b"", *corpus], []
    reached()
    for number in count():
        data = bytearray(chance.choice(found if found and chance.random() < 0.5 else pool))
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            _change(data, pool, target.words, chance)
        result = bytes(data[: target.max_octets])
        if number % 16 == 0:
            # Some changes pile up.
            pool[chance.randrange(len(pool))] = result
        yield result
        if reached():
            found.append(result)


def _change(data, pool, words, chance):
    """Change octets in place: one, a part, or the end."""
    at, kind = chance.randint(0, len(data)), chance.randrange(7)
    end = min(len(data), at + chance.choice((1, 2, 4, 16, 64)))
    if kind == 0:
        data[at:end] = bytes([chance.randrange(256)])
    elif kind == 1:
        data[at:end] = bytes([chance.choice(_INTERESTING)])
    elif kind == 2:
        del data[at:end]
    elif kind == 3:
        data[at:at] = data[at:end] * chance.choice((1, 2, 20))
    elif kind == 4:
        data[at:at] = chance.choice(words or (b"\n",))
    elif kind == 5:
        other = chance.choice(pool)
        cut = chance.randint(0, len(other))
        data[at:end] = other[cut : cut + chance.choice((4, 16, 64, len(other)))]
    elif at < len(data):
        data[at] ^= 1 << chance.randrange(8)
