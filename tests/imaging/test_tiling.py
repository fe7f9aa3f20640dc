"""Windows of a volume, and tiled evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from flaxflair.core.records import Array
from flaxflair.imaging.tiling import cut_axis, draw_window, plan_tiles, stream

edges = st.tuples(*[st.integers(1, 9)] * 3)
windows = st.tuples(*[st.integers(0, 12)] * 3)


@given(edges, windows, st.integers(0, 2**32))
def test_window_contains_a_candidate_and_has_a_fixed_shape(shape, window, seed):
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


def test_every_candidate_is_drawn_as_a_centre():
    inside = np.argwhere(np.ones((5, 5, 5)))[31:94:31]
    rng = np.random.default_rng(0)
    drawn = [draw_window(rng, (5, 5, 5), (1, 1, 1), inside) for _ in range(60)]
    assert {tuple(part.start for part in cut) for cut in drawn} == set(map(tuple, inside.tolist()))


@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 12), st.integers(1, 5))
def test_cuts_write_every_voxel_once_and_read_its_halo(size, pieces, halo, stride):
    cuts = list(cut_axis(size, pieces, halo, stride))
    assert len(cuts) <= pieces
    assert [at for cut in cuts for at in range(size)[cut.write]] == list(range(size))
    assert len({cut.read.stop - cut.read.start for cut in cuts}) == 1
    for cut in cuts:
        assert range(size)[cut.read][cut.keep] == range(size)[cut.write]
        assert 0 <= cut.read.start <= max(cut.write.start - halo, 0)
        assert min(cut.write.stop + halo, size) <= cut.read.stop <= size
        assert cut.read.start % stride == 0


@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 12))
def test_cuts_without_stride_read_no_more_than_the_halo(size, pieces, halo):
    for cut in cut_axis(size, pieces, halo):
        assert cut.read.stop - cut.read.start <= -(-size // pieces) + 2 * halo


def held(
    shape: tuple[int, ...], pieces: tuple[int, ...], halo: int, stride: int
) -> tuple[int, int]:
    """Returns the numbers of voxels read by one tile and by all tiles."""
    cuts = [list(cut_axis(size, n, halo, stride)) for size, n in zip(shape, pieces, strict=True)]
    lengths = [axis[0].read.stop - axis[0].read.start for axis in cuts]
    return int(np.prod(lengths)), int(np.prod(lengths)) * int(np.prod([len(c) for c in cuts]))


@given(
    st.tuples(*[st.integers(1, 30)] * 3),
    st.integers(0, 4),
    st.integers(200, 20_000),
    st.integers(1, 4),
)
def test_plan_respects_the_tile_size_and_minimises_voxels_read(shape, halo, voxels, stride):
    pieces = plan_tiles(shape, halo, voxels, stride)
    size, total = held(shape, pieces, halo, stride)
    thinnest = held(shape, shape, halo, stride)[0]
    assert size <= max(voxels, thinnest)
    for other in [(1, 1, 1), (2, 1, 1), (1, 3, 1), (2, 2, 2), (4, 1, 2)]:
        other = tuple(min(n, edge) for n, edge in zip(other, shape, strict=True))
        theirs, all_of_them = held(shape, other, halo, stride)
        assert theirs > voxels or all_of_them >= total


def test_small_volume_is_one_tile():
    assert plan_tiles((208, 256, 40), 4, 208 * 256 * 40) == (1, 1, 1)
    assert plan_tiles((208, 256, 40), 4, 0) == (1, 1, 1)


def smooth(volume: Array) -> Array:
    """A filter with a radius of two voxels, scaled by a second channel."""
    return volume[..., 1] * ndimage.uniform_filter(volume[..., 0], size=5, mode="constant")


@pytest.mark.parametrize("voxels", [0, 1, 125, 216, 400])
@pytest.mark.parametrize("shape", [(13, 6, 5), (6, 13, 5), (9, 8, 10)])
def test_streamed_filter_equals_filter_of_the_whole_volume(shape: tuple[int, ...], voxels: int):
    volume = np.random.default_rng(0).normal(size=(*shape, 2))
    sizes = []

    def spy(part: Array) -> Array:
        sizes.append(part[..., 0].size)
        return smooth(part)

    np.testing.assert_allclose(
        stream(spy, (volume,), halo=2, tile_voxels=voxels), smooth(volume), atol=1e-12
    )
    assert max(sizes) <= (max(voxels, 125) if voxels else volume[..., 0].size)
    assert len(sizes) > 1 or voxels in (0, 400)


def test_too_thin_halo_changes_the_result():
    volume = np.random.default_rng(0).normal(size=(13, 6, 5, 2))
    thin = stream(smooth, (volume,), halo=1, tile_voxels=200)
    assert np.abs(thin - smooth(volume)).max() > 0.01


def blocky(volume: Array) -> Array:
    """Maximum over blocks of 3 voxels along each axis, padded with zeros."""
    margins = [(0, -size % 3) for size in volume.shape]
    blocks = np.pad(volume, margins)
    for axis in range(3):
        starts = range(0, blocks.shape[axis], 3)
        blocks = np.repeat(np.maximum.reduceat(blocks, starts, axis), 3, axis)
    return blocks[tuple(slice(size) for size in volume.shape)]


@pytest.mark.parametrize("shape", [(19, 6, 5), (7, 20, 5), (9, 8, 10)])
def test_strided_filter_needs_its_stride(shape: tuple[int, ...]):
    volume = np.random.default_rng(0).normal(size=shape)
    streamed = stream(blocky, (volume,), halo=2, tile_voxels=200, stride=3)
    np.testing.assert_array_equal(streamed, blocky(volume))
    assert not np.array_equal(stream(blocky, (volume,), halo=2, tile_voxels=200), blocky(volume))


def test_empty_volume_is_refused():
    with pytest.raises(ValueError, match="nothing to stream"):
        stream(lambda v: v, (np.zeros((0, 0, 0)),), halo=1, tile_voxels=4)
