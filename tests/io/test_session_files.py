"""Sessions found by file names: their scans and masks, unused files, and ambiguous names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flaxflair.cli import main
from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import InputError
from flaxflair.io.bids import start_derivative
from flaxflair.io.session_files import SessionFiles, choose_images, find_sessions
from tests.samples import SHAPE, brain_of

Write = Callable[..., Path]
T1 = "sub-01_T1w"
MASK = brain_of(SHAPE)


def only(root: Path, **options: object) -> SessionFiles:
    (files,) = find_sessions(root, ("T1",), flair="ignored", **options)  # pyright: ignore[reportArgumentType]
    return files


def put(root: Path, name: str, folder: str = "sub-01/anat") -> str:
    """Copies the T1 of `sub-01` and returns the copy's path below the root."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(root / f"sub-01/anat/{T1}.nii.gz", root / folder / f"{name}.nii.gz")
    return f"{folder}/{name}.nii.gz"


@pytest.mark.parametrize(
    ("derivative", "name"),
    [
        (None, "sub-01_desc-brain_mask"),
        ("fmriprep", "sub-01_desc-brain_mask"),
        ("fmriprep", "sub-01_space-T1w_desc-brain_mask"),
        ("fmriprep", "sub-01_space-orig_desc-brain_mask"),
        (None, "sub-01_label-brain_mask"),
        ("manual", "sub-01_desc-manual_label-brain_mask"),
    ],
)
def test_a_mask_in_the_space_of_the_session_is_found(
    write_dataset: Write, derivative: str | None, name: str
) -> None:
    root = write_dataset([T1])
    write_dataset({name: MASK}, derivative=derivative)
    files = only(root)
    mask = files.mask_of("brain")
    assert mask is not None
    assert root / mask.relative == mask.path
    assert mask.path.is_file()
    assert files.notes == ()


@pytest.mark.parametrize("derivative", [None, "manual"])
@pytest.mark.parametrize("brain", [None, "sub-01_desc-brain_mask", "sub-01_label-brain_mask"])
@pytest.mark.parametrize("tissue", ["GM", "WM", "CSF", "lesion"])
def test_a_mask_of_a_tissue_is_never_the_brain_mask(
    write_dataset: Write, tissue: str, brain: str | None, derivative: str | None
) -> None:
    root = write_dataset([T1])
    write_dataset({f"sub-01_desc-brain_label-{tissue}_mask": MASK}, derivative=derivative)
    if brain is not None:
        write_dataset({brain: MASK}, derivative=derivative)
    files = only(root)
    found = files.mask_of("brain")
    assert (None if found is None else Path(found.relative).name.split(".")[0]) == brain
    assert list(files.labelled_masks()) == [tissue]
    assert files.notes == ()


@pytest.mark.parametrize("derivative", [None, "manual"])
@pytest.mark.parametrize(
    ("scan", "mask", "used"),
    [
        ("sub-01_T1w", "acq-DIR_desc-brain", False),
        ("sub-01_T1w", "run-2_desc-brain", False),
        ("sub-01_T1w", "rec-norm_label-lesion", False),
        ("sub-01_run-1_T1w", "run-2_desc-brain", False),
        ("sub-01_acq-a_run-1_T1w", "acq-b_run-1_desc-brain", False),
        ("sub-01_acq-highres_T1w", "acq-highres_desc-brain", True),
        ("sub-01_acq-a_run-1_T1w", "run-1_label-lesion", True),
    ],
)
def test_a_mask_of_one_scan_is_used_only_if_that_scan_is_read(
    write_dataset: Write, scan: str, mask: str, used: bool, derivative: str | None
) -> None:
    root = write_dataset([scan, "sub-01_acq-DIR_T2w"])  # the DIR is not an input
    write_dataset({f"sub-01_{mask}_mask": MASK}, derivative=derivative)
    files = only(root)
    assert len(list(files.find("mask"))) == used
    assert len(files.notes) == (not used)
    if not used:
        marks = mask.rsplit("_", 1)[0]
        assert f"is not used: {marks} marks it as the mask of another image" in files.notes[0]


