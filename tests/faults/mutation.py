"""Spoils files, by chance and by kind: bytes, values of a json, members of a zip, chunks of a PNG.

The same generator gives the same file.
"""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    31,
    32,
    64,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**20,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
"""Where counts, offsets and lengths go wrong."""
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    0.5,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    10**30,
    -(10**30),
    2**31,
    2**63,
    2**64,
    "",
    "x",
    "\0",
    "é\u202e",
    "../../x",
    "/etc/passwd",
    "C:\\x",
    "n.a.",
    "1e999",
    "NaN",
    [],
    {},
    [[]],
    [None],
    {"": 0},
    "A" * 5000,
    list(range(300)),
    {"_target_": "os.system", "command": "touch pwned"},
    "${oc.env:HOME}",
    "__class__",
    [[[[[[[[[[]]]]]]]]]],
    "%s%n{0}",
    "[red]x[/",
    "\ud800",
)
Mutate = Callable[[bytes, Sequence[bytes], random.Random], bytes]


def spoiled_bytes(
    content: bytes, others: Sequence[bytes], chance: random.Random, places: Sequence[int] = ()
) -> bytes:
    """One to eight changes anywhere, or mostly at `places`.

    A bit, a byte, a number, a piece cut out, doubled, or taken from another file.
    """
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 8))):
        if not data:
            break
        at = (
            chance.choice(places)
            if places and chance.random() < 0.9
            else chance.randrange(len(data))
        )
        at = min(at, len(data) - 1)
        kind = chance.randrange(9)
        length = min(chance.choice((1, 2, 4, 8, 16, 100)), len(data) - at)
        if kind <= 1:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            data[at] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        elif kind <= 4:
            width = chance.choice((1, 2, 4, 8))
            number = (chance.choice(NUMBERS) * chance.choice((1, 1, -1))) % 2 ** (8 * width)
            data[at : at + width] = number.to_bytes(
                width, chance.choice(("little", "little", "big"))
            )
        elif kind == 5:
            del data[at : at + length]
        elif kind == 6:
            data[at:at] = data[at : at + length] * chance.choice((1, 2, 50))
        elif kind == 7:
            other = chance.choice(others)
            start = chance.randrange(max(1, len(other)))
            data[at : at + length] = other[start : start + length]
        elif chance.random() < 0.2:
            del data[at:]
    return bytes(data)


def spoiled_json(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """One to four values of the tree replaced, left out, doubled or exchanged.

    Sometimes bytes as well.
    """
    if chance.random() < 0.2:
        return spoiled_bytes(content, others, chance)
    tree = json.loads(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        tree = _spoiled_tree(tree, chance)
    text = json.dumps(tree).encode("utf-8", "surrogatepass")
    if chance.random() < 0.005:
        text = b"[" * 100_000 + text
    return text


def _spoiled_tree(tree: Any, chance: random.Random) -> Any:
    node, path = tree, []
    while isinstance(node, dict | list) and node and (not path or chance.random() < 0.85):
        key = chance.choice(list(node)) if isinstance(node, dict) else chance.randrange(len(node))
        path.append((node, key))
        node = node[key]
    if not path:
        return copy.deepcopy(chance.choice(VALUES))
    holder, key = path[-1]
    kind = chance.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == 2:
        holder[key] = [holder[key]]
    elif kind == 3 and isinstance(node, int | float):
        holder[key] = node * chance.choice((-1, 0, 2, 1e9, 1e300, 10**25))
    elif kind == 4 and isinstance(holder, dict):
        holder[chance.choice(("_target_", "", "__class__", "self", "x"))] = copy.deepcopy(
            holder[key]
        )
    else:
        holder[key] = copy.deepcopy(chance.choice(VALUES))
    return tree


def spoiled_zip(
    content: bytes,
    others: Sequence[bytes],
    chance: random.Random,
    extra: Sequence[tuple[str, bytes]] = (),
) -> bytes:
    """A member spoiled, renamed, left out, doubled, compressed or put in.

    Sometimes the bytes of the whole.
    """
    if chance.random() < 0.25:
        return spoiled_bytes(content, others, chance)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = [(entry.filename, file.read(entry)) for entry in file.infolist()]
    at = min(chance.choice((0, 0, 0, chance.randrange(len(members)))), len(members) - 1)
    name, data = members[at]
    kind = chance.randrange(8)
    if kind <= 3:
        members[at] = name, spoiled_bytes(data, [data, *others], chance)
    elif kind == 4:
        members[at] = (
            chance.choice((f"../{name}", f"/{name}", name + "x", name.replace("/", "\\"), "x")),
            data,
        )
    elif kind == 5:
        del members[at]
    elif kind == 6:
        members.insert(at, (name, members[chance.randrange(len(members))][1]))
    elif extra:
        found, payload = chance.choice(extra)
        members[at] = name if found == "*" else found, payload
    return zip_of(members, zipfile.ZIP_DEFLATED if chance.random() < 0.2 else zipfile.ZIP_STORED)


def zip_of(members: Sequence[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip, also with names that occur twice."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name), data, compression)
    return sink.getvalue()


def spoiled_picture(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Mostly the headers; the chunks of a PNG get a new checksum, so that readers accept them."""
    if content[:8] == b"\x89PNG\r\n\x1a\n" and chance.random() < 0.7:
        return _spoiled_png(content, chance)
    return spoiled_bytes(
        content, others, chance, range(min(700, len(content))) if chance.random() < 0.7 else ()
    )


def _spoiled_png(content: bytes, chance: random.Random) -> bytes:
    chunks, at = [], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    which = chance.choice((0, 0, chance.randrange(len(chunks))))
    kind, data = chunks[which]
    action = chance.randrange(5)
    if action <= 2:
        chunks[which] = kind, spoiled_bytes(data, [data or b"x"], chance)
    elif action == 3:
        chunks.insert(
            which,
            chance.choice(
                (
                    (b"tEXt", b"a\0" + b"b" * 99),
                    (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7))),
                    (b"eXIf", data),
                    (kind, data),
                )
            ),
        )
    else:
        del chunks[which]
    body = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return content[:8] + body
