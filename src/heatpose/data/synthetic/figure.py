"""A random articulated person: joint angles, forward kinematics, projection, body and clothes.

Frame of a `Pose`: lengths are fractions of body height; x points to the image's right, y down, z to
the viewer. The projection is orthographic. The left side of a person that faces the viewer is on
the image's right. The body is a list of tapered capsules, which `render` draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Range = tuple[float, float]


class Arm(NamedTuple):
    """Ranges in degrees: swing forward, lift sideways, elbow bend, direction of the bend.

    The direction is 0 for forward and 90 for outward.
    """

    flex: Range
    abduct: Range
    elbow: Range
    twist: Range


class Leg(NamedTuple):
    """Ranges in degrees: swing forward, lift sideways, knee bend."""

    flex: Range
    abduct: Range
    knee: Range


ARMS = (
    Arm((-20, 20), (5, 22), (3, 40), (-40, 10)),  # hanging
    Arm((-40, 45), (4, 15), (20, 85), (-30, 10)),  # swinging
    Arm((-10, 30), (120, 168), (0, 60), (20, 90)),  # up
    Arm((-15, 25), (65, 105), (0, 80), (-20, 90)),  # spread
    Arm((-10, 10), (60, 95), (70, 110), (60, 95)),  # waving
    Arm((-25, 0), (35, 50), (85, 110), (-95, -75)),  # on the hip
    Arm((45, 105), (-5, 20), (0, 70), (-70, 20)),  # forward
)
ARM_ODDS = (0.32, 0.26, 0.12, 0.08, 0.06, 0.08, 0.08)

STAND = Leg((-5, 8), (2, 9), (0, 10))
LEGS = (
    (STAND, STAND),
    (Leg((12, 38), (1, 6), (0, 25)), Leg((-30, -8), (1, 6), (5, 45))),  # walking
    (Leg((-5, 15), (14, 30), (0, 20)), Leg((-5, 15), (14, 30), (0, 20))),  # straddling
    (Leg((72, 98), (4, 22), (75, 105)), Leg((72, 98), (4, 22), (75, 105))),  # sitting
    (Leg((70, 112), (8, 30), (95, 135)), Leg((70, 112), (8, 30), (95, 135))),  # crouching
    (Leg((60, 95), (2, 12), (70, 100)), Leg((-15, 10), (2, 8), (50, 95))),  # lunging
    (Leg((30, 85), (0, 20), (0, 60)), STAND),  # kicking
)
LEG_ODDS = (0.33, 0.30, 0.13, 0.08, 0.04, 0.06, 0.06)
TORSO_PITCH: tuple[Range, ...] = (
    (-5, 12),
    (-3, 14),
    (-5, 15),
    (-10, 22),
    (12, 42),
    (-3, 25),
    (-10, 10),
)
"""Forward lean in degrees for each entry of `LEGS`."""

# Points of the head: x to the person's left, y down, z forward, origin in the middle of the skull.
FACE = {
    "nose": (0.0, 0.012, 0.066),
    "left_eye": (0.028, -0.010, 0.054),
    "right_eye": (-0.028, -0.010, 0.054),
    "left_ear": (0.060, 0.004, -0.004),
    "right_ear": (-0.060, 0.004, -0.004),
    "mouth_left": (0.016, 0.040, 0.048),
    "mouth_right": (-0.016, 0.040, 0.048),
    "skull": (0.0, -0.020, 0.004),
    "chin": (0.0, 0.030, 0.010),
    "hair_top": (0.0, -0.026, -0.012),
    "hair_back": (0.0, 0.010, -0.020),
    "hair_end": (0.0, 0.110, -0.050),
}


@dataclass(frozen=True)
class Build:
    """Lengths of one body, fractions of its height; `girth` scales every thickness."""

    torso: float
    shoulder: float
    hip: float
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    head: float
    girth: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Build:
        """Draws the proportions of a body, from a child with a large head to a tall adult."""
        limb = rng.uniform(0.92, 1.06, 4)
        return cls(
            torso=0.30 * rng.uniform(0.94, 1.06),
            shoulder=rng.uniform(0.088, 0.108),
            hip=rng.uniform(0.052, 0.062),
            upper_arm=0.165 * limb[0],
            forearm=0.150 * limb[1],
            thigh=0.240 * limb[2],
            shin=0.235 * limb[3],
            head=rng.uniform(1.08, 1.35),
            girth=rng.uniform(0.9, 1.25),
        )


@dataclass(frozen=True)
class Pose:
    """A body in space.

    Attributes:
        build: Its lengths.
        points: Name -> f64[3]: the COCO-17 keypoints and the other points that are needed for
            drawing. x and y are projected, camera tilt included; z is the depth, larger is nearer.
    """

    build: Build
    points: dict[str, Points]


def rotation(axis: int, degrees: float) -> Points:
    """Rotation matrix f64[3, 3] for column vectors.

    Axis 0 leans forward (or tilts the camera), 1 turns to the right, 2 is clockwise.
    """
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array(
        (
            [[1, 0, 0], [0, c, s], [0, -s, c]],
            [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            [[c, -s, 0], [s, c, 0], [0, 0, 1]],
        )[axis]
    )


def random_pose(rng: np.random.Generator) -> Pose:
    """Draws a body, its joint angles and the viewing direction."""
    build = Build.random(rng)
    style = int(rng.choice(len(LEGS), p=LEG_ODDS))
    pitch = rng.uniform(*TORSO_PITCH[style])
    if style in (0, 2) and rng.random() < 0.06:
        pitch = rng.uniform(30, 70)  # bends over
    points = _legs(rng, build, LEGS[style]) | _upper_body(rng, build, pitch)
    return Pose(build, _project(rng, points))


def _limb(side: int, flex: float, abduct: float) -> tuple[Points, Points, Points]:
    """Unit vectors along a limb (down at zero angles), to its front, and outwards.

    The x axis points to the person's left.
    """
    f, a = np.deg2rad(flex), np.deg2rad(abduct)
    along = np.array([side * np.sin(a) * np.cos(f), np.cos(a) * np.cos(f), np.sin(f)])
    front = np.array([-side * np.sin(a) * np.sin(f), -np.cos(a) * np.sin(f), np.cos(f)])
    return along, front, np.array([side * np.cos(a), -np.sin(a), 0.0])


def _legs(rng: np.random.Generator, build: Build, pair: tuple[Leg, Leg]) -> dict[str, Points]:
    points = {"pelvis": np.zeros(3)}
    lead = rng.random() < 0.5
    for name, side, leg in (("left", 1, pair[int(lead)]), ("right", -1, pair[int(not lead)])):
        flex, abduct, knee = (rng.uniform(*span) for span in leg)
        hip = np.array([side * build.hip, 0.01, 0.0])
        thigh, _, _ = _limb(side, flex, abduct)
        shin, front, outward = _limb(side, flex - knee, abduct * 0.6)
        toe = front + rng.uniform(0.0, 0.35) * outward + rng.uniform(-0.1, 0.35) * shin
        points[f"{name}_hip"] = hip
        points[f"{name}_knee"] = hip + build.thigh * thigh
        points[f"{name}_ankle"] = points[f"{name}_knee"] + build.shin * shin
        points[f"{name}_heel"] = points[f"{name}_ankle"] + 0.022 * shin - 0.012 * front
        points[f"{name}_toe"] = points[f"{name}_heel"] + 0.115 * toe / np.linalg.norm(toe)
    return points


def _upper_body(rng: np.random.Generator, build: Build, pitch: float) -> dict[str, Points]:
    turn = rotation(1, rng.uniform(-18, 18)) @ rotation(0, pitch) @ rotation(2, rng.normal(0, 5))
    girth = 0.056 * build.girth
    points = {
        "neck": np.array([0.0, -build.torso, 0.0]),
        "waist": np.array([0.0, -0.06, 0.0]),
        "chest": np.array([0.0, -build.torso + 0.055, 0.0]),
        "breast": np.array([0.0, -build.torso + 0.10, 0.9 * girth]),
        "back": np.array([0.0, -build.torso + 0.12, -0.9 * girth]),
    }
    style = int(rng.choice(len(ARMS), p=ARM_ODDS))
    for name, side in (("left", 1), ("right", -1)):
        if rng.random() < 0.25:
            style = int(rng.choice(len(ARMS), p=ARM_ODDS))
        points |= _arm(rng, build, name, side, ARMS[style])
    points |= _head(rng, build, points["neck"], pitch)
    return {name: turn @ point for name, point in points.items()}


def _arm(
    rng: np.random.Generator, build: Build, name: str, side: int, arm: Arm
) -> dict[str, Points]:
    flex, abduct, elbow, twist = (rng.uniform(*span) for span in arm)
    along, front, outward = _limb(side, flex, abduct)
    e, t = np.deg2rad(elbow), np.deg2rad(twist)
    fore = np.cos(e) * along + np.sin(e) * (np.cos(t) * front + np.sin(t) * outward)
    shoulder = np.array(
        [side * build.shoulder, -build.torso + 0.028 - 0.02 * max(0.0, -along[1]), 0.0]
    )
    wrist = shoulder + build.upper_arm * along + build.forearm * fore
    return {
        f"{name}_shoulder": shoulder,
        f"{name}_elbow": shoulder + build.upper_arm * along,
        f"{name}_wrist": wrist,
        f"{name}_hand": wrist + 0.035 * fore,
    }


def _head(rng: np.random.Generator, build: Build, neck: Points, pitch: float) -> dict[str, Points]:
    # The head is raised a little if the body leans forward.
    turn = (
        rotation(1, np.clip(rng.normal(0, 22), -50, 50))
        @ rotation(0, rng.normal(2, 9) - 0.5 * pitch)
        @ rotation(2, rng.normal(0, 6))
    )
    centre = neck + turn @ np.array([0.0, -0.040 - 0.052 * build.head, 0.012])
    return {name: centre + build.head * (turn @ np.array(place)) for name, place in FACE.items()}


def _yaw(rng: np.random.Generator) -> float:
    """Turn in degrees: about half of the persons face the viewer, the others turn aside or away."""
    kind = rng.random()
    if kind < 0.55:
        return float(rng.uniform(-40, 40))
    if kind < 0.77:
        return float(rng.choice((-1, 1)) * rng.uniform(40, 140))
    return float(rng.uniform(140, 220))


def _project(rng: np.random.Generator, points: dict[str, Points]) -> dict[str, Points]:
    yaw = rotation(1, _yaw(rng))
    camera = rotation(2, rng.normal(0, 5)) @ rotation(0, rng.uniform(0, 20))
    turned = {name: yaw @ point for name, point in points.items()}
    # The drawing order uses the depth before the camera's tilt, which must not move the head in
    # front.
    return {name: np.array([*(camera @ point)[:2], point[2]]) for name, point in turned.items()}


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

    Attributes:
        owner: One of `render.PARTS`.
        start: f64[3], as in `Pose`.
        end: f64[3].
        radii: At both ends, in body heights.
        colour: f64[3] RGB in 0..255.
        depth: Larger is drawn later; parts of equal depth are shaded as one surface.
        flat: Not shaded (eyes, badges).
    """

    owner: str
    start: Points
    end: Points
    radii: Radii
    colour: Points
    depth: float
    flat: bool = False


