"""Stage `sample`: a CSV in FER2013's layout with drawn faces, so that everything runs without the real data.

`python -m pipeline.sample OUT.csv` draws 48x48 grey faces. An expression is a random combination of facial action
units (AU) around its prototype in EMFACS (Ekman, Irwin & Rosenberg 1994), under random identity, pose, light,
occlusion, blur and noise. Row n depends on the seed and on n alone, so a longer file begins with the shorter one.

Rows come in blocks of 200 that hold every expression in every split: 160 Training, 20 PublicTest, 20 PrivateTest, each
in the ratio 3:1:3:5:3:2:3 (disgust is rare and happy common, as in FER2013). The last row of a block is a flaw for the
audit to find, in turn: a copy of an earlier face, a copy, a copy under another label, a copy, an all-black face.
`--flawless` leaves the flaws out.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from pipeline.process import InputError, atomic, run

SIDE = 48
FINE = 4  # drawn at 192x192, then averaged down, which smooths every edge
BLOCK = 200
USAGES = {"Training": 8, "PublicTest": 1, "PrivateTest": 1}
SHARES = (3, 1, 3, 5, 3, 2, 3)  # rows of each expression in 20
FLAWS = ("copy", "copy", "conflict", "copy", "black")
COLUMNS = 12  # faces per expression in the picture

Floats = NDArray[np.float64]
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
    | {27: (0.6, 0.2, 1)},
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


class Canvas(NamedTuple):
    """A picture and the map from face coordinates, of shape (n, 2), to its pixels."""

    draw: ImageDraw.ImageDraw
    place: Callable[[Floats], Floats]


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


def placement(scene: Scene) -> Callable[[Floats], Floats]:
    """The map from face coordinates (origin between nose and eyes, y down) to pixels of the fine picture."""
    cosine, sine = np.cos(scene.roll), np.sin(scene.roll)
    turn = 20 * scene.scale * np.array([[cosine, sine], [-sine, cosine]])
    centre = SIDE / 2 + np.array(scene.shift)

    def place(points: Floats) -> Floats:
        x, y = points[:, 0], points[:, 1]
        depth = np.maximum(0, 1 - x**2)  # the middle of a face is nearer than its outline
        seen = np.stack([x * np.cos(scene.yaw) + depth * np.sin(scene.yaw), y + depth * np.sin(scene.pitch)], axis=1)
        return FINE * ((seen[:, :1] * turn[0] + seen[:, 1:] * turn[1]) + centre)

    return place


def fill(canvas: Canvas, points: Floats, tone: float) -> None:
    """Fill the polygon `points`, of shape (n, 2) in face coordinates, with a grey tone in 0..255."""
    canvas.draw.polygon([tuple(point) for point in canvas.place(points).tolist()], fill=round(min(max(tone, 0), 255)))


def stroke(canvas: Canvas, points: Floats, tone: float, width: float) -> None:
    """Draw a line along `points`, of shape (n, 2), `width` face units wide."""
    pixels = [tuple(point) for point in canvas.place(points).tolist()]
    thick = max(1, round(width * 20 * FINE))
    canvas.draw.line(pixels, fill=round(min(max(tone, 0), 255)), width=thick, joint="curve")


def line(*points: tuple[float, float]) -> Floats:
    """Floats given one by one as an array of shape (n, 2)."""
    return np.array(points, dtype=float)


def ellipse(x: float, y: float, width: float, height: float) -> Floats:
    """Outline of shape (24, 2) of an ellipse with the given half axes."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)


def between(x: Floats, upper: Floats, lower: Floats) -> Floats:
    """Outline of shape (2n, 2) of what lies between two curves over the same x."""
    return np.concatenate([np.stack([x, upper], axis=1), np.stack([x, lower], axis=1)[::-1]])


def jaw_drop(units: Units) -> float:
    """How far AU26 and AU27 lower the chin."""
    return 0.16 * units[26] + 0.16 * units[27]


