"""Least squares: the coefficients of a world that is linear are found."""

from __future__ import annotations

import numpy as np

from flaxflair.baselines import least_squares
from flaxflair.core.records import Array

COEFFICIENTS = np.array([2.0, -0.5, 0.25, 3.0])


def linear_world(count: int, seed: int) -> tuple[Array, Array, Array]:
    """Returns (images, flair, region); outside the region, the FLAIR knows nothing of them."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, 5, 6, 3)).astype(np.float32)
    region = rng.random(images.shape[:-1]) > 0.3
    flair = images @ COEFFICIENTS[:-1] + COEFFICIENTS[-1]
    return images, np.where(region, flair, 1e6).astype(np.float32), region


def test_coefficients_are_recovered_from_the_regions():
    model = least_squares.fit(linear_world(count, seed) for seed, count in enumerate((3, 9)))
    np.testing.assert_allclose(model.coefficients, COEFFICIENTS, atol=1e-6)


def test_prediction_is_the_weighted_sum_of_images():
    images, flair, region = linear_world(4, 7)
    prediction = least_squares.predict(least_squares.LeastSquares(COEFFICIENTS), images)
    assert prediction.dtype == np.float32
    np.testing.assert_allclose(prediction[region], flair[region], atol=1e-5)


def test_duplicated_input_does_not_change_the_prediction():
    images, flair, region = linear_world(6, 1)
    twice = np.concatenate([images, images[..., :1]], axis=-1)
    model = least_squares.fit([(twice, flair, region)])
    assert np.isfinite(model.coefficients).all()
    np.testing.assert_allclose(
        least_squares.predict(model, twice)[region], flair[region], atol=1e-4
    )
