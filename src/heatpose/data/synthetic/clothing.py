"""Flesh and random clothes for a pose: a list of tapered capsules, ready to be drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from heatpose.data.synthetic.figure import Points, Pose

_SKIN = np.array(
    [[255, 226, 200], [236, 188, 150], [205, 150, 110], [150, 100, 68], [92, 60, 42]], np.float64
)
_HAIR = np.array(
    [[25, 20, 20], [70, 45, 30], [120, 75, 40], [200, 165, 95], [150, 150, 155], [150, 60, 30]],
    np.float64,
)

_FRONT, _BACK = np.array([255.0, 130.0, 10.0]), np.array([40.0, 90.0, 255.0])
Radii = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """A tapered capsule of a body.

    From `start` to `end` (f64[3], as in `Pose`), `radii` in body heights.

    `owner` is one of `render.PARTS`. Parts of equal `depth` are one surface, shaded together; a
    larger depth is drawn later. `flat` parts (eyes, badges) are not shaded.
    """

    owner: str
    start: Points
    end: Points
    radii: Radii
    colour: Points
    depth: float
    flat: bool = False


def random_colour(rng: np.random.Generator) -> Points:
    """f64[3] in 0..255, anything from near black through vivid to near white."""
    grey = rng.uniform(25, 235)
    return np.clip(grey + rng.uniform(0, 1.1) * rng.uniform(-100, 100, 3), 8, 250)


def dress(pose: Pose, rng: np.random.Generator) -> list[Part]:
    """Puts flesh and random clothes on a pose.

    Left can be told from right by what survives a mirror: the face or its absence, the way the feet
    point, which limbs are nearer and brighter, an orange badge on the chest and a blue one on the
    back. Nothing is worn on one side alone, because training mirrors images and swaps the names
    with them.
    """
    between = rng.uniform(0, len(_SKIN) - 1)
    skin = np.array([np.interp(between, range(len(_SKIN)), _SKIN[:, i]) for i in range(3)])
    shirt, trousers, shoes = random_colour(rng), random_colour(rng), random_colour(rng)
    return [
        *_trunk(pose, rng, skin, shirt, trousers),
        *_head(pose, rng, skin),
        *_arms(pose, rng, skin, shirt),
        *_legs(pose, rng, skin, trousers, shoes),
    ]


def _trunk(
    pose: Pose, rng: np.random.Generator, skin: Points, shirt: Points, trousers: Points
) -> list[Part]:
    at, g = pose.points, pose.build.girth
    depth = _middle(at["neck"], at["pelvis"]) - 0.015  # arms that hang beside it are drawn after it
    throat, seat = (at["skull"] + at["chin"]) / 2, float(at["pelvis"][2]) - 0.02
    parts = [
        Part("pelvis", at["left_hip"], at["right_hip"], (0.052 * g, 0.052 * g), trousers, seat),
        Part(
            "head",
            at["neck"],
            throat,
            (0.030, 0.028),
            skin * 0.9,
            min(depth, float(throat[2])) - 0.01,
        ),
        Part("torso", at["chest"], at["waist"], (0.062 * g, 0.056 * g), shirt, depth),
        Part(
            "torso", at["left_shoulder"], at["right_shoulder"], (0.034 * g, 0.034 * g), shirt, depth
        ),
    ]
    for side in ("left", "right"):
        inner, hip = 0.86 * at[f"{side}_shoulder"] + 0.14 * at["chest"], at[f"{side}_hip"]
        parts.append(
            Part("torso", inner, 0.8 * hip + 0.2 * inner, (0.040 * g, 0.046 * g), shirt, depth)
        )
    return parts + _print_on(pose, rng, depth)


def _print_on(pose: Pose, rng: np.random.Generator, depth: float) -> list[Part]:
    """Stripes on some shirts; on all of them a badge on the chest and another on the back."""
    at, parts = pose.points, []
    second = random_colour(rng)
    if rng.random() < 0.3:
        for t in (0.18, 0.36, 0.54, 0.72):
            left = at["left_shoulder"] * (1 - t) + at["left_hip"] * t
            right = at["right_shoulder"] * (1 - t) + at["right_hip"] * t
            parts.append(Part("torso", left, right, (0.012, 0.012), second, depth, flat=True))
    inside = _middle(at["chest"], at["waist"])
    down = (at["pelvis"] - at["neck"]) * 0.09
    for name, colour in (("breast", _FRONT), ("back", _BACK)):
        if at[name][2] > inside + 0.015:
            start, end = at[name] - down, at[name] + down
            parts.append(Part("torso", start, end, (0.022, 0.022), colour, depth, flat=True))
    return parts


def _middle(start: Points, end: Points) -> float:
    return float(start[2] + end[2]) / 2


def _head(pose: Pose, rng: np.random.Generator, skin: Points) -> list[Part]:
    at, s = pose.points, pose.build.head
    hair = _HAIR[int(rng.integers(len(_HAIR)))] * rng.uniform(0.8, 1.15)
    white, dark, lips = np.full(3, 245.0), np.array([25.0, 20, 20]), skin * (0.72, 0.45, 0.45)

    def ball(
        owner: str, first: str, last: str, wide: Radii, colour: Points, flat: bool = False
    ) -> Part:
        start, end = at[first], at[last]
        return Part(
            owner, start, end, (wide[0] * s, wide[1] * s), colour, _middle(start, end), flat
        )

    parts = [
        ball("head", "skull", "chin", (0.060, 0.047), skin),
        ball("head", "hair_top", "hair_back", (0.066, 0.058), hair),
        ball("nose", "nose", "nose", (0.012, 0.012), skin * (1.02, 0.84, 0.80)),
        ball("head", "mouth_left", "mouth_right", (0.006, 0.006), lips, flat=True),
    ]
    for eye, ear in (("left_eye", "left_ear"), ("right_eye", "right_ear")):
        parts.append(ball(ear, ear, ear, (0.015, 0.015), skin * 0.88))
        parts.append(ball(eye, eye, eye, (0.0145, 0.0145), white, flat=True))
        parts.append(ball(eye, eye, eye, (0.008, 0.008), dark, flat=True))
    if rng.random() < 0.4:
        parts.append(_long_hair(pose, ball("head", "hair_back", "hair_end", (0.062, 0.045), hair)))
    return parts


def _long_hair(pose: Pose, hair: Part) -> Part:
    """Hair that is drawn behind the neck when seen from the front, and over the back."""
    at = pose.points
    trunk = _middle(at["neck"], at["pelvis"])
    if at["nose"][2] < at["skull"][2] + 0.01:
        return replace(hair, depth=max(trunk, hair.depth))
    return replace(hair, depth=min(trunk, hair.depth, float(at["skull"][2])) - 0.04)


def _arms(pose: Pose, rng: np.random.Generator, skin: Points, shirt: Points) -> list[Part]:
    at, g = pose.points, pose.build.girth
    # In segments: sleeveless, short, to the elbow, long.
    sleeve = float(rng.choice((0.0, 0.55, 1.0, 2.0), p=(0.15, 0.45, 0.1, 0.3)))
    cover = shirt if sleeve > 1 else skin
    parts = []
    for side in ("left", "right"):
        shoulder, elbow = at[f"{side}_shoulder"], at[f"{side}_elbow"]
        wrist, hand = at[f"{side}_wrist"], at[f"{side}_hand"]
        upper, fore = _middle(shoulder, elbow), _middle(elbow, wrist) + 1e-3
        parts.append(
            Part(f"{side}_upper_arm", shoulder, elbow, (0.033 * g, 0.027 * g), skin, upper)
        )
        if sleeve:
            end = shoulder + min(sleeve, 1.0) * (elbow - shoulder)
            parts.append(
                Part(f"{side}_upper_arm", shoulder, end, (0.036 * g, 0.031 * g), shirt, upper)
            )
        parts.append(Part(f"{side}_forearm", wrist, hand, (0.020 * g, 0.024 * g), skin, fore))
        parts.append(Part(f"{side}_forearm", elbow, wrist, (0.027 * g, 0.020 * g), cover, fore))
    return parts


def _legs(
    pose: Pose, rng: np.random.Generator, skin: Points, trousers: Points, shoes: Points
) -> list[Part]:
    at, g = pose.points, pose.build.girth
    shorts = rng.random() < 0.35
    cover = skin if shorts else trousers
    parts = []
    for side in ("left", "right"):
        hip, knee, ankle = at[f"{side}_hip"], at[f"{side}_knee"], at[f"{side}_ankle"]
        heel, toe = at[f"{side}_heel"], at[f"{side}_toe"]
        thigh, shin = _middle(hip, knee) - 0.005, _middle(knee, ankle)
        parts.append(Part(f"{side}_thigh", hip, knee, (0.052 * g, 0.038 * g), cover, thigh))
        if shorts:
            hem = hip + 0.75 * (knee - hip)
            parts.append(Part(f"{side}_thigh", hip, hem, (0.054 * g, 0.046 * g), trousers, thigh))
        parts.append(Part(f"{side}_shin", knee, ankle, (0.037 * g, 0.024 * g), cover, shin))
        parts.append(
            Part(
                f"{side}_shin", heel, toe, (0.025 * g, 0.020 * g), shoes, _middle(heel, toe) + 1e-3
            )
        )
    return parts
