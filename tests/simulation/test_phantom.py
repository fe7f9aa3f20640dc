"""Phantom: physics, scanner, subjects and files."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from flaxflair.core.records import Array, Geometry, InputError
from flaxflair.core.sequences import INPUTS, SEQUENCES
from flaxflair.imaging.resampling import resample
from flaxflair.io.bids import name_sequence
from flaxflair.io.datasets import load_cohort
from flaxflair.io.nifti import read_volume
from flaxflair.simulation import scanner
from flaxflair.simulation.anatomy import MEDIUM, build_head, draw_person, load_atlas
from flaxflair.simulation.fields import Lattice, interpolate, sample, smooth_noise, stream
from flaxflair.simulation.lesions import draw_lesions, render_lesions
from flaxflair.simulation.phantom import write_phantom
from flaxflair.simulation.relaxation import PROTOCOLS, TISSUES, longitudinal, signal
from flaxflair.simulation.rigid import rigid
from flaxflair.simulation.subject import (
    Simulation,
    prepare_subject,
    simulate_subject,
    simulation_lattice,
)
from flaxflair.visualization.montage import montage

SCALE = 0.15


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "prepared"
    write_phantom(root, subjects=3, healthy=1, seed=5, scale=SCALE)
    return root


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "raw"
    write_phantom(root, subjects=2, healthy=1, seed=5, scale=SCALE, layout="raw")
    return root


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    """The first subject of both data sets above, as it was simulated."""
    return simulate_subject(5, 0, patient=True, scale=SCALE)


def digests(root: Path, below: str = "") -> dict[str, str]:
    files = sorted(path for path in (root / below).rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def truth_of(root: Path, name: str, rest: str) -> Array:
    return read_volume(root / "derivatives/truth" / name / "anat" / f"{name}_{rest}.nii.gz").array


# Physics


def test_fluid_is_nulled_by_flair_and_by_double_inversion() -> None:
    fluid = TISSUES["csf"].t1
    assert abs(longitudinal(fluid, PROTOCOLS["FLAIR"])) < 0.005
    assert abs(longitudinal(fluid, PROTOCOLS["DIR"])) < 0.005


def test_white_matter_is_nulled_by_double_inversion_only() -> None:
    white = TISSUES["white"].t1
    assert abs(longitudinal(white, PROTOCOLS["DIR"])) < 0.005
    assert longitudinal(white, PROTOCOLS["FLAIR"]) > 0.8


@pytest.mark.parametrize("t1", [370.0, 850.0, 4200.0])
def test_longitudinal_magnetisation_equals_the_textbook_formulas(t1: float) -> None:
    flair, double, plain = PROTOCOLS["FLAIR"], PROTOCOLS["DIR"], PROTOCOLS["T1SE"]
    one = 1 - 2 * np.exp(-2450 / t1) + np.exp(-9000 / t1)
    two = 1 - 2 * np.exp(-555 / t1) + 2 * np.exp(-3345 / t1) - np.exp(-8000 / t1)
    assert_allclose(longitudinal(t1, flair), one, rtol=1e-12)
    assert_allclose(longitudinal(t1, double), two, rtol=1e-9, atol=1e-12)
    assert_allclose(longitudinal(t1, plain), 1 - np.exp(-600 / t1), rtol=1e-12)


def test_inversion_of_efficiency_minus_one_has_no_effect() -> None:
    untouched = longitudinal(850.0, PROTOCOLS["FLAIR"], efficiency=-1.0)
    assert_allclose(untouched, 1 - np.exp(-9000 / 850), rtol=1e-12)


def test_signal_has_a_known_value_and_the_contrast_of_each_sequence() -> None:
    value = {
        name: {tissue: float(signal(t.t1, t.t2, t.pd, protocol)) for tissue, t in TISSUES.items()}
        for name, protocol in PROTOCOLS.items()
    }
    # 0.70 · (1 - exp(-5000/850)) · exp(-95/70)
    assert_allclose(value["T2"]["white"], 0.179689, rtol=1e-4)
    assert value["T1"]["white"] > value["T1"]["grey"] > abs(value["T1"]["csf"])
    assert value["T2"]["csf"] > value["T2"]["lesion"] > value["T2"]["white"]
    assert value["FLAIR"]["lesion"] > value["FLAIR"]["grey"] > value["FLAIR"]["white"]
    assert value["FLAIR"]["white"] > 20 * abs(value["FLAIR"]["csf"])


# Scanner


@pytest.mark.parametrize("level", [0.0, 1.0, 8.0])
def test_noise_has_the_moments_of_rice(level: float) -> None:
    rng = stream(0, 0, "noise")
    noisy = scanner.add_rician_noise(rng, np.full(200_000, 3 * level, np.float32), 3.0)
    assert_allclose(np.mean(noisy**2), (3 * level) ** 2 + 2 * 9, rtol=0.01)
    assert_allclose(noisy.mean(), scanner.rician_mean(np.array(3 * level), 3.0), rtol=0.005)


def test_rician_mean_has_its_limits() -> None:
    assert_allclose(scanner.rician_mean(np.array(0.0), 2.0), 2 * np.sqrt(np.pi / 2), rtol=1e-6)
    assert_allclose(scanner.rician_mean(np.array(1e4), 2.0), 1e4, rtol=1e-6)


def test_identity_resampling_changes_nothing() -> None:
    array = stream(0, 0, "noise").random((7, 8, 9), dtype=np.float32)
    affine = rigid(np.array([3.0, 2.0, 1.0]), np.array([5.0, 0.0, 1.0]))
    same = resample(array, affine, Geometry((7, 8, 9), affine), np.eye(4))
    assert_allclose(same, array, atol=1e-5)


def test_resampling_undoes_a_rigid_motion() -> None:
    lattice = Lattice((40, 40, 40), (2.0, 2.0, 2.0), (-39.0, -39.0, -39.0))
    array = smooth_noise(stream(0, 0, "warp"), lattice, 8.0)
    grid = Geometry(lattice.shape, lattice.affine)
    motion = rigid(np.array([2.0, -1.0, 1.5]), np.array([1.0, 2.0, -2.0]))
    moved = resample(array, lattice.affine, grid, np.linalg.inv(motion))
    back = resample(moved, lattice.affine, grid, motion)
    inner = (slice(6, -6),) * 3
    assert np.abs(moved - array)[inner].max() > 0.3
    assert np.abs(back - array)[inner].max() < 0.08


def test_block_mean_preserves_mean_and_orientation() -> None:
    lattice = simulation_lattice(SCALE)
    placement = rigid(np.array([2.0, 1.0, 0.0]), np.array([1.0, 2.0, 3.0]))
    grid = scanner.acquisition_grid("FLAIR", SCALE, placement)
    ramp = np.broadcast_to(lattice.axis(0)[:, None, None], lattice.shape).astype(np.float32)
    averaged = scanner.block_mean(ramp, lattice, grid, np.linalg.inv(placement))
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"))
    head = np.linalg.inv(placement) @ grid.affine
    expected = np.tensordot(head[0, :3], indices, axes=1) + head[0, 3]
    assert averaged.shape == grid.shape
    assert_allclose(averaged, expected, atol=1e-3)


def test_bias_field_is_the_exponential_of_its_basis() -> None:
    grid = scanner.acquisition_grid("FLAIR", 0.25, np.eye(4))
    assert_allclose(scanner.bias_field(np.zeros(len(scanner.BIAS_TERMS)), grid), 1.0)
    coefficients = np.zeros(len(scanner.BIAS_TERMS))
    coefficients[scanner.BIAS_TERMS.index((1, 0, 0))] = 0.2
    field = scanner.bias_field(coefficients, grid)
    i, j, k = 3, 20, 11
    world = grid.affine @ [i, j, k, 1]
    assert_allclose(field[i, j, k], np.exp(0.2 * world[0] / scanner.BIAS_REACH), rtol=1e-4)


def test_grids_are_those_of_the_protocol() -> None:
    shapes = {name: scanner.acquisition_grid(name, 1.0, np.eye(4)) for name in SEQUENCES}
    assert shapes["FLAIR"].shape == (208, 256, 40)
    assert_allclose(shapes["FLAIR"].voxel_size, (0.9, 0.9, 3.0))
    assert_allclose(shapes["T1"].voxel_size, (1.0, 1.0, 1.1))
    assert_allclose(shapes["T1SE"].voxel_size, (1.0, 1.0, 3.0))
    assert_allclose(shapes["DIR"].voxel_size, (1.0, 1.0, 1.0))
    assert shapes["T2"].matches(shapes["PD"])
    small = scanner.acquisition_grid("FLAIR", 0.25, np.eye(4))
    assert small.shape == (52, 64, 33)
    assert_allclose(small.voxel_size, (3.6, 3.6, 3.6))


# Fields and people


def test_linear_fields_are_interpolated_exactly() -> None:
    source = Lattice((6, 7, 8), (4.0, 4.0, 4.0), (-10.0, -12.0, -14.0))
    target = Lattice((9, 9, 9), (1.5, 1.5, 1.5), (-6.0, -6.0, -6.0))
    x, y, z = source.points()
    plane = 2 * x - y + 0.5 * z
    u, v, w = target.points()
    assert_allclose(interpolate(plane, source, target), 2 * u - v + 0.5 * w, atol=1e-4)
    sampled = sample(np.stack([plane, x], axis=-1), source, target.points())
    assert_allclose(sampled, [2 * u - v + 0.5 * w, u], atol=1e-3)


def test_streams_of_different_purposes_subjects_and_seeds_differ() -> None:
    draws = {
        float(stream(seed, subject, purpose).random())
        for seed in (0, 1)
        for subject in (0, 1)
        for purpose in ("warp", "noise")
    }
    assert len(draws) == 8
    assert stream(0, 1, "warp").random() == stream(0, 1, "warp").random()


def test_tissue_fractions_sum_to_at_most_one() -> None:
    head = build_head(draw_person(5, 0), MEDIUM)
    total = np.sum(list(head.values()), axis=0)
    assert total.max() < 1.001
    assert min(part.min() for part in head.values()) > -1e-5
    litres = {name: float(part.sum()) * 2.5**3 / 1e6 for name, part in head.items()}
    assert 0.35 < litres["white"] < 0.75
    assert 0.5 < litres["grey"] < 1.0
    assert 0.06 < litres["csf"] < 0.5


def test_people_differ_and_have_ventricles_of_plausible_size() -> None:
    people = [draw_person(5, subject) for subject in range(3)]
    millilitres = [float((p.fields["ventricles"] < 0).sum()) * 2.5**3 / 1e3 for p in people]
    assert all(4 < volume < 80 for volume in millilitres), millilitres
    assert len({round(volume, 2) for volume in millilitres}) == 3


def test_lesion_counts_and_volumes_are_plausible() -> None:
    person = draw_person(5, 0)
    totals = []
    for seed in range(12):
        lesions = draw_lesions(seed, 0, person)
        assert 5 <= len(lesions) <= 40
        totals.append(float(render_lesions(lesions, MEDIUM).load.sum()) * 2.5**3 / 1e3)
    assert min(totals) > 0.5
    assert max(totals) < 40
    assert max(totals) > 3 * min(totals)


def test_the_template_is_read_once() -> None:
    assert load_atlas() is load_atlas()


def test_subject_is_the_same_at_every_scale(simulation: Simulation) -> None:
    coarse, fine = simulation, simulate_subject(5, 0, patient=True, scale=0.25)
    litres = [
        float(s.truth.brain.sum()) * np.prod(s.scans["FLAIR"].volume.geometry.voxel_size) / 1e6
        for s in (coarse, fine)
    ]
    assert_allclose(litres[0], litres[1], rtol=0.02)


# Files


def test_data_set_is_reproducible_to_the_byte(prepared: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "again", subjects=3, healthy=1, seed=5, scale=SCALE)
    assert digests(prepared) == digests(tmp_path / "again")


def test_subject_is_independent_of_the_number_of_subjects(prepared: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "one", subjects=1, healthy=0, seed=5, scale=SCALE)
    for below in ("sub-01", "derivatives/truth/sub-01"):
        assert digests(tmp_path / "one", below) == digests(prepared, below)


def test_prepared_images_share_one_grid_and_load_as_a_cohort(prepared: Path) -> None:
    subjects = load_cohort(prepared, INPUTS)
    assert [subject.group for subject in subjects] == ["MS", "MS", "HC"]
    grid = scanner.acquisition_grid("FLAIR", SCALE, np.eye(4))
    for subject in subjects:
        assert subject.images.shape == (*grid.shape, 5)
        assert_allclose(subject.geometry.voxel_size, grid.voxel_size, rtol=1e-5)
        assert subject.noisefree is not None
        assert subject.flair is not None
        error = float(np.mean((subject.flair - subject.noisefree) ** 2))
        assert 60 < error < 260
        white = float(subject.flair[subject.masks.nawm].mean())
        assert 280 < white < 460


def test_sequences_have_their_contrast_in_the_image(prepared: Path) -> None:
    subject = load_cohort(prepared, INPUTS)[0]
    labels = truth_of(prepared, "sub-01", "space-FLAIR_dseg")
    means = {
        name: [float(subject.images[..., m][labels == k].mean()) for k in (1, 2, 3)]
        for m, name in enumerate(INPUTS)
    }
    fluid, grey, white = range(3)
    assert means["T1"][white] > means["T1"][grey] > means["T1"][fluid]
    assert means["T2"][fluid] > means["T2"][grey] > means["T2"][white]
    assert means["DIR"][grey] > 1.5 * means["DIR"][white]
    assert means["PD"][grey] > means["PD"][white]


def test_raw_images_have_acquisition_grids_and_timing_in_seconds(raw: Path) -> None:
    shapes = set()
    for name in SEQUENCES:
        path = raw / "sub-01/anat" / name_sequence(name, sub="01")
        volume = read_volume(path)
        shapes.add(volume.geometry.shape)
        assert_allclose(
            volume.geometry.voxel_size,
            scanner.acquisition_grid(name, SCALE, np.eye(4)).voxel_size,
            rtol=1e-5,
        )
        assert volume.array.max() <= 4095
        assert_array_equal(volume.array, np.rint(volume.array))
        sidecar = json.loads(path.with_suffix("").with_suffix(".json").read_text())
        assert_allclose(sidecar["EchoTime"], PROTOCOLS[name].echo / 1000)
        assert_allclose(sidecar["RepetitionTime"], PROTOCOLS[name].repetition / 1000)
    assert len(shapes) >= 3


def test_sidecars_reproduce_motion_and_bias(raw: Path, simulation: Simulation) -> None:
    for name, scan in simulation.scans.items():
        path = raw / "sub-01/anat" / name_sequence(name, sub="01")
        volume = read_volume(path)
        assert_array_equal(volume.array, scan.volume.array)
        sidecar = json.loads(path.with_suffix("").with_suffix(".json").read_text())
        motion = np.array(sidecar["PhantomMotion"])
        assert_allclose(motion, scan.motion)
        assert_allclose(motion[:3, :3] @ motion[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.abs(motion[:3, 3]).max() <= 2.0
        field = scanner.bias_field(sidecar["PhantomBias"]["Coefficients"], volume.geometry)
        assert_allclose(field, scanner.bias_field(scan.bias, scan.volume.geometry), rtol=1e-4)
        assert 1.05 < np.percentile(field, 98) / np.percentile(field, 2) < 4
    assert_array_equal(simulation.scans["FLAIR"].motion, np.eye(4))
    assert_array_equal(simulation.scans["T2"].motion, simulation.scans["PD"].motion)


def test_scans_of_a_session_share_the_coil_bias(simulation: Simulation) -> None:
    grid = simulation.scans["FLAIR"].volume.geometry
    fields = {
        name: np.log(scanner.bias_field(scan.bias, grid)).ravel()
        for name, scan in simulation.scans.items()
    }
    assert_array_equal(fields["T2"], fields["PD"])  # two echoes of one acquisition
    for name in ("T1", "T1SE", "DIR", "FLAIR"):
        assert 0.6 < np.corrcoef(fields[name], fields["T2"])[0, 1] < 0.99


def test_preparation_improves_the_registration(
    simulation: Simulation,
) -> None:
    prepared = prepare_subject(5, 0, simulation)
    grid = simulation.scans["FLAIR"].volume.geometry
    brain = simulation.truth.brain
    scan = simulation.scans["T1"]
    unmoved = resample(scan.volume.array, scan.volume.geometry.affine, grid, np.eye(4))
    fluid = np.isin(simulation.truth.labels, (1, 5))[brain].astype(float)

    def agreement(image: Array) -> float:
        return -float(np.corrcoef(image[brain], fluid)[0, 1])

    assert agreement(prepared["T1"].volume.array) > agreement(unmoved)
    assert prepared["T1"].volume.geometry.matches(grid)


def test_truth_is_consistent(prepared: Path) -> None:
    for name, patient in (("sub-01", True), ("sub-02", True), ("sub-03", False)):
        lesion = truth_of(prepared, name, "space-FLAIR_label-lesion_mask") > 0
        nawm = truth_of(prepared, name, "space-FLAIR_label-NAWM_mask") > 0
        brain = truth_of(prepared, name, "space-FLAIR_desc-brain_mask") > 0
        ventricles = truth_of(prepared, name, "space-FLAIR_label-ventricles_mask") > 0
        labels = truth_of(prepared, name, "space-FLAIR_dseg")
        assert lesion.any() == patient
        assert not (lesion & nawm).any()
        assert not (ventricles & (nawm | lesion)).any()
        assert ((lesion | nawm | ventricles) <= brain).all()
        assert_array_equal(labels == 6, lesion)
        assert_array_equal(labels > 0, brain)
        assert set(np.unique(labels[nawm])) == {3}


def test_lesions_replace_white_matter(simulation: Simulation) -> None:
    healthy = simulate_subject(5, 0, patient=False, scale=SCALE)
    assert not healthy.truth.lesion.any()
    assert set(np.unique(healthy.truth.labels[simulation.truth.lesion])) == {3}


def test_participants_are_listed_with_their_group(prepared: Path) -> None:
    with open(prepared / "participants.tsv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["group"] for row in rows] == ["MS", "MS", "HC"]
    assert rows[0]["participant_id"] == "sub-01"


def test_nonempty_folder_is_refused(prepared: Path) -> None:
    before = digests(prepared)
    with pytest.raises(InputError, match="is not empty"):
        write_phantom(prepared, subjects=1, healthy=0, scale=SCALE)
    assert digests(prepared) == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"subjects": 0}, "0 subjects"),
        ({"subjects": 2, "healthy": 3}, "3 of 2"),
        ({"scale": 1.5}, "scale 1.5"),
        ({"scale": 0.0}, "scale 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_invalid_numbers_are_refused(wrong: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        write_phantom(tmp_path / "out", **wrong)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_interrupted_run_leaves_no_files(tmp_path: Path) -> None:
    def stop(index: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "out", subjects=1, healthy=0, scale=0.1, on_subject=stop)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["raw", "prepared"])
def test_montage_shows_every_sequence(
    layout: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = request.getfixturevalue(layout)
    montage(root, "01", tmp_path / "montage.png")
    assert (tmp_path / "montage.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="sub-77"):
        montage(root, "77", tmp_path / "montage.png")
