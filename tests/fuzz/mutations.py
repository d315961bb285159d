"""Seeded damage to files: values of wrong type or size, keys gone or misspelt, bytes flipped, cut off or put in."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 1.9, -0.5, 2**31, 2**70, 10**400, 1e308, -1e308, 1e-320),
    *("", "x", "0", "1e-99999999", "nan", "\0", "\u202e", "../..", "/", "é" * 300, [], {}, [0, 1.9], ["x"], {"x": 1}, [[[]]]),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from places(item, (*at, key))


def changed(value: Any, draw: random.Random) -> Any:
    """Return a JSON value with one entry replaced, taken away, renamed, put in or doubled."""
    found = list(places(value))
    # Large tables of small things (a vocabulary) must not hide what stands around them.
    depth = draw.choice(sorted({len(place) for place in found}) or [0])
    if not found:
        return draw.choice(VALUES)
    place = draw.choice([one for one in found if len(one) == depth])
    made = copy.deepcopy(value)
    holder = made
    for part in place[:-1]:
        holder = holder[part]
    kind, key = draw.random(), place[-1]
    if kind < 0.6:
        holder[key] = draw.choice(VALUES)
    elif kind < 0.75:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, draw.choice((holder[key], draw.choice(VALUES))))
    elif kind < 0.9:
        holder[f"{key}s"] = holder.pop(key)
    else:
        holder["unknown"] = draw.choice(VALUES)
    return made


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Return bytes cut off, with some flipped, or with something put in."""
    place = draw.randrange(len(content) + 1)
    kind = draw.randrange(8)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return b""
    if kind == 2:
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    if kind == 3:
        return (
            content[:place]
            + draw.choice((b"\0", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b"\n\t- ", b"NaN"))
            + content[place:]
        )
    head = bytearray(content)
    for _ in range(1 if kind < 6 else 8):
        if head:
            head[draw.randrange(min(len(head), 4096))] = draw.randrange(256)
    return bytes(head)


def damage_json(path: Path, draw: random.Random) -> None:
    """Damage a JSON file, four times in five so that it is JSON still."""
    if draw.random() < 0.2:
        path.write_bytes(damaged(path.read_bytes(), draw))
    else:
        path.write_text(json.dumps(changed(json.loads(path.read_text(encoding="utf-8")), draw)), encoding="utf-8")


def damage_yaml(path: Path, draw: random.Random) -> None:
    """Damage a YAML file, or put a bomb of aliases in."""
    kind = draw.random()
    if kind < 0.25:
        path.write_bytes(damaged(path.read_bytes(), draw))
    elif kind < 0.35:
        bombs = ("a: &a [*a]\n", "a0: &a0 [x,x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 12)))
        path.write_text(path.read_text(encoding="utf-8") + draw.choice(bombs), encoding="utf-8")
    else:
        value = changed(yaml.safe_load(path.read_text(encoding="utf-8")), draw)
        path.write_text(yaml.safe_dump(value), encoding="utf-8")


def damage_bytes(path: Path, draw: random.Random) -> None:
    """Damage a file of any kind."""
    path.write_bytes(damaged(path.read_bytes(), draw))


def damage_safetensors(path: Path, draw: random.Random) -> None:
    """Damage the bytes of a safetensors file, or an entry of its header, with the header's length put right."""
    content = path.read_bytes()
    if draw.random() < 0.4:
        path.write_bytes(damaged(content, draw))
        return
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(changed(json.loads(content[8 : 8 + length]), draw)).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
