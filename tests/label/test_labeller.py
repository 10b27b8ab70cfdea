"""Boxes and crops against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from heatpose.label.labeller import around, box_of
from heatpose.predict.estimator import Region


def test_the_box_reaches_beyond_the_keypoints() -> None:
    """Extents 100 and 300, mean 200: 20 to the sides, 40 above, 26 below; cut at the image."""
    points = np.array([[100.0, 100.0], [200.0, 400.0], [150.0, 300.0]])
    assert box_of(points, (640, 480)) == pytest.approx((80, 60, 140, 366))
    assert box_of(points, (210, 410)) == pytest.approx((80, 60, 130, 350))
    assert box_of(points[:1], (640, 480)) == pytest.approx((100, 100, 0, 0))


def test_the_crop_of_a_box_is_a_larger_square_about_it() -> None:
    assert around((100, 100, 40, 80)) == Region(70, 90, 100)
    assert around((0, 0, 0.4, 0.4)).side == 2
