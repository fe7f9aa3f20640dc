"""Pages: what a person looks at, opened in Chromium."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from flaxflair.cli import main
from flaxflair.cohort import load_cohort
from flaxflair.nifti import pack_volume
from flaxflair.pages import make_scene, write_page
from flaxflair.viewer import crop
from flaxflair.volume import Geometry, InputError
from tests.browser import open_page
from tests.samples import AFFINE, SHAPE, image_of


def test_a_packed_volume_is_the_image_to_eight_bits():
    image = image_of("T1")
    packed = nib.Nifti1Image.from_bytes(gunzip(pack_volume(image, AFFINE, 0, 500)))
    np.testing.assert_allclose(packed.get_fdata(), image, atol=0.5 * 500 / 255 + 1e-3)
    assert packed.affine is not None
    np.testing.assert_allclose(packed.affine, AFFINE, atol=1e-5)
    assert packed.get_data_dtype() == np.uint8


def gunzip(content: bytes) -> bytes:
    import gzip

    return gzip.decompress(content)


def test_a_crop_keeps_every_voxel_in_its_place():
    region = np.zeros(SHAPE, bool)
    region[3:5, 4:6, 2:4] = True
    geometry, at = crop(Geometry(SHAPE, AFFINE), region, 1.0)
    assert region[at].sum() == region.sum()
    corner = AFFINE @ [*(s.start for s in at), 1]
    np.testing.assert_allclose(geometry.affine @ [0, 0, 0, 1], corner)


def test_a_page_of_a_session_opens_without_a_word_on_the_console(phantom: Path, tmp_path: Path):
    subject = load_cohort(phantom, ("T1", "T2"))[0]
    assert subject.flair is not None
    path = tmp_path / "page.html"
    write_page(path, subject, 0.9 * subject.flair, {"model": "</script> & co"})
    page = open_page(path, width=1200, ready="document.body.dataset.ready")
    assert page.console == []
    assert page.requests == [path.as_uri()]
    assert page.overflow == 0
    assert "synthetic FLAIR" in page.text
    assert "</script> & co" in page.text


def test_a_scene_begins_with_an_input_and_the_synthetic_flair(phantom: Path):
    subject = load_cohort(phantom, ("T1", "T2"))[0]
    scene = make_scene(subject, np.zeros(subject.geometry.shape, np.float32))
    images = [layer.title for layer in scene.layers if layer.kind == "image"]
    assert images[1] == "synthetic FLAIR"
    assert {"true FLAIR", "absolute error"} <= set(images)
    overlays = [layer.title for layer in scene.layers if layer.kind == "overlay"]
    assert "outline of the brain" in overlays


def test_a_run_and_a_predicted_session_have_a_page(finished: Path, phantom: Path, tmp_path: Path):
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


def test_a_place_that_holds_neither_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(tmp_path)]) == 1
    assert "lies in no data set" in capsys.readouterr().err


def test_a_subject_without_a_prediction_is_refused(phantom: Path, tmp_path: Path):
    from flaxflair.pages import write_session_page

    with pytest.raises(InputError, match="holds no synthetic FLAIR"):
        write_session_page(phantom / "sub-01", tmp_path / "page.html")