def head_outline(identity: Identity, units: Units) -> Floats:
    """Outline of shape (48, 2) of the head without hair, ears and neck."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x, y = np.cos(angle), np.sin(angle)
    below = np.maximum(0, y)
    width = identity.width * (1 - (1 - identity.jaw) * 0.55 * below)
    return np.stack([x * width, y * identity.height + below**2 * 0.8 * jaw_drop(units)], axis=1)


def paint_behind(canvas: Canvas, identity: Identity) -> None:
    """Long hair, neck and ears, which the head covers in part."""
    if identity.hair_style >= 2:
        fill(canvas, ellipse(0, -0.05, identity.width + 0.24, 1.3), identity.hair)
        fill(canvas, ellipse(0, 0.55, identity.width + 0.3, 1.0), identity.hair * 0.9)
    fill(canvas, line((-0.45, 0.6), (0.45, 0.6), (0.55, 2.4), (-0.55, 2.4)), identity.skin * 0.72)
    for side in (-1, 1):
        fill(canvas, ellipse(side * (identity.width + 0.02), 0.0, 0.09, 0.22), identity.skin * 0.85)


def paint_head(canvas: Canvas, identity: Identity, units: Units, scene: Scene) -> None:
    """The head as nested outlines that brighten towards the light, which makes it look round."""
    outline = head_outline(identity, units)
    glint = 0.18 * np.array([np.cos(scene.light - scene.roll), np.sin(scene.light - scene.roll)])
    for step in range(6):
        share = 1 - 0.11 * step
        fill(canvas, outline * share + glint * (1 - share), identity.skin * (0.8 + 0.04 * step))
    if identity.beard:
        low = outline[1:24]
        lowest = 0.4 if identity.moustache else 0.8 + 0.8 * jaw_drop(units)
        edge = lowest - (lowest - 0.1) * np.abs(low[:, 0] / identity.width) ** 2
        fill(canvas, between(low[:, 0], low[:, 1], np.minimum(edge, low[:, 1])), beard_tone(identity))


def beard_tone(identity: Identity) -> float:
    """Skin darkened by a beard."""
    return identity.skin + identity.beard * (min(identity.hair, 0.5 * identity.skin) - identity.skin)


def paint_hair(canvas: Canvas, identity: Identity) -> None:
    """The hair over the forehead."""
    if identity.hair_style == 0:
        return
    angle = np.linspace(np.pi + 0.12, 2 * np.pi - 0.12, 16)
    grow = 0.07
    crown = np.stack([np.cos(angle) * (identity.width + grow), np.sin(angle) * (identity.height + 2 * grow)], axis=1)
    x = np.linspace(identity.width - 0.02, -identity.width + 0.02, 15)
    lowest = identity.hairline + (0.12 if identity.hair_style == 3 else 0)
    bend = 0.7 if identity.hair_style == 3 else 0.45
    y = lowest + bend * np.abs(x / identity.width) ** (6 if identity.hair_style == 3 else 3)
    fill(canvas, np.concatenate([crown, np.stack([x, y], axis=1)]), identity.hair)
    if identity.hair_style == 3:
        for at in np.linspace(-0.5, 0.5, 6):
            stroke(canvas, line((at * 0.8, -1.1), (at, lowest)), identity.hair * 0.8 + 12, 0.03)


def lid_heights(identity: Identity, units: Units) -> tuple[float, float]:
    """Heights of upper and lower lid over and under the eye's axis: AU5 opens, AU6, AU7 and AU9 narrow."""
    tight = min(0.5 * units[7] + 0.5 * units[6] + 0.55 * units[9], 1.2)
    upper = max(0.3, 1 + 0.85 * units[5] - 0.45 * tight - 0.2 * units[15])
    lower = max(0.2, 1 + 0.35 * units[5] - 0.75 * tight)
    return 0.095 * identity.eye_size * upper, 0.065 * identity.eye_size * lower