def random_colour(rng: np.random.Generator) -> Points:
    """A random colour f64[3] in 0..255, from almost black through vivid to almost white."""
    grey = rng.uniform(25, 235)
    return np.clip(grey + rng.uniform(0, 1.1) * rng.uniform(-100, 100, 3), 8, 250)


def dress(pose: Pose, rng: np.random.Generator) -> list[Part]:
    """Makes the body and random clothes of a pose.

    Left and right can be distinguished by features that are invariant to mirroring: the visible
    face, the direction of the feet, nearer and brighter limbs, an orange badge on the chest and a
    blue one on the back. No feature is on one side only, because training mirrors images and
    exchanges the keypoints with them.
    """
    between = rng.uniform(0, len(_SKIN) - 1)
    skin = np.array([np.interp(between, range(len(_SKIN)), _SKIN[:, i]) for i in range(3)])
    shirt, trousers, shoes = random_colour(rng), random_colour(rng), random_colour(rng)
    return [
        *_trunk_parts(pose, rng, skin, shirt, trousers),
        *_head_parts(pose, rng, skin),
        *_arm_parts(pose, rng, skin, shirt),
        *_leg_parts(pose, rng, skin, trousers, shoes),
    ]


def _trunk_parts(
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
    """Stripes on some shirts; a badge on the chest and another on the back of all shirts."""
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


def _head_parts(pose: Pose, rng: np.random.Generator, skin: Points) -> list[Part]:
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
    """Long hair, drawn behind the neck in front views and over the back in rear views."""
    at = pose.points
    trunk = _middle(at["neck"], at["pelvis"])
    if at["nose"][2] < at["skull"][2] + 0.01:
        return replace(hair, depth=max(trunk, hair.depth))
    return replace(hair, depth=min(trunk, hair.depth, float(at["skull"][2])) - 0.04)


def _arm_parts(pose: Pose, rng: np.random.Generator, skin: Points, shirt: Points) -> list[Part]:
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


def _leg_parts(
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
