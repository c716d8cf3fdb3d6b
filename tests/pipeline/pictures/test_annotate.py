"""What is drawn into a picture stands where the face is."""

import numpy as np
from PIL import Image

from pipeline.pictures import annotate
from pipeline.pictures.detect import Box


def test_frame_and_heat_stand_on_the_face_of_an_enlarged_picture() -> None:
    warm = np.zeros((48, 48), np.float32)
    warm[:, :24] = 1
    drawn = annotate.Drawn(Box(60, 60, 60, 60), ["x"], warm)
    found = annotate.annotate(Image.new("L", (240, 240)), [drawn])
    assert found.size == (480, 480)
    assert found.getpixel((120, 180)) == annotate.LINE
    assert found.getpixel((150, 180))[0] > 100
    assert found.getpixel((220, 180)) == (0, 0, 0)