def test_a_mask_of_all_scans_is_preferred_to_that_of_one_and_the_latter_noted(
    write_dataset: Write,
) -> None:
    root = write_dataset(["sub-01_acq-a_T1w"])
    write_dataset({"sub-01_acq-a_desc-brain_mask": MASK, "sub-01_desc-brain_mask": MASK})
    files = only(root)
    (mask,) = files.find("mask")
    assert mask.relative == "sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    (note,) = files.notes
    assert note.endswith(f"acq-a_desc-brain_mask.nii.gz: is not used: {mask.relative} is")


@pytest.mark.parametrize("brain", [False, True])
@pytest.mark.parametrize(
    ("name", "always"),
    [
        ("sub-01_mask", True),
        ("sub-01_desc-Brain_mask", True),
        ("sub-01_desc-brainmask_mask", True),
        ("sub-01_label-Brain_mask", True),
        ("sub-01_desc-ribbon_mask", False),
    ],
)
def test_a_mask_whose_name_does_not_say_of_what_it_is_is_noted(
    write_dataset: Write, name: str, always: bool, brain: bool
) -> None:
    root = write_dataset([T1])
    write_dataset({name: MASK} | ({"sub-01_desc-brain_mask": MASK} if brain else {}))
    files = only(root)
    assert (files.mask_of("brain") is not None) == brain
    assert len(files.notes) == (always or not brain)
    assert all(f"{name}.nii.gz: is not used: its name" in note for note in files.notes)


@pytest.mark.parametrize("kind", ["desc-brain", "label-lesion"])
@pytest.mark.parametrize(
    ("entities", "folder", "why"),
    [
        ("space-MNI152NLin2009cAsym", "anat", "it is in the space MNI152NLin2009cAsym"),
        ("space-T2w", "anat", "it is in the space T2w"),  # the session has no T2
        ("space-fsnative", "anat", "it is in the space fsnative"),
        ("task-rest", "func", "it is in func, not in anat"),
        ("space-T1w", "func", "it is in func, not in anat"),
        ("dir-AP", "dwi", "it is in dwi, not in anat"),
        ("task-rest_space-T1w", "anat", "task-rest marks it as the mask of another image"),
        ("hemi-L", "anat", "hemi-L marks it as the mask of another image"),
    ],
)
def test_a_mask_of_another_space_or_scan_is_not_used_and_noted(
    write_dataset: Write, kind: str, entities: str, folder: str, why: str
) -> None:
    root = write_dataset([T1])
    write_dataset([], derivative="fmriprep")
    path = put(root, f"sub-01_{entities}_{kind}_mask", f"derivatives/fmriprep/sub-01/{folder}")
    files = only(root)
    assert list(files.find("mask")) == []
    (note,) = files.notes
    assert note.startswith(f"{path}: is not used: {why}")


def test_a_mask_of_a_prepared_data_set_is_in_the_space_of_its_images(write_dataset: Write) -> None:
    root = write_dataset(["sub-01_space-MNI_T1w"])
    write_dataset({"sub-01_space-MNI_desc-brain_mask": MASK, "sub-01_desc-brain_mask": MASK})
    files = only(root)
    assert [m.entities.get("space") for m in files.find("mask")] == ["MNI"]
    assert "it is in the space of the scanner" in files.notes[0]


def test_a_mask_written_by_flaxflair_is_never_an_input(write_dataset: Write) -> None:
    root = write_dataset([T1])
    out = root / "derivatives/flaxflair"
    start_derivative(out, "Synthetic FLAIR and saliency", root, [])
    put(root, "sub-01_space-T1w_desc-brain_mask", "derivatives/flaxflair/sub-01/anat")
    files = only(root)
    assert list(files.find("mask")) == []
    assert "this program wrote it" in files.notes[0]