def paint_eye(canvas: Canvas, identity: Identity, units: Units, side: int) -> None:
    """Socket, white, iris and lids of one eye, and the fold that AU6 pushes up below it."""
    skin, x, y = identity.skin, side * identity.eye_gap, identity.eye_y
    half, iris = 0.2 * identity.eye_size, 0.088 * identity.eye_size
    upper, lower = lid_heights(identity, units)
    t = np.linspace(-1, 1, 13)
    lid_x, top, bottom = x + half * t, y - upper * (1 - t**2), y + lower * (1 - t**2)
    fill(canvas, ellipse(x, y - 0.02, half * 1.25, 0.16), skin * 0.86)
    fill(canvas, between(lid_x, top, bottom), min(235, skin * 0.55 + 130))
    opening, circle = 1 - (t * iris / half) ** 2, iris * np.sqrt(1 - t**2)
    iris_top = np.maximum(y - 0.01 - circle, y - upper * opening)
    iris_bottom = np.minimum(y - 0.01 + circle, y + lower * opening)
    fill(canvas, between(x + t * iris, iris_top, iris_bottom), identity.iris)
    stroke(canvas, np.stack([lid_x, top], axis=1), min(skin * 0.35, 60), 0.04)
    stroke(canvas, np.stack([lid_x, bottom], axis=1), skin * 0.62, 0.02)
    if units[6] > 0.1:
        fold = np.stack([lid_x, bottom + 0.07 + 0.03 * (1 - t**2)], axis=1)
        stroke(canvas, fold, skin * (0.95 - 0.25 * units[6]), 0.03)


def paint_brow(canvas: Canvas, identity: Identity, units: Units, side: int) -> None:
    """One brow: AU1 raises its inner end, AU2 its outer end, AU4 and AU9 lower the inner end and draw it in."""
    base = identity.eye_y - identity.brow_gap
    down = (0.15 * units[4] + 0.12 * units[9]) * (1 - 0.75 * units[1])
    inner = base - 0.15 * units[1] * (1 - 0.15 * units[2]) + down
    middle = base - 0.045 - 0.06 * units[1] - 0.12 * units[2] + 0.6 * down
    outer = base + 0.03 + 0.03 * units[1] * (1 - units[2]) - 0.13 * units[2] - 0.05 * units[4] * (1 - units[1])
    start = 0.16 - 0.05 * units[4] - 0.03 * units[9]
    x = side * np.array([start, start + 0.14, identity.eye_gap + 0.05, identity.eye_gap + 0.24])
    y = np.array([inner, 0.5 * (inner + middle), middle, outer])
    thick = identity.brow_width * np.array([1, 1.1, 0.9, 0.35])
    tone = min(identity.hair, identity.skin * 0.5) if identity.hair_style else identity.skin * 0.35
    fill(canvas, between(x, y - thick, y + thick), tone)


def paint_nose(canvas: Canvas, identity: Identity, units: Units) -> None:
    """Ridge, wings and nostrils; AU9 wrinkles the bridge and lifts the wings."""
    tip, wing = 0.27 - 0.06 * units[9], 0.13 * identity.nose * (1 + 0.2 * units[9] + 0.1 * units[12])
    skin = identity.skin
    fill(canvas, line((-0.05, -0.2), (0.03, -0.2), (0.07, tip), (-0.08, tip)), skin * 1.08)
    stroke(canvas, line((0.07, -0.15), (0.09, 0.1), (wing, tip - 0.02)), skin * 0.8, 0.03)
    stroke(
        canvas, line((-wing, tip - 0.06), (-wing, tip + 0.03), (0, tip + 0.07), (wing, tip + 0.03)), skin * 0.68, 0.03
    )
    for side in (-1, 1):
        fill(canvas, ellipse(side * 0.07, tip + 0.03, 0.035, 0.022), skin * 0.35)
    for step in range(3):
        if units[9] > 0.1:
            y = identity.eye_y + 0.11 * step
            crease = line((-0.13, y + 0.05), (0, y - 0.02), (0.13, y + 0.05))
            stroke(canvas, crease, skin * (1 - 0.45 * units[9]), 0.045)


