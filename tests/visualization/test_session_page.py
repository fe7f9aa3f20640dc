"""Pages: what a person looks at, opened in Chromium."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from flaxflair.cli import main
from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import InputError, Verdict
from flaxflair.io.datasets import load_cohort
from flaxflair.io.nifti import pack_volume
from flaxflair.visualization.session_page import make_scene, write_page
from tests.browser import open_page
from tests.samples import AFFINE, image_of


def test_packed_volume_has_eight_bits():
    image = image_of("T1")
    packed = nib.Nifti1Image.from_bytes(gunzip(pack_volume(image, AFFINE, 0, 500)))
    np.testing.assert_allclose(packed.get_fdata(), image, atol=0.5 * 500 / 255 + 1e-3)
    assert packed.affine is not None
    np.testing.assert_allclose(packed.affine, AFFINE, atol=1e-5)
    assert packed.get_data_dtype() == np.uint8


def gunzip(content: bytes) -> bytes:
    import gzip

    return gzip.decompress(content)


def test_session_page_opens_without_console_messages(phantom: Path, tmp_path: Path):
    subject = load_cohort(phantom, ("T1", "T2"))[0]
    assert subject.flair is not None
    path = tmp_path / "page.html"
    verdict = Verdict("look", ("the T1 is noisy",))
    write_page(path, subject, 0.9 * subject.flair, {"model": "</script> & co"}, verdict=verdict)
    page = open_page(path, width=1200, ready="document.body.dataset.ready")
    assert page.console == []
    assert page.requests == [path.as_uri()]
    assert page.overflow == 0
    assert "synthetic FLAIR" in page.text
    assert "</script> & co" in page.text
    assert "Verdict: look\nthe T1 is noisy" in page.text


def test_scene_begins_with_input_and_synthetic_flair(phantom: Path):
    subject = load_cohort(phantom, ("T1", "T2"))[0]
    scene = make_scene(subject, np.zeros(subject.geometry.shape, np.float32))
    images = [layer.title for layer in scene.layers if layer.kind == "image"]
    assert images[1] == "synthetic FLAIR"
    assert {"true FLAIR", "absolute error"} <= set(images)
    overlays = [layer.title for layer in scene.layers if layer.kind == "overlay"]
    assert "outline of the brain" in overlays


def test_run_and_session_pages_are_written(finished: Path, phantom: Path, tmp_path: Path):
    page = tmp_path / "run.html"
    assert main(["report", str(finished), "--out", str(page)]) == 0
    assert "saliency of" in page.read_text()
    out = tmp_path / "out"
    command = ["predict", str(phantom), str(out), "participant", "--model", str(finished)]
    assert main([*command, "--participant-label", "01"]) == 0
    assert (out / "sub-01.html").is_file()
    page = tmp_path / "session.html"
    assert main(["report", str(out / "sub-01"), "--out", str(page)]) == 0
    assert "true FLAIR" in page.read_text()


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"[]", b"{}", b'{"Model": 1}', b'{"Model": {"Sequences": 1}}']
)
def test_damaged_sidecar_is_refused_by_name(
    finished: Path,
    phantom: Path,
    tmp_path: Path,
    content: bytes,
    capsys: pytest.CaptureFixture[str],
):
    out = tmp_path / "out"
    command = ["predict", str(phantom), str(out), "participant", "--model", str(finished)]
    assert main([*command, "--participant-label", "01", "--no-page"]) == 0
    sidecar = next(out.rglob("*_desc-synth_FLAIR.json"))
    sidecar.write_bytes(content)
    capsys.readouterr()
    assert main(["report", str(out / "sub-01"), "--out", str(tmp_path / "page.html")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"flaxflair: {sidecar}: ")
    assert error.count("\n") == 1


def test_page_of_a_universal_model_has_the_scanned_sequences(tmp_path: Path):
    from flaxflair.io.bids import start_derivative
    from flaxflair.simulation.phantom import write_phantom

    root = tmp_path / "a data [set] of %20"
    write_phantom(root, subjects=1, healthy=0, scale=0.1)
    for path in root.glob("sub-01/anat/*"):
        if "DIR" in path.name or "PDw" in path.name:
            path.unlink()
    out = tmp_path / "out"
    start_derivative(out, "Synthetic FLAIR and saliency", root, [])
    (out / "sub-01/anat").mkdir(parents=True)
    flair = next(root.glob("sub-01/anat/*_FLAIR.nii.gz"))
    made = out / "sub-01/anat/sub-01_desc-synth_FLAIR.nii.gz"
    made.write_bytes(flair.read_bytes())
    sidecar = {"Model": {"Method": "universal", "Sequences": ["T1", "T1SE", "T2", "PD", "DIR"]}}
    write_json(made.with_name("sub-01_desc-synth_FLAIR.json"), sidecar)
    page = tmp_path / "page.html"
    assert main(["report", str(out / "sub-01"), "--out", str(page)]) == 0
    assert page.is_file()


def test_other_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(tmp_path)]) == 1
    assert "is not in a data set" in capsys.readouterr().err


def test_subject_without_prediction_is_refused(phantom: Path, tmp_path: Path):
    from flaxflair.visualization.session_page import write_session_page

    with pytest.raises(InputError, match="holds no synthetic FLAIR"):
        write_session_page(phantom / "sub-01", tmp_path / "page.html")
