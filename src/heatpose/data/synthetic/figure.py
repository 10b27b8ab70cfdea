"""A random articulated person in three dimensions: joint angles, forward kinematics, projection.

Frame of a `Pose`: lengths are fractions of body height; x points to the image's right, y down, z
to the viewer. The projection is orthographic. Someone who faces the viewer has their left on the
image's right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Range = tuple[float, float]


class Arm(NamedTuple):
    """Ranges in degrees: swing forward, lift sideways, elbow bend, its direction.

    (0 forward, 90 outward).
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

# Where things sit on the head: x to the person's left, y down, z forward, origin in the middle of
# the skull.
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
        """Draws a body: from a child with a large head to a lanky adult."""
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
        points: Name -> f64[3]: the COCO-17 keypoints and the other points that the drawing needs. x
            and y as the viewer sees them, camera tilt included; the order of drawing goes by z,
            larger is nearer.
    """

    build: Build
    points: dict[str, Points]


def rotation(axis: int, degrees: float) -> Points:
    """f64[3, 3] for columns: axis 0 leans forward.

    (or tips the camera), 1 turns right, 2 is clockwise.
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
    """Draws a body, its joint angles and the direction that it is seen from."""
    build = Build.random(rng)
    style = int(rng.choice(len(LEGS), p=LEG_ODDS))
    pitch = rng.uniform(*TORSO_PITCH[style])
    if style in (0, 2) and rng.random() < 0.06:
        pitch = rng.uniform(30, 70)  # bends over
    points = _legs(rng, build, LEGS[style]) | _upper_body(rng, build, pitch)
    return Pose(build, _project(rng, points))


def _limb(side: int, flex: float, abduct: float) -> tuple[Points, Points, Points]:
    """Unit vectors along a limb (down at zero angles), to its front, and outwards.

    X to the person's left.
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
    # Whoever bends over keeps the face up a little.
    turn = (
        rotation(1, np.clip(rng.normal(0, 22), -50, 50))
        @ rotation(0, rng.normal(2, 9) - 0.5 * pitch)
        @ rotation(2, rng.normal(0, 6))
    )
    centre = neck + turn @ np.array([0.0, -0.040 - 0.052 * build.head, 0.012])
    return {name: centre + build.head * (turn @ np.array(place)) for name, place in FACE.items()}


def _yaw(rng: np.random.Generator) -> float:
    """Degrees: half face the viewer, the others are seen from the side or from behind."""
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
    # The order of drawing goes by the depth before the camera tips, which must not bring the head
    # in front.
    return {name: np.array([*(camera @ point)[:2], point[2]]) for name, point in turned.items()}