def test_the_first_of_two_masks_of_a_kind_is_used_and_the_other_noted(write_dataset: Write) -> None:
    root = write_dataset([T1])
    for rater in ("a", "b"):
        write_dataset({"sub-01_label-lesion_mask": MASK}, derivative=rater)
    files = only(root)
    (mask,) = files.find("mask")
    assert mask.relative.startswith("derivatives/a/")
    assert files.notes == (
        f"{mask.relative.replace('/a/', '/b/')}: is not used: {mask.relative} is",
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("sub-01_ce-gadolinium_T1w", "post-contrast"),
        ("sub-01_acq-postgd_T1w", "post-contrast"),
        ("sub-01_part-phase_T1w", "not a magnitude image"),
        ("sub-01_part-real_T1w", "not a magnitude image"),
        ("sub-01_mt-on_T1w", "with magnetisation transfer"),
        ("sub-01_acq-MTon_T1w", "with magnetisation transfer"),
        ("sub-01_inv-1_T1w", "one of several inversions"),
        ("sub-01_acq-SE_T1w", "a T1SE"),
    ],
)
def test_a_scan_with_the_name_of_another_contrast_is_the_t1_only_by_a_pattern(
    write_dataset: Write, name: str, what: str
) -> None:
    root = write_dataset([T1])
    path = put(root, name)
    assert choose_images(only(root))["T1"].relative == f"sub-01/anat/{T1}.nii.gz"
    chosen = choose_images(only(root, patterns={"T1": f"*/{name}.nii.gz"}))
    assert chosen["T1"].relative == path
    (root / f"sub-01/anat/{T1}.nii.gz").rename(root / "sub-01/anat/sub-01_T2w.nii.gz")
    with pytest.raises(InputError, match=rf"has no T1 .* by its name, {path} is {what}; if it is"):
        choose_images(only(root))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sub-01_ce-gd_T2w.nii.gz", "by its name it is post-contrast; if it is the T2 nev"),
        ("sub-01_part-phase_T2w.nii", "by its name it is not a magnitude image"),
        ("sub-01_T2w.hdr", "its format is neither .nii nor .nii.gz; convert it"),
        ("sub-01_T2w.mgz", "its format is neither .nii nor .nii.gz"),
        ("sub-01_T2w.NII.GZ", "its format is neither .nii nor .nii.gz"),
        ("sub-01_acq-highres_T2w.nrrd", "its format is neither .nii nor .nii.gz"),
    ],
)
def test_an_unused_scan_is_noted_unless_another_of_its_sequence_exists(
    write_dataset: Write, name: str, why: str
) -> None:
    root = write_dataset([T1])
    (root / "sub-01/anat" / name).write_bytes(b"")
    (note,) = only(root).notes
    assert note.startswith(f"sub-01/anat/{name}: is not used: {why}")
    write_dataset(["sub-01_T2w"])
    assert only(root).notes == ()


@pytest.mark.parametrize("by", [7, "flaxflair", {"Name": "flaxflair"}, ["flaxflair"], [None]])
def test_a_derivative_with_an_invalid_generated_by_is_of_other_software(
    write_dataset: Write, by: object
) -> None:
    root = write_dataset([T1])
    write_dataset({"sub-01_desc-brain_mask": MASK}, derivative="odd")
    content = {"Name": "x", "GeneratedBy": by, "DatasetLinks": {}}
    write_json(root / "derivatives/odd/dataset_description.json", content)
    assert len(list(only(root).find("mask"))) == 1


def test_a_magnitude_image_is_preferred_to_its_phase(write_dataset: Write) -> None:
    root = write_dataset(["sub-01_part-mag_T1w", "sub-01_part-phase_T1w"])
    assert choose_images(only(root))["T1"].entities["part"] == "mag"


