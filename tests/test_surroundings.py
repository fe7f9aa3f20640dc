"""Commands among other people's files, terminals and machines: a sentence, no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flaxflair.cli import main
from flaxflair.core.atomic_files import write_json
from flaxflair.core.records import InputError

PROGRAM = [sys.executable, "-m", "flaxflair.cli"]


@pytest.fixture(scope="module")
def small(raw_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a raw data set of one T1, its folder's name full of what shells and markup read."""
    root = tmp_path_factory.mktemp("small") / "data [old] :x: b"
    (root / "sub-01/anat").mkdir(parents=True)
    write_json(root / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.8.0"})
    scan = "sub-01/anat/sub-01_T1w.nii.gz"
    shutil.copy(raw_phantom / scan, root / scan)
    return root


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("participants.tsv", b"participant_id\tsite\nsub-01\tOrl\xe9ans\n", "byte 0xe9 of line 2"),
        ("participants.tsv", "participant_id\nsub-01\n".encode("utf-16"), "is not UTF-8 text"),
        ("dataset_description.json", b'{"Name": "S",}', "is not JSON"),
        ("dataset_description.json", b'{"Name": "\xe9"}', "is not JSON"),
        ("dataset_description.json", b"[]", "holds no JSON object"),
        (".bidsignore", b"\xe9", "is not UTF-8 text"),
    ],
)
def test_text_that_cannot_be_read_is_refused_by_name(
    copy: Path, name: str, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / name).write_bytes(content)
    assert main(["check", str(copy)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"flaxflair: {copy / name}: ")
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("participants.tsv", "participant_id\tgroup\nsub-01\tMS\n"),
        ("dataset_description.json", '{"Name": "S"}'),
        ("sub-01/anat/sub-01_T1w.json", "{}"),
    ],
)
def test_a_byte_order_mark_is_read(copy: Path, name: str, text: str) -> None:
    (copy / name).write_text(text, encoding="utf-8-sig")
    assert main(["check", str(copy)]) == 0


@pytest.mark.parametrize("content", [b'{"a": "\xe9"}', b'{"a": 1,}', b"", b"[1]"])
def test_a_sidecar_that_cannot_be_read_is_a_warning(
    copy: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "sub-01/anat/sub-01_T1w.json").write_bytes(content)
    assert main(["check", str(copy)]) == 0
    assert "warning: " in (told := capsys.readouterr().out)
    assert "sub-01_T1w.json: " in told