def mouth_curves(identity: Identity, units: Units) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """x and the y of upper lip, upper and lower edge of the opening, and lower lip, each of shape (17,)."""
    jaw = jaw_drop(units)
    middle = identity.mouth_y + 0.35 * jaw
    half = identity.mouth_width * (
        1 + 0.25 * units[12] + 0.32 * units[20] - 0.15 * units[23] - 0.28 * units[26] * (1 - units[12])
    )
    corner = middle + identity.mouth_bias - 0.16 * units[12] + 0.12 * units[15] + 0.04 * units[20] + 0.03 * units[10]
    opening = 0.11 * units[25] + 1.15 * jaw
    top = middle - 0.4 * opening + 0.06 * units[12] - 0.12 * units[10] - 0.05 * units[15] - 0.03 * units[17]
    bottom = max(top, top + opening)
    press = 1 - 0.7 * units[23]
    t = np.linspace(-1, 1, 17)
    bow, round_ = 1 - t**2, np.sqrt(1 - t**2)
    square = 0.5 * units[20] + 0.7 * units[10] * (1 - units[20])
    shape = (1 - square) * bow + square * round_
    upper_edge = corner + (top - corner) * shape
    lower_edge = corner + (bottom - corner) * (0.5 * bow + 0.5 * round_ if opening > 0.15 else shape)
    upper_lip = upper_edge - 0.07 * identity.lip * press * round_ * (1 - 0.25 * np.exp(-((t / 0.15) ** 2)))
    lower_lip = np.maximum(lower_edge, upper_edge) + 0.09 * identity.lip * press * (1 + 0.3 * units[17]) * bow
    return half * t, upper_lip, upper_edge, np.maximum(lower_edge, upper_edge), lower_lip


def paint_mouth(canvas: Canvas, identity: Identity, units: Units) -> None:
    """Lips, the dark of an open mouth and the teeth that AU10, AU12 and AU20 bare."""
    x, upper_lip, upper_edge, lower_edge, lower_lip = mouth_curves(identity, units)
    skin = identity.skin
    fill(canvas, between(x, upper_lip, np.maximum(upper_edge, upper_lip)), skin * 0.58)
    fill(canvas, between(x, lower_edge, lower_lip), skin * 0.68)
    if np.max(lower_edge - upper_edge) > 0.03:
        fill(canvas, between(x, upper_edge, lower_edge), min(40, skin * 0.25))
        bared = 0.11 * max(units[12], units[20], units[10])
        teeth = np.minimum(upper_edge + bared, lower_edge - 0.01)
        fill(canvas, between(x * 0.92, np.minimum(upper_edge, teeth), teeth), min(240, skin * 0.4 + 150))
    else:
        stroke(canvas, np.stack([x, upper_edge], axis=1), skin * 0.3, 0.04)
    shadow = np.stack([x[4:-4] * 0.9, lower_lip[4:-4] + 0.06], axis=1)
    stroke(canvas, shadow, skin * (0.84 - 0.2 * units[17]), 0.04)


def paint_creases(canvas: Canvas, identity: Identity, units: Units) -> None:
    """Folds beside the mouth, crow's feet, lines of frown, forehead and chin: muscles deepen what age began."""
    skin, brow = identity.skin, identity.eye_y - identity.brow_gap
    x, _, edge, _, lip = mouth_curves(identity, units)
    fold = 0.1 * identity.age + 0.28 * max(units[12], units[9], units[10], 0.5 * units[15])
    frown = 0.35 * units[4]
    raised = 0.08 * identity.age + 0.2 * max(0.7 * units[1], units[2])
    for side in (-1, 1):
        end = side * (x[-1] + 0.08)
        stroke(
            canvas, line((side * 0.17, 0.25), (0.6 * end + side * 0.09, 0.36), (end, edge[-1])), skin * (1 - fold), 0.03
        )
        stroke(canvas, line((side * 0.06, brow + 0.1), (side * 0.05, brow - 0.06)), skin * (1 - frown), 0.025)
        for rise in (-0.05, 0.03):
            away = side * (identity.eye_gap + 0.24)
            crow = line((away, identity.eye_y + rise / 2), (away + side * 0.12, identity.eye_y + 1.8 * rise))
            stroke(canvas, crow, skin * (0.95 - 0.25 * units[6]), 0.02)
    for step in (1, 2):
        y = max(identity.hairline + 0.1, brow - 0.1 - 0.1 * step)
        stroke(canvas, line((-0.35, y + 0.02), (0, y - 0.01), (0.35, y + 0.02)), skin * (0.95 - raised), 0.025)
    if units[17] > 0.1:
        fill(canvas, ellipse(0, lip[8] + 0.14, 0.12, 0.05), skin * (1 - 0.25 * units[17]))


