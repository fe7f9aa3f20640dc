"""Loading of BIDS data sets as subjects, and data sets that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flaxflair.core.records import GeometryError, InputError
from flaxflair.core.sequences import INPUTS, SEQUENCES
from flaxflair.io.bids import find_images, name_file, name_sequence, read_groups, write_json
from flaxflair.io.datasets import by_grid, load_cohort, load_session
from flaxflair.io.session_files import find_sessions
from tests.samples import AFFINE, SHAPE, brain_of, image_of

FULL = tuple(name_sequence(name, sub="sub-01").removesuffix(".nii.gz") for name in SEQUENCES)
PAIR = ("sub-01_T1w", "sub-01_FLAIR")
SHIFTED = AFFINE.copy()
SHIFTED[0, 3] += 1


def mask_of(name: str) -> np.ndarray:
    """Returns a mask within the brain, unique for the name, bool[x, y, z]."""
    return image_of(name) > 400


def test_channels_have_the_order_of_the_inputs(write_dataset):
    (subject,) = load_cohort(write_dataset(FULL), INPUTS)
    assert subject.name == "sub-01"
    assert subject.sequences == INPUTS
    spelled = ("sub-01_T1w", "sub-01_acq-SE_T1w", "sub-01_T2w", "sub-01_PDw", "sub-01_acq-DIR_T2w")
    for channel, name in enumerate(spelled):
        np.testing.assert_array_equal(subject.images[..., channel], image_of(name))
    np.testing.assert_array_equal(subject.flair, image_of("sub-01_FLAIR"))
    assert subject.geometry.shape == SHAPE
    np.testing.assert_allclose(subject.geometry.affine, AFFINE, atol=1e-6)


def test_only_the_requested_inputs_are_read(write_dataset):
    root = write_dataset(FULL)
    (root / "sub-01/anat/sub-01_PDw.nii.gz").write_bytes(b"damaged")
    (subject,) = load_cohort(root, ("T2", "DIR"))
    assert subject.images.shape == (*SHAPE, 2)
    np.testing.assert_array_equal(subject.images[..., 1], image_of("sub-01_acq-DIR_T2w"))
    assert [Path(source).name for source in subject.sources] == [
        "sub-01_T2w.nii.gz",
        "sub-01_acq-DIR_T2w.nii.gz",
        "sub-01_FLAIR.nii.gz",
    ]


def test_an_unknown_acquisition_label_belongs_to_the_bare_suffix(write_dataset):
    root = write_dataset(["sub-01_acq-highres_T1w", "sub-01_acq-SE_T1w", "sub-01_FLAIR"])
    (subject,) = load_cohort(root, ("T1", "T1SE"))
    np.testing.assert_array_equal(subject.images[..., 0], image_of("sub-01_acq-highres_T1w"))
    np.testing.assert_array_equal(subject.images[..., 1], image_of("sub-01_acq-SE_T1w"))


def test_a_synthetic_flair_is_never_loaded_as_the_scanned_one(write_dataset):
    root = write_dataset([*PAIR, "sub-01_desc-synth_FLAIR"])
    (subject,) = load_cohort(root, ("T1",))
    np.testing.assert_array_equal(subject.flair, image_of("sub-01_FLAIR"))


def test_sessions_are_separate_subjects_sorted_by_name(write_dataset):
    names = [f"sub-{p}_ses-{s}_{suffix}" for p, s in (("02", 1), ("01", 2), ("01", 1))
             for suffix in ("T1w", "FLAIR")]  # fmt: skip
    read: list[str] = []
    root = write_dataset(names, groups={"sub-01": "MS", "sub-02": "HC", "sub-03": "MS"})
    subjects = load_cohort(root, ("T1",), on_subject=read.append)
    assert [s.name for s in subjects] == ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"]
    assert read == [s.name for s in subjects]
    assert [(s.participant, s.session, s.group) for s in subjects] == [
        ("sub-01", "ses-1", "MS"),
        ("sub-01", "ses-2", "MS"),
        ("sub-02", "ses-1", "HC"),
    ]
    np.testing.assert_array_equal(subjects[1].flair, image_of("sub-01_ses-2_FLAIR"))


def test_without_a_participants_table_the_group_is_empty(write_dataset):
    (subject,) = load_cohort(write_dataset(PAIR), ("T1",))
    assert subject.group == ""
    assert subject.space is None


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ('participant_id\tnote\tgroup\nsub-01\t"5 mm\tMS\nsub-02\tok\tHC\n', ["MS", "HC"]),
        ("participant_id\tgroup\tnote\nsub-01\tMS\ta\x0cb\nsub-02\tHC\tc\u2028d\n", ["MS", "HC"]),
        ("participant_id\tgroup\r\n01\tMS\r\n02\tHC\r\n", ["MS", "HC"]),
        ("participant_id\tgroup\tnote\nsub-01\tMS\nsub-02\tHC\t" + 200_000 * "x", ["MS", "HC"]),
    ],
)
def test_a_table_of_participants_has_no_quotation_and_no_other_line_ends(
    tmp_path: Path, text: str, groups: list[str]
):
    (tmp_path / "participants.tsv").write_bytes(text.encode())
    assert read_groups(tmp_path) == dict(zip(("sub-01", "sub-02"), groups, strict=True))


def test_two_rows_of_a_participant_that_differ_are_refused(tmp_path: Path):
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tgroup\nsub-01\tMS\n01\tMS\n")
    assert read_groups(tmp_path) == {"sub-01": "MS"}
    table.write_text("participant_id\tgroup\nsub-01\tMS\n01\tHC\n")
    with pytest.raises(InputError, match=r"participants\.tsv: has two different rows of sub-01"):
        read_groups(tmp_path)


def test_a_participants_table_without_ids_is_refused_by_name(write_dataset):
    root = write_dataset(PAIR)
    (root / "participants.tsv").write_text("id\tgroup\nsub-01\tMS\n")
    with pytest.raises(InputError, match=r"participants\.tsv: has no column participant_id; "):
        load_cohort(root, ("T1",))


def test_the_space_entity_is_kept(write_dataset):
    root = write_dataset(["sub-01_space-FLAIR_desc-preproc_T1w", "sub-01_space-FLAIR_FLAIR"])
    (subject,) = load_cohort(root, ("T1",))
    assert subject.space == "FLAIR"


def test_subjects_of_different_grids_load_and_are_grouped_by_grid(write_dataset):
    shapes = {"sub-01": SHAPE, "sub-02": (9, 8, 8), "sub-03": SHAPE}
    images = {f"{s}_{x}": image_of(f"{s}_{x}", shape) for s, shape in shapes.items()
              for x in ("T1w", "FLAIR")}  # fmt: skip
    subjects = load_cohort(write_dataset(images), ("T1",))
    assert [s.geometry.shape for s in subjects] == list(shapes.values())
    assert [[s.name for s in group] for group in by_grid(subjects)] == [
        ["sub-01", "sub-03"],
        ["sub-02"],
    ]


def test_a_flair_may_be_absent_if_not_needed(write_dataset):
    root = write_dataset(["sub-01_T1w"])
    (subject,) = load_cohort(root, ("T1",), need_flair=False)
    assert subject.flair is None
    with pytest.raises(InputError, match=r"sub-01 has no FLAIR .*_FLAIR\.nii\.gz\); add it"):
        load_cohort(root, ("T1",))


def test_a_missing_sequence_is_refused_with_the_file_name_it_would_have(write_dataset):
    root = write_dataset(PAIR)
    with pytest.raises(InputError) as refusal:
        load_cohort(root, ("T1", "DIR"))
    assert str(refusal.value) == (
        f"{root}: sub-01 has no DIR (a file ending in _acq-DIR_T2w.nii.gz); "
        "add it, or remove the sequence from the inputs"
    )


@pytest.mark.parametrize("sequence", ["PD", "T2"])
def test_two_echoes_in_one_file_are_refused_with_instructions_to_split_them(
    write_dataset, sequence: str
):
    root = write_dataset(["sub-01_T1w", "sub-01_PDT2"])
    with pytest.raises(InputError, match=rf"has no separate {sequence}; split .*sub-01_PDT2") as no:
        load_cohort(root, (sequence,), need_flair=False)
    assert "the shorter EchoTime of its sidecar is the PDw, the longer the T2w" in str(no.value)


def test_a_sequence_present_twice_is_refused_with_both_names(write_dataset):
    root = write_dataset([*PAIR, "sub-01_acq-highres_T1w"])
    with pytest.raises(InputError, match=r"sub-01 has T1 twice, .*; keep one") as refusal:
        load_cohort(root, ("T1",))
    assert "sub-01_T1w.nii.gz" in str(refusal.value)
    assert "sub-01_acq-highres_T1w.nii.gz" in str(refusal.value)


def test_a_session_without_a_sequence_is_found_and_only_it_is_refused(write_dataset):
    root = write_dataset([*PAIR, "sub-02_T2w", "sub-03_T1w", "sub-03_acq-x_T1w"])
    good, missing, twice = find_sessions(root, ("T1",), flair="ignored")
    assert load_session(good).name == good.name == "sub-01"
    with pytest.raises(InputError, match=r"sub-02 has no T1 .*; add it, or use a model without"):
        load_session(missing)
    with pytest.raises(InputError, match="sub-03 has T1 twice"):
        load_session(twice)


def test_finding_sessions_reads_no_image(write_dataset):
    root = write_dataset(PAIR)
    (root / "sub-01/anat/sub-01_T1w.nii.gz").write_bytes(b"damaged")
    (session,) = find_sessions(root, ("T1",))
    with pytest.raises(InputError, match=r"sub-01_T1w\.nii\.gz: is named \.gz and is not gzip"):
        load_session(session)


def test_an_ignored_flair_and_the_regions_of_its_scores_are_not_read(write_dataset):
    root = write_dataset(FULL)
    damaged = ("sub-01_FLAIR", "sub-01_label-lesion_mask", "sub-01_desc-noisefree_FLAIR")
    for name in damaged:
        (root / f"sub-01/anat/{name}.nii.gz").write_bytes(b"damaged")
    (session,) = find_sessions(root, ("T1", "T2"), flair="ignored")
    subject = load_session(session)
    np.testing.assert_array_equal(subject.images[..., 1], image_of("sub-01_T2w"))
    np.testing.assert_array_equal(subject.masks.brain, brain_of(SHAPE))
    assert subject.flair is None
    assert subject.noisefree is None
    assert subject.masks.white_matter is None


def test_sessions_are_found_by_labels_with_or_without_their_prefix(write_dataset):
    names = [f"sub-{p}_ses-{s}_T1w" for p in ("01", "02") for s in ("a", "b")]
    root = write_dataset(names)

    def found(
        participants: list[str] | None = None, sessions: list[str] | None = None
    ) -> list[str]:
        files = find_sessions(
            root, ("T1",), flair="welcome", participants=participants, sessions=sessions
        )
        return [session.name for session in files]

    assert found(participants=["sub-02"]) == ["sub-02_ses-a", "sub-02_ses-b"]
    assert found(participants=["01", "02"], sessions=["b"]) == ["sub-01_ses-b", "sub-02_ses-b"]
    with pytest.raises(InputError, match=r"has no participant sub-7; it has sub-01, sub-02$"):
        found(participants=["01", "7"])
    with pytest.raises(InputError, match=r"has no session ses-c; it has ses-a, ses-b$"):
        found(sessions=["ses-c"])


def test_an_unknown_label_is_refused_with_a_short_list_of_labels(write_dataset):
    root = write_dataset([f"sub-{number:02d}_T1w" for number in range(1, 9)])
    with pytest.raises(InputError, match=r"no participant sub-99; it has .*, sub-05 and 3 more$"):
        find_sessions(root, ("T1",), participants=["99"])
    with pytest.raises(InputError, match=r"has no session ses-1; it has none$"):
        find_sessions(root, ("T1",), sessions=["1"])


def test_grids_of_different_shapes_are_refused_with_both_shapes(write_dataset):
    root = write_dataset({PAIR[0]: image_of("x", (8, 9, 6)), PAIR[1]: image_of("y")})
    with pytest.raises(GeometryError, match=r"_T1w.*FLAIR's, 8×9×6 against 8×9×7 voxels; bring"):
        load_cohort(root, ("T1",))


def test_shifted_grids_are_refused_with_their_distance(write_dataset):
    write_dataset([PAIR[0]], affine=SHIFTED)
    root = write_dataset([PAIR[1]])
    with pytest.raises(GeometryError, match=r"_T1w.*affine differs .* by up to 1 mm; bring"):
        load_cohort(root, ("T1",))


def test_a_mask_on_another_grid_is_refused(write_dataset):
    root = write_dataset(PAIR)
    write_dataset({"sub-01_label-lesion_mask": mask_of("lesion")}, affine=SHIFTED)
    with pytest.raises(GeometryError, match=r"lesion_mask\.nii\.gz: its affine differs"):
        load_cohort(root, ("T1",))


def test_a_constant_image_is_refused_by_name(write_dataset):
    root = write_dataset({PAIR[0]: np.full(SHAPE, 7.0), PAIR[1]: image_of("y")})
    with pytest.raises(InputError, match=r"sub-01_T1w\.nii\.gz: every voxel is 7; replace"):
        load_cohort(root, ("T1",))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(SHAPE), r"desc-brain_mask\.nii\.gz: the mask is empty; give one of this scan"),
        (~brain_of(SHAPE), r"the T1 of sub-01 holds one value or none .*; correct"),
    ],
    ids=["empty", "outside"],
)
def test_a_brain_mask_without_image_content_is_refused(
    write_dataset, mask: np.ndarray, message: str
):
    root = write_dataset(PAIR)
    write_dataset({"sub-01_desc-brain_mask": mask.astype(bool)})
    with pytest.raises(InputError, match=message):
        load_cohort(root, ("T1",))


def test_images_with_a_head_need_a_brain_mask(write_dataset):
    images = {name: image_of(name) + 10 for name in PAIR}
    root = write_dataset(images)
    with pytest.raises(InputError, match=r"not brain-extracted; give one .*sub-01_desc-brain_mask"):
        load_cohort(root, ("T1",))
    write_dataset({"sub-01_desc-brain_mask": brain_of(SHAPE)})
    (subject,) = load_cohort(root, ("T1",))
    np.testing.assert_array_equal(subject.masks.brain, brain_of(SHAPE))


def test_the_brain_of_extracted_images_is_their_common_non_zero_region_with_holes_filled(
    write_dataset,
):
    t1, flair = image_of(PAIR[0]), image_of(PAIR[1])
    t1[3, 4, 3] = 0
    flair[1] = 0
    (subject,) = load_cohort(write_dataset({PAIR[0]: t1, PAIR[1]: flair}), ("T1",))
    expected = brain_of(SHAPE)
    expected[1] = False
    np.testing.assert_array_equal(subject.masks.brain, expected)


def test_masks_and_the_noise_free_flair_are_found_in_the_data_set_and_its_derivatives(
    write_dataset,
):
    root = write_dataset(PAIR)
    write_dataset({"sub-01_desc-brain_mask": brain_of(SHAPE)})
    named = {name: f"sub-01_space-FLAIR_label-{name}_mask" for name in ("lesion", "ventricles")}
    write_dataset({file: mask_of(name) for name, file in named.items()}, derivative="manual")
    write_dataset(["sub-01_desc-noisefree_FLAIR"], derivative="truth")
    (subject,) = load_cohort(root, ("T1",))
    np.testing.assert_array_equal(subject.masks.lesion, mask_of("lesion"))
    np.testing.assert_array_equal(subject.masks.ventricles, mask_of("ventricles"))
    np.testing.assert_array_equal(subject.noisefree, image_of("sub-01_desc-noisefree_FLAIR"))


def test_white_matter_is_the_normal_appearing_mask_with_the_lesions_in_it(write_dataset):
    root = write_dataset(PAIR)
    lesion = mask_of("lesion")
    nawm = mask_of("NAWM") & ~lesion
    write_dataset({"sub-01_label-NAWM_mask": nawm, "sub-01_label-lesion_mask": lesion})
    (subject,) = load_cohort(root, ("T1",))
    np.testing.assert_array_equal(subject.masks.white_matter, nawm | lesion)
    np.testing.assert_array_equal(subject.masks.nawm, nawm)


def test_white_matter_is_segmented_from_the_t1_if_no_mask_exists(
    write_dataset,
):
    t1 = np.where(image_of("sub-01_T1w") > 0, 100, 0).astype(np.float32)
    t1[3:, 1:-1, 1:-1] *= 2
    t1[5:, 1:-1, 1:-1] *= 2
    t1[-1] = 0
    white = t1 == 400
    t1 *= np.linspace(0.8, 1.2, t1.size, dtype=np.float32)[::-1].reshape(SHAPE)  # no label map
    lesion = np.zeros(SHAPE, bool)
    lesion[2, 4, 4] = True
    root = write_dataset({PAIR[0]: t1, PAIR[1]: image_of(PAIR[1]), "sub-01_T2w": image_of("T2")})
    write_dataset({"sub-01_label-lesion_mask": lesion})
    (subject,) = load_cohort(root, ("T1",))
    np.testing.assert_array_equal(subject.masks.white_matter, white | lesion)
    np.testing.assert_array_equal(subject.masks.nawm, white)
    (subject,) = load_cohort(root, ("T2",))
    assert subject.masks.white_matter is None
    assert subject.masks.nawm is None


def test_a_folder_that_is_not_a_bids_data_set_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; give the root"):
        load_cohort(tmp_path / "nowhere", ("T1",))
    with pytest.raises(InputError, match=r"holds no dataset_description\.json"):
        load_cohort(tmp_path, ("T1",))


def test_a_data_set_without_images_is_refused_with_the_sequences_searched(tmp_path: Path):
    write_json(tmp_path / "dataset_description.json", {"Name": "bare", "BIDSVersion": "1.10.0"})
    with pytest.raises(InputError, match=r"holds no image of T1, FLAIR"):
        load_cohort(tmp_path, ("T1",))


def test_file_names_have_their_entities_in_the_order_of_the_specification(write_dataset):
    name = name_file("mask", label="lesion", space="FLAIR", ses="ses-2", sub="01", desc=None)
    assert name == "sub-01_ses-2_space-FLAIR_label-lesion_mask.nii.gz"
    (image,) = find_images(write_dataset([name.removesuffix(".nii.gz")]))
    assert (image.participant, image.session, image.suffix) == ("sub-01", "ses-2", "mask")
    assert image.entities["label"] == "lesion"
    assert image.sequence is None
