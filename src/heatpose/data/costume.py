"""Flesh and random clothes for a pose: a list of tapered capsules, ready to be drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from heatpose.data.figure import Points, Pose

_SKIN = np.array(
    [[255, 226, 200], [236, 188, 150], [205, 150, 110], [150, 100, 68], [92, 60, 42]], np.float64
)
_HAIR = np.array(
    [[25, 20, 20], [70, 45, 30], [120, 75, 40], [200, 165, 95], [150, 150, 155], [150, 60, 30]], np.float64
)


@dataclass(frozen=True)
class Part:
    """A tapered capsule of a body: from `start` to `end` (f64[3], as in `Pose`), `radii` in fractions of body height.

    `owner` is one of `render.PARTS`. Parts of equal `depth` are one surface (shaded together); a larger depth is drawn
    later. `flat` parts (eyes, a pocket) are not shaded.
    """

    owner: str
    start: Points
    end: Points
    radii: tuple[float, float]
    colour: Points
    depth: float
    flat: bool = False


def random_colour(rng: np.random.Generator) -> Points:
    """f64[3] in 0..255, anything from near black through vivid to near white."""
    grey = rng.uniform(25, 235)
    return np.clip(grey + rng.uniform(0, 1.1) * rng.uniform(-100, 100, 3), 8, 250)


def dress(pose: Pose, rng: np.random.Generator) -> list[Part]:
    """Puts flesh and random clothes on a pose.

    Left can be told from right in every view: by the face or its absence, the way the feet point, which limbs are in
    front, a pocket on the left of the chest and a watch on the left wrist.
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


def _trunk(pose: Pose, rng: np.random.Generator, skin: Points, shirt: Points, trousers: Points) -> list[Part]:
    at, g = pose.points, pose.build.girth
    depth = (
        float((at["neck"][2] + at["pelvis"][2]) / 2) - 0.015
    )  # arms that hang beside it are drawn after it
    second = random_colour(rng)
    neck = (at["skull"] + at["chin"]) / 2
    parts = [
        Part(
            "pelvis",
            at["left_hip"],
            at["right_hip"],
            (0.052 * g, 0.052 * g),
            trousers,
            float(at["pelvis"][2]) - 0.02,
        ),
        Part("head", at["neck"], neck, (0.030, 0.028), skin * 0.9, min(depth, float(neck[2])) - 0.01),
        Part("torso", at["chest"], at["waist"], (0.062 * g, 0.056 * g), shirt, depth),
        Part("torso", at["left_shoulder"], at["right_shoulder"], (0.034 * g, 0.034 * g), shirt, depth),
    ]
    for side in ("left", "right"):
        inner, hip = 0.86 * at[f"{side}_shoulder"] + 0.14 * at["chest"], at[f"{side}_hip"]
        parts.append(Part("torso", inner, 0.8 * hip + 0.2 * inner, (0.040 * g, 0.046 * g), shirt, depth))
    if rng.random() < 0.3:
        for t in np.arange(0.18, 0.9, 0.18):
            left, right = (
                at[f"{side}_shoulder"] * (1 - t) + at[f"{side}_hip"] * t for side in ("left", "right")
            )
            parts.append(Part("torso", left, right, (0.012, 0.012), second, depth, flat=True))
    middle = (at["chest"] + at["waist"]) / 2
    contrast = np.where(shirt.mean() > 120, shirt * 0.4, shirt * 0.4 + 150)
    down = (at["pelvis"] - at["neck"]) * 0.09
    if at["pocket"][2] > middle[2] + 0.01:
        parts.append(
            Part("torso", at["pocket"], at["pocket"] + down, (0.019, 0.019), contrast, depth, flat=True)
        )
    if at["back"][2] > middle[2] + 0.02:
        parts.append(
            Part("torso", at["back"] - down, at["back"] + down, (0.011, 0.011), contrast, depth, flat=True)
        )
    return parts


