"""Lesions of a universal model: the same FLAIR, and what is left without each input."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from flaxflair.config.universal import ConditionalConfig
from flaxflair.core.records import Array, InputError, Subject
from flaxflair.imaging.standard import Standard
from flaxflair.models import lesions as under_test
from flaxflair.models.lesions import Maps, expect_lesions, leave_out, predict_with_lesions
from flaxflair.models.model import predict
from flaxflair.models.universal import UniversalModel, make_network
from tests.samples import ball

TINY = ConditionalConfig(widths=(4, 6), convolutions=1, fine=3)
EDGES = (2.0, 2.0, 3.0)


@pytest.fixture(scope="module")
def tiny() -> UniversalModel:
    network = make_network(TINY)
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        scale = 0.3 * max(1, int(np.prod(leaf.shape[:-1]))) ** -0.5
        return (scale * rng.standard_normal(leaf.shape)).astype(np.float32)

    return UniversalModel(
        TINY, network, jax.tree.map(draw, jax.eval_shape(network.init, jax.random.key(0)))
    )


def test_the_flair_is_that_of_a_prediction_without_lesions(tiny: UniversalModel):
    subject = ball(EDGES)
    flair, found = predict_with_lesions(tiny, subject)
    assert_array_equal(flair.array, predict(tiny, subject).array)
    assert found.probability.shape == subject.geometry.shape
    assert found.probability.dtype == np.float32
    assert 0 <= found.probability.min() <= found.probability.max() <= 1
    assert not found.probability[~subject.masks.brain].any()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Sequences of every pass of a network that finds a lesion unless the T2 is missing."""
    passes: list[tuple[str, ...]] = []

    def maps(model: object, subject: Subject, **_: object) -> Maps:
        passes.append(subject.sequences)
        probability = np.zeros(subject.geometry.shape, np.float32)
        probability[8:14, 15:20, 12:16] = 0.9 if "T2" in subject.sequences else 0.1
        flair: Array = np.ones(subject.geometry.shape, np.float32)
        none = np.zeros(0, np.float32)
        standard = Standard(none, none, subject.masks.brain, subject.geometry)
        return Maps(standard, flair, probability)

    monkeypatch.setattr(under_test, "predict_maps", maps)
    return passes


def test_a_lesion_rests_on_the_input_without_which_it_is_not_found(
    tiny: UniversalModel, seen: list[tuple[str, ...]]
):
    _, found = predict_with_lesions(tiny, ball(EDGES))
    assert seen == [("T1", "T2"), ("T2",), ("T1",)]
    (lesion,) = found.lesions
    assert lesion.without == pytest.approx({"T1": 0.9, "T2": 0.1})
    assert lesion.side == "left"


def test_one_input_needs_one_pass(tiny: UniversalModel, seen: list[tuple[str, ...]]):
    _, found = predict_with_lesions(tiny, leave_out(ball(EDGES), "T1"))
    assert seen == [("T2",)]
    assert [lesion.without for lesion in found.lesions] == [{}]


def test_without_lesions_no_further_pass_is_made(
    tiny: UniversalModel, seen: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(under_test, "find_lesions", lambda p, size: np.zeros(p.shape, np.int32))
    _, found = predict_with_lesions(tiny, ball(EDGES))
    assert (len(seen), found.lesions) == (1, ())


def test_what_is_left_out_is_gone_and_the_rest_unchanged():
    subject = ball(EDGES)
    rest = leave_out(subject, "T1")
    assert rest.sequences == ("T2",)
    assert_allclose(rest.images[..., 0], subject.images[..., 1])
    assert replace(rest, sequences=(), images=subject.images).name == subject.name


def test_a_model_without_lesions_is_refused_by_its_kind():
    from tests.pipelines.test_resuming import make_model

    with pytest.raises(InputError, match="predicts a FLAIR and no lesions; name a universal"):
        expect_lesions(make_model())