def test_a_sequence_with_a_pattern_is_identified_by_it_alone(write_dataset: Write) -> None:
    root = write_dataset(["sub-01_run-1_T1w", "sub-01_run-2_T1w", "sub-01_T2w", "sub-02_T1w"])
    one, two = find_sessions(root, ("T1",), patterns={"T1": "*_run-1_T1w.nii.gz"}, flair="ignored")
    assert choose_images(one)["T1"].entities["run"] == "1"
    with pytest.raises(InputError, match=r"sub-02 has no T1 \(a path that matches \*_run-1_T1w"):
        choose_images(two)
    with pytest.raises(InputError, match=r"no image matches the pattern T1=\*_run-7_T1w"):
        only(root, patterns={"T1": "*_run-7_T1w.nii.gz"})


@pytest.mark.parametrize("inputs", [(), ("T1",)])
@pytest.mark.parametrize(
    ("sequence", "suffix"), [("T1", "T1w"), ("T1SE", "acq-SE_T1w"), ("DIR", "acq-DIR_T2w")]
)
def test_a_scan_that_a_pattern_excludes_is_noted_where_no_other_matches(
    write_dataset: Write, sequence: str, suffix: str, inputs: tuple[str, ...]
) -> None:
    root = write_dataset(["sub-01_run-1_T1w", f"sub-02_{suffix}", f"sub-01_{suffix}", "sub-02_PDw"])
    pattern = "*_run-1_T1w.nii.gz"
    one, two = find_sessions(root, inputs, patterns={sequence: pattern}, flair="ignored")
    assert one.notes == ()
    assert sequence not in two.sequences
    assert two.notes == (
        f"sub-02/anat/sub-02_{suffix}.nii.gz: is not used: by its name it is the {sequence}, but "
        f"it does not match the pattern {sequence}={pattern}; if it is meant, widen the pattern",
    )