def paint_glasses(canvas: Canvas, identity: Identity) -> None:
    """Two rims and a bridge."""
    for side in (-1, 1):
        rim = ellipse(side * identity.eye_gap, identity.eye_y + 0.02, 0.29, 0.22)
        stroke(canvas, np.concatenate([rim, rim[:2]]), identity.skin * 0.25, 0.035)
    stroke(canvas, line((-0.12, identity.eye_y), (0.12, identity.eye_y)), identity.skin * 0.25, 0.035)


def paint_occluder(canvas: Canvas, identity: Identity, scene: Scene) -> None:
    """A hand at the cheek, a lock of hair over one side, or a bar across the chin or forehead."""
    x, y = scene.occluder_at
    side = 1 if x > 0 else -1
    if scene.occluder == 1:
        fill(canvas, ellipse(x + side * 0.15, y + 0.25, 0.3, 0.35), identity.skin * 0.85)
        for finger in range(4):
            foot = x + side * (0.36 - 0.14 * finger)
            tip = (foot - side * 0.1, y - 0.35 + 0.05 * abs(finger - 1.5))
            stroke(canvas, line((foot, y + 0.2), tip), identity.skin * (0.95 - 0.04 * finger), 0.13)
            stroke(
                canvas, line((foot - side * 0.07, y + 0.2), (tip[0] - side * 0.07, tip[1])), identity.skin * 0.6, 0.02
            )
    if scene.occluder == 2:
        lock = line((0, -1.15), (x * 0.5, -0.7), (x, 0.1), (x + side * 0.1, 0.7), (side * 1.1, 0.8), (side * 1.1, -0.9))
        fill(canvas, lock, identity.hair)
    if scene.occluder == 3:
        low = 0.95 if y > 0.5 else -0.95
        fill(canvas, line((-2, low), (2, low + x * 0.15), (2, 3 * low), (-2, 3 * low)), scene.occluder_tone)


def paint(units: Units, identity: Identity, scene: Scene) -> Image.Image:
    """Draw a face without light, blur and noise as a grey picture of 192x192 pixels."""
    picture = Image.new("L", (SIDE * FINE, SIDE * FINE), round(scene.background[0]))
    canvas = Canvas(ImageDraw.Draw(picture), placement(scene))
    left, right = (share * picture.height for share in scene.horizon)
    ground = [(0, left), (picture.width, right), (picture.width, 2 * picture.height), (0, 2 * picture.height)]
    canvas.draw.polygon(ground, fill=round(scene.background[1]))
    paint_behind(canvas, identity)
    paint_head(canvas, identity, units, scene)
    paint_hair(canvas, identity)
    paint_nose(canvas, identity, units)
    paint_creases(canvas, identity, units)
    paint_mouth(canvas, identity, units)
    for side in (-1, 1):
        paint_eye(canvas, identity, units, side)
        paint_brow(canvas, identity, units, side)
    if identity.glasses:
        paint_glasses(canvas, identity)
    paint_occluder(canvas, identity, scene)
    return picture


