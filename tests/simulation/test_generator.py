"""Generator: reproducible and plausible samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from flaxflair.core.records import InputError
from flaxflair.core.sequences import INPUTS
from flaxflair.imaging.standard import encode_condition
from flaxflair.simulation.generator import generator
from flaxflair.simulation.generator.acquisition import Resolution, acquire, draw_mask
from flaxflair.simulation.generator.anatomies import (
    MNI_SHAPE,
    Anatomy,
    LesionLibrary,
    Library,
    load_library,
)
from flaxflair.simulation.generator.classes import CLASSES, CORTEX, FLUID, VENTRICLES, WHITE
from flaxflair.simulation.generator.contrasts import (
    TIMINGS,
    draw_relaxation,
    make_contrast,
    make_target,
)
from flaxflair.simulation.generator.generator import sample
from flaxflair.simulation.generator.lesions import draw_lesions
from flaxflair.simulation.generator.ranges import LesionRanges, Ranges, ScannerRanges
from flaxflair.simulation.generator.splines import (
    apply_along,
    linear_matrix,
    sampling_matrix,
    smooth_field,
)
from flaxflair.simulation.generator.storage import open_library, save_library
from flaxflair.simulation.generator.window import Window, cut_window


@pytest.fixture(scope="module")
def library() -> Library:
    """A head of nested balls: ventricles, white matter, cortex, fluid."""
    n = 96
    radius = np.linalg.norm(np.indices((n, n, n)) - (n - 1) / 2, axis=0)
    classes = np.zeros((n, n, n), np.uint8)
    for edge, tissue in ((44, FLUID), (41, CORTEX), (37, WHITE), (10, VENTRICLES)):
        classes[radius < edge] = tissue
    to_mni = np.array([[1.0, -n / 2], [1.0, -n / 2], [1.0, -n / 2 + 20]])
    anatomy = Anatomy(
        classes,
        to_mni,
        np.clip(radius - 10, 0, 60).astype(np.uint8),
        np.clip(37 - radius, 0, 60).astype(np.uint8),
        np.argwhere(classes == WHITE).astype(np.int32),
    )
    masks = np.zeros((1, *MNI_SHAPE), np.uint8)
    masks[0, 85:110, 115:135, 85:100] = 255
    ball = np.argwhere(np.linalg.norm(np.indices((9, 9, 9)) - 4, axis=0) < 4) - 4
    prior = np.full(MNI_SHAPE, 0.2, np.float32)
    lesions = LesionLibrary(ball.astype(np.int16), np.array([0, len(ball)]), masks, prior)
    return Library((anatomy,), lesions)


def middle(library: Library, size: int = 32) -> Window:
    centre = np.array(library.anatomies[0].classes.shape) / 2
    rng = np.random.default_rng(0)
    return cut_window(rng, library.anatomies[0], Ranges().anatomy, centre + 18, (size, size, size))


def test_sample_depends_only_on_its_seed(library):
    first = sample(library, Ranges(), (5, 1), shape=(32, 32, 32))
    sample(library, Ranges(), (5, 2), shape=(32, 32, 32))
    again = sample(library, Ranges(), (5, 1), shape=(32, 32, 32))
    for a, b in zip(first, again, strict=True):
        for x, y in zip(a, b, strict=True):
            assert_array_equal(x, y)


def test_examples_of_a_sample_share_the_flair_and_differ_in_their_images(library):
    a, b = sample(library, Ranges(), (5, 3), shape=(32, 32, 32), count=2)
    assert_array_equal(a.flair, b.flair)
    assert not np.array_equal(a.images, b.images)


def test_absent_sequences_are_zero_in_images_and_condition(library):
    for seed in range(8):
        for example in sample(library, Ranges(), (6, seed), shape=(32, 32, 32)):
            there = example.images.any(axis=(0, 1, 2))
            assert_array_equal(there, example.condition.reshape(len(INPUTS), 4)[:, 0] == 1)
            assert there.any()
            assert np.isfinite(example.images).all()


def test_the_condition_holds_the_logarithms_of_voxel_edges():
    rows = encode_condition({"T2": (1.0, 0.5, 4.0)}).reshape(len(INPUTS), 4)
    assert_allclose(rows[INPUTS.index("T2")], [1, 0, -1, 2])
    assert not np.delete(rows, INPUTS.index("T2"), axis=0).any()


def test_lesions_are_bright_on_the_flair_and_fluid_is_dark(library):
    window = middle(library, 64)
    ranges = replace(LesionRanges(), healthy_share=0, shape_share=1, count=(8.0, 8.0))
    ranges = replace(ranges, perivascular=(0.0, 0.0), lacune_share=0, cavity_share=0)
    rng = np.random.default_rng(3)
    lesions = draw_lesions(rng, window, library.lesions, ranges, 0)
    relaxation = draw_relaxation(rng, window.shape, Ranges().tissue, ranges)
    flair = make_target(window, relaxation, lesions)
    white = (window.white > 0.99) & (lesions.load + lesions.halo < 0.01)
    assert (lesions.load > 0.9).sum() > 50
    assert flair[white].mean() == pytest.approx(1, abs=0.03)
    assert flair[(lesions.load > 0.9)].mean() > 1.15
    fluid = np.asarray(ndimage.binary_erosion(window.fluid > 0.99), bool)
    assert np.mean(flair, where=fluid) == pytest.approx(0.25, abs=0.01)


def test_grey_matter_of_the_target_varies_as_little_as_in_scanned_flairs(library):
    window = middle(library, 24)
    none = draw_lesions(
        np.random.default_rng(0), window, library.lesions, LesionRanges(healthy_share=1), 0
    )
    plain = replace(Ranges().tissue, texture_t1_sd=(0, 0), texture_t2_sd=(0, 0))
    grey = (window.grey > 0.99) & (window.fluid < 0.01)
    ratios = []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        relaxation = draw_relaxation(rng, window.shape, plain, LesionRanges())
        flair = make_target(window, relaxation, none)
        white = np.median(flair[(window.white > 0.99) & (none.load + none.halo < 0.01)])
        ratios.append(float(np.median(flair[grey]) / white))
    assert np.mean(ratios) == pytest.approx(1.2, abs=0.1)
    assert np.std(ratios) < 0.1


def test_inputs_at_low_field_share_the_target_with_those_at_high_field(library):
    window = middle(library)
    none = draw_lesions(np.random.default_rng(0), window, library.lesions, LesionRanges(), None)
    targets = []
    for share in (0.0, 1.0):
        tissue = replace(
            Ranges().tissue,
            low_field_share=share,
            low_field_t1=(0.7, 0.7),
            low_field_t2=(1.1, 1.1),
            texture_t1_sd=(0, 0),
            texture_t2_sd=(0, 0),
            texture_pd_sd=(0, 0),
            person_sd=0,
            t1_sd=0,
            t2_sd=0,
            pd_sd=0,
        )
        relaxation = draw_relaxation(np.random.default_rng(1), window.shape, tissue, LesionRanges())
        targets.append(make_target(window, relaxation, none))
    assert_allclose(targets[0], targets[1], rtol=1e-5, atol=1e-6)


def test_healthy_sample_has_no_lesions(library):
    ranges = replace(LesionRanges(), healthy_share=1, rim_share=0)
    lesions = draw_lesions(np.random.default_rng(0), middle(library), library.lesions, ranges, 0)
    assert not lesions.load.any()


@pytest.mark.parametrize("name", INPUTS)
def test_sequences_have_the_tissue_order_of_scanners(library, name):
    window = middle(library)
    rng = np.random.default_rng(1)
    ranges = replace(LesionRanges(), healthy_share=1, rim_share=0)
    lesions = draw_lesions(rng, window, library.lesions, ranges, None)
    for seed in range(6):
        drawn = np.random.default_rng(seed)
        relaxation = draw_relaxation(drawn, window.shape, Ranges().tissue, ranges)
        timing = TIMINGS[name](drawn, relaxation.low_field)
        fluid, grey, white = make_contrast(window, relaxation, lesions, timing).levels
        if name in ("T1", "T1SE"):
            assert fluid < grey < white
        if name in ("T2", "PD"):
            assert white < grey
        if name == "T2":
            assert grey < fluid
        if name == "DIR":
            assert max(fluid, white) < grey


def test_narrow_sulci_reduce_fluid_only(library):
    centre = np.array(library.anatomies[0].classes.shape) / 2
    wide, narrow = (
        cut_window(
            np.random.default_rng(0),
            library.anatomies[0],
            replace(Ranges().anatomy, narrow_share=share),
            centre,
            (96, 96, 96),
        )
        for share in (0.0, 1.0)
    )
    assert narrow.fluid.sum() < 0.9 * wide.fluid.sum()
    assert narrow.white.sum() == wide.white.sum()


def test_thick_slices_smooth_along_one_axis():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((48, 48, 48)).astype(np.float32) + 10
    ranges = replace(
        ScannerRanges(),
        shift_mm=0.0,
        rotation=0.0,
        noise_sd=(0.0, 0.0),
        bias_sd=(0.0, 0.0),
        ghost_share=0.0,
        psf=(0.0, 0.0),
    )
    thick = acquire(rng, image, Resolution((1, 1, 6), (1, 1, 6)), ranges, 1.0)
    change = [np.abs(np.diff(thick, axis=axis)).mean() for axis in range(3)]
    assert change[2] < 0.4 * min(change[:2])
    assert thick.mean() == pytest.approx(10, abs=0.05)


def test_mask_errors_stay_near_the_edge(library):
    brain = np.zeros((48, 48, 48), np.float32)
    brain[8:40, 8:40, 8:40] = 1
    mask = draw_mask(np.random.default_rng(0), brain, ScannerRanges())
    assert mask[16:32, 16:32, 16:32].all()
    assert not mask[:2].any()


def test_smooth_fields_have_unit_variance():
    fields = [smooth_field(np.random.default_rng(k), (40, 40, 40), 6.0) for k in range(8)]
    assert np.std(fields) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("sd", "width"), [(0.0, 1.0), (0.7, 4.0), (1.5, 1.0)])
def test_sampling_preserves_constants_and_slopes(sd, width):
    at = np.arange(10.0, 30.0, 2.5)
    matrix = sampling_matrix(40, at, sd=sd, width=width)
    assert_allclose(matrix @ np.ones(40), 1, rtol=1e-5)
    assert_allclose(matrix @ np.arange(40.0), at, rtol=1e-4)


def test_linear_interpolation_reproduces_a_slope():
    at = np.array([0.0, 3.3, 7.1, 12.0])
    assert_allclose(linear_matrix(at, 12) @ at, np.arange(12.0), atol=1e-5)
    image = np.random.default_rng(0).random((12, 12, 12), np.float32)
    assert_allclose(apply_along([np.eye(12, dtype=np.float32)] * 3, image), image)


def test_stored_library_gives_the_same_samples(library, tmp_path):
    save_library(tmp_path / "library", library)
    a = sample(open_library(tmp_path / "library"), Ranges(), (1, 1), shape=(32, 32, 32), count=1)[0]
    b = sample(library, Ranges(), (1, 1), shape=(32, 32, 32), count=1)[0]
    for x, y in zip(a, b, strict=True):
        assert_array_equal(x, y)


def test_folder_without_label_maps_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="holds no label map"):
        load_library(tmp_path, tmp_path, tmp_path)
    with pytest.raises(InputError, match="holds no library"):
        open_library(tmp_path)


def test_labels_of_classes_are_disjoint():
    labels = [label for tissue in CLASSES for label in tissue.labels]
    assert len(labels) == len(set(labels))


def test_usual_subsets_name_input_sequences():
    assert all(set(subset) <= set(INPUTS) for subset in generator.USUAL)