def test_check_shows_every_session_and_names_the_bad_ones(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = copy / "sub-01/anat/sub-01_T1w.nii.gz"
    bad = {"sub-00": ("run-1_T1w", "run-2_T1w"), "sub-02": ("ce-gd_T1w",), "sub-03": ("T1w",)}
    for participant, names in bad.items():
        (copy / participant / "anat").mkdir(parents=True)
        for name in names:
            shutil.copy(scan, copy / participant / f"anat/{participant}_{name}.nii.gz")
    (copy / "sub-03/anat/sub-03_T1w.nii.gz").write_bytes(b"nothing")
    (copy / "sub-04").symlink_to("sub-04")
    assert main(["check", str(copy)]) == 1
    told = capsys.readouterr()
    assert (
        told.err
        == "flaxflair: sub-00, sub-02, sub-03, sub-04: cannot be used as it is; see above\n"
    )
    for said in ("has T1 twice", "is post-contrast", "not gzip", "sub-04: cannot be read", "good"):
        assert said in told.out


@pytest.mark.parametrize("command", ["prepare", "predict"])
def test_a_dry_run_ends_as_the_run_itself_would(
    copy: Path, raw_model: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "prepare":
        scan = copy / "sub-01/anat/sub-01_T1w.nii.gz"
        shutil.copy(scan, scan.with_name("sub-01_run-2_T1w.nii.gz"))
    model = ["--model", str(raw_model)] if command == "predict" else []  # of T1 and T2
    assert main([command, str(copy), "out", "participant", "--dry-run", *model]) == 1
    assert "1 of 1 sessions cannot be used as they are; see above" in capsys.readouterr().err


@pytest.mark.parametrize("spoil", ["dangling", "pointer", "empty", "folder", "text"])
def test_a_dry_run_says_what_is_no_image(
    copy: Path, spoil: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = copy / "sub-01/anat/sub-01_T1w.nii.gz"
    scan.unlink()
    if spoil == "dangling":
        scan.symlink_to("../../.git/annex/objects/x/x")
    elif spoil == "folder":
        scan.mkdir()
    else:
        texts = {"pointer": "/annex/objects/MD5E-s1--x.nii.gz\n", "empty": "", "text": "nothing"}
        scan.write_text(texts[spoil])
    for command in ("prepare", "predict"):
        assert main([command, str(copy), "out", "participant", "--dry-run"]) == 1
        assert "1 of 1 sessions cannot be used as they are; see above" in capsys.readouterr().err


def run(root: Path, redirection: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    line = " ".join([*PROGRAM, "check", f"'{root}'", redirection])
    everything = {**os.environ, **environment}
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=everything)


@pytest.mark.parametrize(
    ("redirection", "environment"),
    [
        ("", {}),
        (">&-", {}),
        ("2>&-", {}),
        ("<&- >&- 2>&-", {}),
        ("", {"PYTHONIOENCODING": "ascii"}),
        ("", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
        ("", {"HOME": "/nonexistent"}),
        ("", {"HOME": ""}),
        (" | cat", {"HOME": "/proc"}),
    ],
)
def test_a_command_ends_well_on_any_terminal(
    small: Path, redirection: str, environment: dict[str, str]
) -> None:
    done = run(small, redirection, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("good" in done.stdout) == (" >&-" not in f" {redirection}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_below_standard_output_is_one_sentence(small: Path, unbuffered: str) -> None:
    done = run(small, ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr.startswith("flaxflair: standard output: cannot be written (No space left")
    assert done.stderr.count("\n") == 1


def test_whoever_reads_no_further_ends_a_command_without_a_word(small: Path) -> None:
    done = run(small, "| true")
    assert done.stderr == ""


def test_without_a_home_nothing_is_written_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flaxflair.config import PhantomConfig
    from flaxflair.runtime.compilation_cache import enable_compilation_cache
    from flaxflair.simulation.cache import locate

    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    # What a user without an entry in /etc/passwd has of `~`: nothing that it stands for.
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert enable_compilation_cache() is None
    with pytest.raises(InputError, match="set HOME or XDG_CACHE_HOME"):
        locate(PhantomConfig())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["check", "."],
        ["prepare", ".", "out", "participant"],
        ["predict", "--model", "m", ".", "out", "participant"],
        ["saliency", "--model", "m", "--out", "out"],
        ["evaluate", "a.nii", "b.nii"],
        ["export", "a", "b"],
        ["report", "a"],
        ["montage", "a", "b"],
        ["phantom", "a"],
    ],
    ids=lambda command: command[0],
)
def test_a_device_that_is_not_there_is_one_sentence(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import jax

    def find() -> None:
        raise AssertionError  # what JAX raises for a platform whose plugin is not installed

    monkeypatch.setattr(jax, "devices", find)
    flagged = command[0] in ("prepare", "predict", "saliency")
    for ask in ("flag", "variable") if flagged else ("variable",):
        monkeypatch.setenv("JAX_PLATFORMS", "cuda" if ask == "variable" else "cpu")
        assert main([*command, "--device", "gpu"] if ask == "flag" else command) == 1
        told = capsys.readouterr().err
        assert told.startswith("flaxflair: --device or JAX_PLATFORMS requests cuda, which is")
        assert told.count("\n") == 1


def test_names_are_printed_as_they_are(
    small: Path, raw_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"{small}/[red]out:x:"
    assert main(["prepare", str(small), out, "participant", "--dry-run"]) == 0
    assert "[red]out:x:" in capsys.readouterr().out.replace("\n", "")