def expose(picture: Image.Image, scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Average a fine picture down to 48x48 uint8, and put light, contrast, blur and noise on it."""
    small = picture.reduce(FINE)
    if scene.blur:
        small = small.filter(ImageFilter.GaussianBlur(scene.blur))
    across = np.linspace(-1, 1, SIDE)
    slope = across[None, :] * np.cos(scene.light) + across[:, None] * np.sin(scene.light)
    lit = np.asarray(small, dtype=np.float64) * (1 + scene.light_strength * np.tanh(1.5 * slope))
    seen = (lit - 128) * scene.contrast + 128 + scene.brightness + scene.noise * rng.standard_normal((SIDE, SIDE))
    return np.rint(np.clip(seen, 0, 255)).astype(np.uint8)


def draw_face(label: int, seed: int, index: int) -> NDArray[np.uint8]:
    """The face of data row `index` (from 0) with expression `label` (0..6), of shape (48, 48)."""
    rng = np.random.default_rng([seed, index])
    units = random_units(list(PROTOTYPES)[label], rng)
    identity, scene = random_identity(rng), random_scene(rng)
    return expose(paint(units, identity, scene), scene, rng)


@lru_cache(maxsize=2)
def schedule(seed: int, block: int) -> tuple[tuple[int, str], ...]:
    """Label and Usage of the 200 rows of a block, every expression in every split, in random order."""
    rows = [
        (label, usage)
        for usage, times in USAGES.items()
        for label, share in enumerate(SHARES)
        for _ in range(share * times)
    ]
    order = np.random.default_rng([seed, block, BLOCK]).permutation(len(rows))
    return tuple(rows[i] for i in order)


def face_of_row(seed: int, index: int, flawless: bool = False) -> NDArray[np.uint8]:
    """The 48x48 face of data row `index` (from 0), flaws of the module's docstring included."""
    block, position = divmod(index, BLOCK)
    rows = schedule(seed, block)
    label = rows[position][0]
    flaw = "" if flawless or position < BLOCK - 1 else FLAWS[block % len(FLAWS)]
    if flaw == "black":
        return np.zeros((SIDE, SIDE), dtype=np.uint8)
    if flaw:
        same = flaw == "copy"
        position = next(i for i, (other, _) in enumerate(rows) if (other == label) == same)
        label = rows[position][0]
    return draw_face(label, seed, block * BLOCK + position)


def csv_lines(count: int, seed: int, flawless: bool) -> Iterator[str]:
    """Header and `count` data rows `emotion,pixels,Usage`, each with its line end."""
    yield "emotion,pixels,Usage\n"
    for index in tqdm(range(count), desc="sample", unit=" faces", disable=None):
        label, usage = schedule(seed, index // BLOCK)[index % BLOCK]
        pixels = " ".join(map(str, face_of_row(seed, index, flawless).ravel().tolist()))
        yield f"{label},{pixels},{usage}\n"


def contact_sheet(seed: int) -> Image.Image:
    """A picture of the first 12 faces of each expression, flaws aside: one row of faces, with its name, for each."""
    size, margin = 2 * SIDE, 70
    sheet = Image.new("L", (margin + COLUMNS * size, len(PROTOTYPES) * size), 255)
    rows = [row for block in (0, 1) for row in schedule(seed, block)]
    for label, expression in enumerate(PROTOTYPES):
        ImageDraw.Draw(sheet).text((6, label * size + size // 2 - 6), expression, fill=0)
        indices = [index for index, row in enumerate(rows) if row[0] == label][:COLUMNS]
        for column, index in enumerate(indices):
            face = Image.fromarray(draw_face(label, seed, index)).resize((size, size), Image.Resampling.BICUBIC)
            sheet.paste(face, (margin + column * size, label * size))
    return sheet


def check(arguments: argparse.Namespace) -> None:
    """Raise InputError for values that cannot give a data set."""
    if arguments.rows < BLOCK:
        raise InputError(f"--rows {arguments.rows}: expected {BLOCK} or more, so that every split has every expression")
    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: expected 0 or more")
    for path in (arguments.out, arguments.picture):
        if path is not None and path.is_dir():
            raise InputError(f"{path}: expected the name of a file, found a folder")
    if arguments.picture == arguments.out:
        raise InputError(f"--picture {arguments.picture}: expected another file than OUT.csv")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m pipeline.sample",
        description="Write a CSV in FER2013's layout with drawn faces.",
        epilog="example: python -m pipeline.sample data/sample.csv --rows 4000 --seed 0 --picture sheet.png",
    )
    result.add_argument("out", type=Path, metavar="OUT.csv", help="the CSV to write")
    result.add_argument("--rows", type=int, default=4000, help="number of faces, at least 200 (default: %(default)s)")
    result.add_argument("--seed", type=int, default=0, help="another seed, other faces (default: %(default)s)")
    result.add_argument("--picture", type=Path, metavar="SHEET.png", help="also draw 12 faces of each expression here")
    result.add_argument("--flawless", action="store_true", help="no copied, contradicting and black faces")
    return result


def main() -> None:
    """Write the CSV and, if asked for, the picture: both or neither."""
    arguments = parser().parse_args()
    check(arguments)
    with ExitStack() as outputs:
        csv = outputs.enter_context(atomic(arguments.out))
        if arguments.picture is not None:
            contact_sheet(arguments.seed).save(outputs.enter_context(atomic(arguments.picture)), format="PNG")
        with csv.open("w", encoding="ascii", newline="\n") as file:
            file.writelines(csv_lines(arguments.rows, arguments.seed, arguments.flawless))


if __name__ == "__main__":
    run(main)
