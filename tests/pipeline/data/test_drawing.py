import numpy as np
import pytest
from numpy.typing import NDArray

from cfpn.schema import EXPRESSIONS
from pipeline.data.drawing import expose, lid_heights, mouth_curves, paint
from pipeline.data.expressions import (
    ACTION_UNITS,
    PROTOTYPES,
    Identity,
    Scene,
    Units,
    random_identity,
    random_scene,
    random_units,
)

BROWS, EYES, MOUTH = slice(10, 17), slice(17, 22), slice(30, 41)  # pixel rows of the average face


def units(**shown: float) -> Units:
    return dict.fromkeys(ACTION_UNITS, 0.0) | {int(name[2:]): value for name, value in shown.items()}


def typical(expression: str) -> Units:
    middles = {f"au{u}": (low + high) / 2 for u, (often, low, high) in PROTOTYPES[expression].items() if often > 0.5}
    return units(**middles)


def plain(shown: Units) -> NDArray[np.float64]:
    scene = Scene()
    return expose(paint(shown, Identity(), scene), scene, np.random.default_rng(0)).astype(float)


def test_the_order_of_the_prototypes_is_that_of_the_labels() -> None:
    assert tuple(PROTOTYPES) == EXPRESSIONS


def test_intensities_stay_inside_the_prototype() -> None:
    rng = np.random.default_rng(1)
    for expression, prototype in PROTOTYPES.items():
        for _ in range(50):
            shown = {unit: value for unit, value in random_units(expression, rng).items() if value}
            assert shown.keys() <= prototype.keys()
            assert all(prototype[unit][1] <= value <= prototype[unit][2] for unit, value in shown.items())
            assert all(unit in shown for unit, (often, low, _) in prototype.items() if often == 1 and low > 0)


def test_every_pair_of_expressions_differs_on_one_and_the_same_plain_face() -> None:
    faces = [plain(typical(expression)) for expression in EXPRESSIONS]
    for i, face in enumerate(faces):
        for other in faces[:i]:
            assert np.abs(face - other)[10:41].max() > 40


def test_happy_differs_from_sad_at_the_mouth() -> None:
    difference = np.abs(plain(typical("happy")) - plain(typical("sad")))
    assert difference[MOUTH].mean() > 4 * difference[22:28].mean()


@pytest.mark.parametrize("unit", ["au1", "au2", "au4"])
def test_a_brow_unit_leaves_the_mouth_alone(unit: str) -> None:
    difference = np.abs(plain(units(**{unit: 1})) - plain(units()))
    assert difference[BROWS].max() > 15
    assert difference[MOUTH].max() == 0


@pytest.mark.parametrize("unit", ["au10", "au12", "au15", "au20", "au23", "au25", "au26", "au27"])
def test_a_mouth_unit_leaves_the_brows_alone(unit: str) -> None:
    difference = np.abs(plain(units(**{unit: 1})) - plain(units()))
    assert difference[MOUTH].max() > 15
    assert difference[BROWS].max() <= 3


def test_lids_open_with_au5_and_narrow_with_au7() -> None:
    heights = [sum(lid_heights(Identity(), units(**shown))) for shown in ({"au7": 1}, {}, {"au5": 1})]
    assert heights == sorted(heights)
    assert (plain(units(au5=1)) - plain(units()))[EYES].max() > 15


def test_mouth_corners_rise_with_au12_and_fall_with_au15() -> None:
    rise = {}
    for name, shown in {"smile": units(au12=1), "rest": units(), "frown": units(au15=1)}.items():
        _, _, edge, _, _ = mouth_curves(Identity(), shown)
        rise[name] = edge[8] - edge[0]  # y points down: positive when the corner is above the middle
    assert rise["frown"] < rise["rest"] < rise["smile"]
    assert rise["frown"] < 0 < rise["smile"]


def test_lips_never_cross_whatever_the_units() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        expression = EXPRESSIONS[rng.integers(7)]
        identity = random_identity(rng)
        _, upper_lip, upper_edge, lower_edge, lower_lip = mouth_curves(identity, random_units(expression, rng))
        for above, below in ((upper_lip, upper_edge), (upper_edge, lower_edge), (lower_edge, lower_lip)):
            assert (above <= below + 1e-12).all()


def test_every_kind_of_face_and_scene_can_be_drawn() -> None:
    rng = np.random.default_rng(3)
    for style in range(4):
        for occluder in range(4):
            identity = random_identity(rng)._replace(hair_style=style, beard=0.4, glasses=True, moustache=True)
            scene = random_scene(rng)._replace(occluder=occluder)
            face = expose(paint(random_units("fear", rng), identity, scene), scene, rng)
            assert face.shape == (48, 48)
            assert face.dtype == np.uint8