def _head(pose: Pose, rng: np.random.Generator, skin: Points) -> list[Part]:
    at, s = pose.points, pose.build.head
    hair = _HAIR[int(rng.integers(len(_HAIR)))] * rng.uniform(0.8, 1.15)
    white, dark, red = np.full(3, 245.0), np.array([25.0, 20, 20]), skin * (0.72, 0.45, 0.45)
    nose = np.clip(skin * (1.02, 0.84, 0.80), 0, 255)

    def ball(
        owner: str,
        names: tuple[str, str],
        radii: tuple[float, float],
        colour: Points,
        lift: float = 0.0,
        flat: bool = False,
    ) -> Part:
        start, end = at[names[0]], at[names[1]]
        return Part(
            owner, start, end, (radii[0] * s, radii[1] * s), colour, float(start[2] + end[2]) / 2 + lift, flat
        )

    parts = [
        ball("head", ("skull", "chin"), (0.060, 0.047), skin),
        ball("head", ("hair_top", "hair_back"), (0.066, 0.058), hair),
        ball("nose", ("nose", "nose"), (0.012, 0.012), nose),
        ball("head", ("mouth_left", "mouth_right"), (0.006, 0.006), red, flat=True),
    ]
    for side in ("left", "right"):
        eye, ear = f"{side}_eye", f"{side}_ear"
        parts.append(ball(ear, (ear, ear), (0.015, 0.015), skin * 0.88))
        parts.append(ball(eye, (eye, eye), (0.0145, 0.0145), white, flat=True))
        parts.append(ball(eye, (eye, eye), (0.008, 0.008), dark, 1e-4, flat=True))
    if rng.random() < 0.4:  # long hair hangs behind the neck, seen from the front, and over the back
        trunk = float(at["neck"][2] + at["pelvis"][2]) / 2
        length = ball("head", ("hair_back", "hair_end"), (0.062, 0.045), hair)
        away = at["nose"][2] < at["skull"][2] + 0.01
        depth = max(trunk, length.depth) if away else min(trunk, length.depth, float(at["skull"][2])) - 0.04
        parts.append(replace(length, depth=depth))
    return parts


def _arms(pose: Pose, rng: np.random.Generator, skin: Points, shirt: Points) -> list[Part]:
    at, g = pose.points, pose.build.girth
    sleeve = float(
        rng.choice((0.0, 0.55, 1.0, 2.0), p=(0.15, 0.45, 0.1, 0.3))
    )  # in segments: none, short, to the elbow, long
    band = random_colour(rng)
    parts = []
    for side in ("left", "right"):
        shoulder, elbow, wrist, hand = (
            at[f"{side}_{joint}"] for joint in ("shoulder", "elbow", "wrist", "hand")
        )
        upper, fore = float(shoulder[2] + elbow[2]) / 2, float(elbow[2] + wrist[2]) / 2 + 1e-3
        parts.append(Part(f"{side}_upper_arm", shoulder, elbow, (0.033 * g, 0.027 * g), skin, upper))
        if sleeve:
            end = shoulder + min(sleeve, 1.0) * (elbow - shoulder)
            parts.append(Part(f"{side}_upper_arm", shoulder, end, (0.036 * g, 0.031 * g), shirt, upper))
        parts.append(Part(f"{side}_forearm", wrist, hand, (0.020 * g, 0.024 * g), skin, fore))
        parts.append(
            Part(f"{side}_forearm", elbow, wrist, (0.027 * g, 0.020 * g), shirt if sleeve > 1 else skin, fore)
        )
        if side == "left":
            near, far = wrist + 0.22 * (elbow - wrist), wrist + 0.12 * (elbow - wrist)
            parts.append(Part("left_forearm", near, far, (0.025 * g, 0.025 * g), band, fore, flat=True))
    return parts


def _legs(pose: Pose, rng: np.random.Generator, skin: Points, trousers: Points, shoes: Points) -> list[Part]:
    at, g = pose.points, pose.build.girth
    length = float(rng.choice((0.75, 2.0), p=(0.35, 0.65)))  # in segments: shorts, long
    parts = []
    for side in ("left", "right"):
        hip, knee, ankle, heel, toe = (
            at[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle", "heel", "toe")
        )
        thigh, shin = float(hip[2] + knee[2]) / 2 - 0.005, float(knee[2] + ankle[2]) / 2
        cover = trousers if length > 1 else skin
        parts.append(Part(f"{side}_thigh", hip, knee, (0.052 * g, 0.038 * g), cover, thigh))
        if length < 1:
            parts.append(
                Part(
                    f"{side}_thigh", hip, hip + length * (knee - hip), (0.054 * g, 0.046 * g), trousers, thigh
                )
            )
        parts.append(Part(f"{side}_shin", knee, ankle, (0.037 * g, 0.024 * g), cover, shin))
        parts.append(
            Part(f"{side}_shin", heel, toe, (0.025 * g, 0.020 * g), shoes, float(heel[2] + toe[2]) / 2 + 1e-3)
        )
    return parts
