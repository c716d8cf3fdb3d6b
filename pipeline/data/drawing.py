"""How a face is drawn: polygons at four times the size, averaged down, then light, contrast, blur and noise."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pipeline.data.expressions import PROTOTYPES, Identity, Scene, Units, random_identity, random_scene, random_units

SIDE = 48
FINE = 4  # drawn at 192x192, then averaged down, which smooths every edge

Floats = NDArray[np.float64]


class Canvas(NamedTuple):
    """A picture and the map from face coordinates, of shape (n, 2), to its pixels."""

    draw: ImageDraw.ImageDraw
    place: Callable[[Floats], Floats]


def placement(scene: Scene) -> Callable[[Floats], Floats]:
    """The map from face coordinates (origin between nose and eyes, y down) to pixels of the fine picture."""
    cosine, sine = np.cos(scene.roll), np.sin(scene.roll)
    turn = 20 * scene.scale * np.array([[cosine, sine], [-sine, cosine]])
    centre = SIDE / 2 + np.array(scene.shift)

    def place(points: Floats) -> Floats:
        x, y = points[:, 0], points[:, 1]
        depth = np.maximum(0, 1 - x**2)  # the middle of a face is nearer than its outline
        seen = np.stack([x * np.cos(scene.yaw) + depth * np.sin(scene.yaw), y + depth * np.sin(scene.pitch)], axis=1)
        placed: Floats = FINE * ((seen[:, :1] * turn[0] + seen[:, 1:] * turn[1]) + centre)
        return placed

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
    grey: NDArray[np.uint8] = np.rint(np.clip(seen, 0, 255)).astype(np.uint8)
    return grey


def draw_face(label: int, seed: int, index: int) -> NDArray[np.uint8]:
    """The face of data row `index` (from 0) with expression `label` (0..6), of shape (48, 48)."""
    rng = np.random.default_rng([seed, index])
    units = random_units(list(PROTOTYPES)[label], rng)
    identity, scene = random_identity(rng), random_scene(rng)
    return expose(paint(units, identity, scene), scene, rng)