@pytest.mark.parametrize("command", ["check", "prepare --dry-run"])
def test_notes_on_unused_files_are_shown_before_anything_is_computed(
    write_dataset: Write, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_dataset(["sub-01_acq-a_T1w", "sub-01_T2w", "sub-02_T1w", "sub-02_T2w"])
    name, *options = command.split()
    places = [str(root / "out"), "participant"] if options else []
    main([name, str(root), *places, *options, "--pattern", "T1=*acq-a_T1w.nii.gz"])
    output = capfd.readouterr()
    assert "sub-02_T1w.nii.gz: is not used: by its name it is the T1" in output.out + output.err


@pytest.mark.parametrize(
    "folder",
    [
        "sourcedata/sub-01/anat",
        "sourcedata/raw/sub-01/anat",
        "code/tests/sub-01/anat",
        "flaxflair/sub-01/anat",
        "nested/sub-01/anat",
        "rawdata/sub-01/anat",
        "sub-01/anat/old",
        "sub-01/sourcedata/anat",
        "sub-01/func",
        "sub-01/ignored",
        ".git/annex/sub-01/anat",
    ],
)
def test_other_folders_of_a_data_set_are_ignored(write_dataset: Write, folder: str) -> None:
    root = write_dataset([T1])
    put(root, T1, folder)
    shutil.copy(root / "dataset_description.json", root / Path(folder).parts[0])
    assert choose_images(only(root))["T1"].relative == f"sub-01/anat/{T1}.nii.gz"


@pytest.mark.parametrize(
    ("ignore", "included"),
    [
        ("*_run-2_T1w.nii.gz", ["1"]),
        ("# a comment\n\nsub-01/anat/*run-2*\n", ["1"]),
        ("/sub-01/anat/sub-01_run-2_T1w.nii.gz", ["1"]),
        ("**/sub-01_run-2_*", ["1"]),
        ("*_T1w.nii.gz\n!*_run-1_*", ["1"]),
        ("run-2", ["1", "2"]),
        ("*_run-2_T1w.nii.gz/", ["1", "2"]),
        ("sub-02/", ["1", "2"]),
    ],
)
def test_bidsignore_excludes_files(write_dataset: Write, ignore: str, included: list[str]) -> None:
    root = write_dataset(["sub-01_run-1_T1w", "sub-01_run-2_T1w", "sub-01_T2w"])
    (root / ".bidsignore").write_text(ignore)
    files = only(root)
    assert [i.entities["run"] for i in files.images if i.sequence == "T1"] == included


@pytest.mark.parametrize(
    ("folder", "name", "why"),
    [
        ("sub-01/anat", "sub-02_T2w", "its name has sub-02 and its folder sub-01"),
        ("sub-01/anat", "sub-01_ses-2_T2w", "its name has ses-2 and its folder no ses-"),
        ("sub-01/ses-1/anat", "sub-01_T2w", "its name has no ses- and its folder ses-1"),
        ("sub-01/ses-1/anat", "sub-01_ses-2_T2w", "its name has ses-2 and its folder ses-1"),
        (
            "sub-MS-01/anat",
            "sub-MS-01_T1w",
            "letters and digits in a label, so sub-MS-01 is invalid",
        ),
        ("sub-M_1/anat", "sub-M_1_T1w", "letters and digits in a label, so sub-M_1 is invalid"),
        ("sub-M 1/anat", "sub-M 1_T1w", "letters and digits in a label, so sub-M 1 is invalid"),
        ("sub-1.5/anat", "sub-1.5_T1w", "letters and digits in a label, so sub-1.5 is invalid"),
    ],
)
def test_only_the_session_with_contradictory_names_is_refused(
    write_dataset: Write, folder: str, name: str, why: str
) -> None:
    root = write_dataset([T1, "sub-09_T1w"])
    path = put(root, name, folder)
    sessions = find_sessions(root, ("T1",), flair="ignored")
    parts = folder.split("/")[:-1]
    (bad,) = [files for files in sessions if files.name == "_".join(parts)]
    with pytest.raises(InputError, match=rf"{path}: .*{why}; "):
        choose_images(bad)
    (good,) = [files for files in sessions if files.name == "sub-09"]
    assert choose_images(good)["T1"].participant == "sub-09"


def test_participants_are_listed_with_or_without_their_prefix(write_dataset: Write) -> None:
    root = write_dataset([T1, "sub-02_T1w"], groups={"01": "MS", "sub-02": "HC"})
    assert [files.group for files in find_sessions(root, ("T1",))] == ["MS", "HC"]


@pytest.mark.parametrize("link", ["itself", "the data set", "its own folder", "nowhere"])
def test_cyclic_and_broken_links_stop_no_other_subject(write_dataset: Write, link: str) -> None:
    root = write_dataset([T1])
    target = {"itself": "sub-02", "the data set": ".", "its own folder": "..", "nowhere": "gone"}
    (root / "sub-02").symlink_to(target[link])
    (root / "sub-01/anat/loop").symlink_to("..")
    (root / "sub-01/ses-1").symlink_to(".")
    (root / "sub-01/dwi").symlink_to("dwi")
    sessions = find_sessions(root, ("T1",), flair="ignored")
    sound = {files.name for files in sessions if files.fault is None}
    assert sound <= {"sub-01"}
    if link in ("itself", "nowhere"):
        (bad,) = [files for files in sessions if files.name == "sub-02"]
        with pytest.raises(InputError, match=rf"{root / 'sub-02'}: cannot be read"):
            choose_images(bad)


def test_a_description_that_is_not_json_is_refused_by_name(tmp_path: Path) -> None:
    write_json(tmp_path / "dataset_description.json", {"Name": "x"})
    (tmp_path / "dataset_description.json").write_text('{"Name": "x",}')
    with pytest.raises(InputError, match=r"dataset_description\.json: is not JSON .*; correct it"):
        find_sessions(tmp_path, ("T1",))
