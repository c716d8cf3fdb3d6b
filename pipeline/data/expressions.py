"""What a drawn face shows: an expression as facial action units (AU), a person, and how the face is seen.

The prototypes follow EMFACS (Ekman, Irwin & Rosenberg 1994). All three are drawn at random from one generator.
"""

from typing import NamedTuple

import numpy as np

Units = dict[int, float]

# Expression -> action unit -> (probability, weakest, strongest); the order is that of the labels 0..6.
PROTOTYPES: dict[str, dict[int, tuple[float, float, float]]] = {
    "anger": {4: (1, 0.5, 1), 5: (0.6, 0.2, 0.6), 7: (0.9, 0.4, 1), 17: (0.4, 0.3, 0.7), 23: (0.9, 0.4, 1)},
    "disgust": {4: (0.4, 0.2, 0.5), 7: (0.5, 0.3, 0.7), 9: (1, 0.5, 1), 10: (1, 0.5, 1), 15: (0.4, 0.2, 0.5)}
    | {17: (0.4, 0.2, 0.6), 25: (0.6, 0.4, 1)},
    "fear": {1: (1, 0.5, 1), 2: (0.6, 0.2, 0.5), 4: (1, 0.3, 0.8), 5: (1, 0.4, 1), 7: (0.3, 0.2, 0.4)}
    | {20: (1, 0.4, 1), 25: (0.9, 0.4, 1), 26: (0.6, 0.1, 0.4)},
    "happy": {6: (0.9, 0.4, 1), 12: (1, 0.4, 1), 25: (0.65, 0.4, 1), 26: (0.25, 0.1, 0.4)},
    "sad": {1: (1, 0.4, 1), 4: (0.9, 0.3, 0.7), 7: (0.3, 0.1, 0.4), 15: (1, 0.4, 1), 17: (0.6, 0.3, 0.9)},
    "surprise": {1: (1, 0.5, 1), 2: (1, 0.5, 1), 5: (0.9, 0.4, 1), 25: (1, 0.5, 1), 26: (1, 0.3, 1)}
    | {27: (0.6, 0.2, 1.0)},
    "normal": {2: (0.2, 0, 0.2), 4: (0.2, 0, 0.2), 7: (0.2, 0, 0.3), 12: (0.2, 0, 0.2), 25: (0.2, 0.1, 0.4)}
    | {15: (0.1, 0, 0.2)},
}
ACTION_UNITS = sorted({unit for prototype in PROTOTYPES.values() for unit in prototype})


class Identity(NamedTuple):
    """One person, by default the average face. Lengths in face units (half a face is about 1), tones in 0..255."""

    width: float = 0.82
    jaw: float = 0.75  # width of the jaw as a share of the head's
    height: float = 1.12
    skin: float = 175
    hair: float = 60
    hair_style: int = 1  # 0 bald, 1 short, 2 long, 3 fringe
    hairline: float = -0.78
    eye_size: float = 1
    eye_gap: float = 0.4
    eye_y: float = -0.22
    iris: float = 50
    brow_width: float = 0.055
    brow_gap: float = 0.29
    nose: float = 1
    mouth_width: float = 0.36
    mouth_y: float = 0.56
    lip: float = 1
    mouth_bias: float = 0
    glasses: bool = False
    beard: float = 0
    moustache: bool = False
    age: float = 0


class Scene(NamedTuple):
    """How a face is seen, by default upright and frontal in flat light. Shifts in pixels, angles in radians."""

    roll: float = 0
    yaw: float = 0
    pitch: float = 0
    scale: float = 1
    shift: tuple[float, float] = (0, 0)
    background: tuple[float, float] = (110, 110)
    horizon: tuple[float, float] = (0.6, 0.6)  # height at the left and right edge where the background's tone changes
    light: float = 0  # direction
    light_strength: float = 0
    contrast: float = 1
    brightness: float = 0
    blur: float = 0
    noise: float = 0
    occluder: int = 0  # 0 none, 1 hand, 2 lock of hair, 3 bar
    occluder_at: tuple[float, float] = (0, 0)
    occluder_tone: float = 120


def random_units(expression: str, rng: np.random.Generator) -> Units:
    """Intensities in 0..1 of all action units for one showing of `expression`, a key of PROTOTYPES."""
    units = dict.fromkeys(ACTION_UNITS, 0.0)
    for unit, (probability, low, high) in PROTOTYPES[expression].items():
        shown, intensity = rng.random(2)
        units[unit] = low + (high - low) * intensity if shown < probability else 0.0
    return units


def random_identity(rng: np.random.Generator) -> Identity:
    """One person drawn at random."""
    skin = rng.uniform(95, 220)
    bearded = rng.random() < 0.2
    return Identity(
        width=rng.uniform(0.72, 0.92),
        jaw=rng.uniform(0.62, 0.9),
        height=rng.uniform(1.04, 1.2),
        skin=skin,
        hair=rng.uniform(15, 110) if rng.random() < 0.75 else rng.uniform(110, 235),
        hair_style=int(rng.choice(4, p=[0.12, 0.38, 0.3, 0.2])),
        hairline=rng.uniform(-0.9, -0.68),
        eye_size=rng.uniform(0.85, 1.2),
        eye_gap=rng.uniform(0.35, 0.45),
        eye_y=rng.uniform(-0.27, -0.17),
        iris=rng.uniform(15, 90),
        brow_width=rng.uniform(0.035, 0.08),
        brow_gap=rng.uniform(0.26, 0.32),
        nose=rng.uniform(0.8, 1.2),
        mouth_width=rng.uniform(0.31, 0.41),
        mouth_y=rng.uniform(0.52, 0.6),
        lip=rng.uniform(0.7, 1.35),
        mouth_bias=rng.uniform(-0.015, 0.015),
        glasses=bool(rng.random() < 0.15),
        beard=rng.uniform(0.15, 0.45) if bearded else 0,
        moustache=bool(bearded and rng.random() < 0.6),
        age=max(0, rng.uniform(-0.6, 1)),
    )


def random_scene(rng: np.random.Generator) -> Scene:
    """One view of a face drawn at random."""
    side = rng.choice([-1, 1])
    return Scene(
        roll=float(np.clip(rng.normal(0, 0.1), -0.35, 0.35)),
        yaw=rng.uniform(-0.3, 0.3),
        pitch=rng.uniform(-0.12, 0.12),
        scale=rng.uniform(0.95, 1.2),
        shift=(rng.uniform(-2, 2), rng.uniform(-2, 2)),
        background=(rng.uniform(10, 245), rng.uniform(10, 245)),
        horizon=(rng.uniform(-0.5, 1.5), rng.uniform(-0.5, 1.5)),
        light=rng.uniform(0, 2 * np.pi),
        light_strength=rng.uniform(0, 0.5),
        contrast=rng.uniform(0.6, 1.15),
        brightness=rng.uniform(-30, 30),
        blur=max(0, rng.uniform(-0.4, 0.7)),
        noise=rng.uniform(0, 10),
        occluder=int(rng.choice(4, p=[0.76, 0.08, 0.08, 0.08])),
        occluder_at=(side * rng.uniform(0.55, 0.85), rng.uniform(0.2, 0.9)),
        occluder_tone=rng.uniform(20, 230),
    )
