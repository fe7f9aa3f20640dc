"""Windows lie in the volume; slabs sewn together are the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from flaxflair.volume import Array
from flaxflair.windows import cut_slabs, draw_window, stream

edges = st.tuples(*[st.integers(1, 9)] * 3)
windows = st.tuples(*[st.integers(0, 12)] * 3)


@given(edges, windows, st.integers(0, 2**32))
def test_a_window_lies_in_the_volume_around_a_wanted_voxel_and_is_always_as_large(
    shape, window, seed
):
    rng = np.random.default_rng(seed)
    inside = np.argwhere(rng.random(shape) > 0.7)
    inside = inside if len(inside) else np.zeros((1, 3), int)
    expected = tuple(
        size if edge == 0 else min(edge, size) for size, edge in zip(shape, window, strict=True)
    )
    for _ in range(3):
        cut = draw_window(rng, shape, window, inside)
        assert all(part.start >= 0 and part.stop <= n for part, n in zip(cut, shape, strict=True))
        assert tuple(part.stop - part.start for part in cut) == expected
        low, high = ([getattr(part, end) for part in cut] for end in ("start", "stop"))
        assert ((inside >= low) & (inside < high)).all(axis=1).any()


def test_every_wanted_voxel_is_drawn_as_a_centre():
    inside = np.argwhere(np.ones((5, 5, 5)))[31:94:31]
    rng = np.random.default_rng(0)
    drawn = [draw_window(rng, (5, 5, 5), (1, 1, 1), inside) for _ in range(60)]
    assert {tuple(part.start for part in cut) for cut in drawn} == set(map(tuple, inside.tolist()))


@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 12))
def test_slabs_write_every_voxel_once_and_read_its_whole_neighbourhood(size, thickness, halo):
    slabs = list(cut_slabs(size, thickness, halo))
    written = [at for slab in slabs for at in range(size)[slab.write]]
    assert written == list(range(size))
    assert len({slab.read.stop - slab.read.start for slab in slabs}) == 1
    for slab in slabs:
        assert range(size)[slab.read][slab.keep] == range(size)[slab.write]
        assert 0 <= slab.read.start <= max(slab.write.start - halo, 0)
        assert min(slab.write.stop + halo, size) <= slab.read.stop <= size


def smooth(volume: Array) -> Array:
    """A filter that looks two voxels far, and scales by a second channel."""
    return volume[..., 1] * ndimage.uniform_filter(volume[..., 0], size=5, mode="constant")


@pytest.mark.parametrize("slab", [0, 1, 2, 5, 7, 30])
@pytest.mark.parametrize("shape", [(13, 6, 5), (6, 13, 5), (5, 6, 13)])
def test_a_streamed_local_filter_is_the_filter_of_the_whole(shape: tuple[int, ...], slab: int):
    volume = np.random.default_rng(0).normal(size=(*shape, 2))
    thickest = 0

    def spy(part: Array) -> Array:
        nonlocal thickest
        thickest = max(thickest, part.shape[shape.index(13)])
        return smooth(part)

    np.testing.assert_allclose(
        stream(spy, (volume,), halo=2, slab=slab), smooth(volume), atol=1e-12
    )
    assert thickest == (min(13, slab + 4) if slab else 13)


def test_a_halo_that_is_too_thin_shows():
    volume = np.random.default_rng(0).normal(size=(13, 6, 5, 2))
    thin = stream(smooth, (volume,), halo=1, slab=4)
    assert np.abs(thin - smooth(volume)).max() > 0.01


def test_a_volume_without_voxels_cannot_be_streamed():
    with pytest.raises(ValueError, match="nothing to stream"):
        stream(lambda v: v, (np.zeros((0, 0, 0)),), halo=1, slab=4)
