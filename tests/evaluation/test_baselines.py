import numpy as np
import pytest
from numpy.typing import NDArray

from attnviz.evaluation.baselines import gaussian, saliency
from attnviz.geometry.placement import Fit, place
from attnviz.io.picture import Picture


def test_the_gaussian_has_a_quarter_of_each_side_for_sigma() -> None:
    found = gaussian(place(128, 64, size=91, patch=16))
    assert found.shape == (4, 8)
    u = (np.arange(8) + 0.5) / 8 - 0.5
    np.testing.assert_allclose(found[0] / found[0, 0], np.exp(-8 * (u**2 - u[0] ** 2)))
    np.testing.assert_allclose(found, found[::-1, ::-1])
    assert found[1, 3] == pytest.approx(np.exp(-8 * (1 / 16**2 + 1 / 8**2)))


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_the_gaussian_lies_over_what_was_seen(fit: Fit) -> None:
    found = gaussian(place(128, 64, size=64, patch=8, fit=fit))
    u = (np.arange(8) + 0.5) / 8 - 0.5
    v = 2 * u if fit == "pad" else u  # the padded picture is half as high as the input
    np.testing.assert_allclose(found, np.exp(-8 * (v[:, None] ** 2 + u**2)))


def picture(colours: NDArray[np.float64]) -> Picture:
    return Picture("made.png", colours.astype(np.uint8))


def test_a_flat_picture_has_no_salient_token() -> None:
    placement = place(64, 64, size=64, patch=16)
    found = saliency(picture(np.full((64, 64, 3), 90)), placement, np.ones((4, 4), np.bool_))
    assert (found == 0).all()


def test_distance_and_contrast_are_each_from_0_to_1() -> None:
    colours = np.zeros((64, 64, 3))
    colours[16:32, 16:32] = 255  # a white token: as far from the border as can be, no contrast
    colours[32:48, 32:48:2] = 255  # a striped one: half as far, full of contrast
    found = saliency(picture(colours), place(64, 64, size=64, patch=16), np.ones((4, 4), np.bool_))
    expected = np.zeros((4, 4))
    expected[1, 1], expected[2, 2] = 1, 0.5 + 1
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_border_is_that_of_what_was_seen_and_only_drawn_tokens_count() -> None:
    colours = np.zeros((32, 96, 3))
    colours[:, :32] = 200  # cropped off
    colours[16:, 48:64] = 100
    placement = place(96, 32, size=32, patch=16, fit="crop")
    drawn = np.array([[True, True], [True, True]])
    found = saliency(picture(colours), placement, drawn)
    assert found.argmax() == 3
    drawn[1, 1] = False
    found = saliency(picture(colours), placement, drawn)
    assert (found == 0).all()


def test_padding_does_not_count() -> None:
    colours = np.full((20, 64, 3), 90)
    placement = place(64, 20, size=64, patch=16, fit="pad")
    found = saliency(picture(colours), placement, placement.coverage(0, 0, 64, 20) > 0)
    np.testing.assert_allclose(found, 0, atol=1e-6)
