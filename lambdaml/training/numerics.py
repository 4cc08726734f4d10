"""A numerics class says in which arithmetic a process computes. This module chooses the same one everywhere.

A sum of floats depends on its order, and libraries choose that order by the CPU's instruction set and even by the place
of an array in memory. Environment variables forbid this, but only if they are set before a library computes for the
first time. So the libraries, not the environment, are asked what a process really computes in.

MKL accepts `AVX2` on Intel's CPUs only. On others it silently uses `AUTO`: the same bits for every alignment, but only
on that kind of CPU. `MKL_CBWR=COMPATIBLE` is kept if somebody has set it: its bits are the same on all x86-64 CPUs.
Source: oneMKL Developer Guide, "Obtaining Numerically Reproducible Results".
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lambdaml.errors import OtherNumerics, SettingsError
from lambdaml.log.numerics import Mode, Numerics

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 2**18
"""This many numbers are squared at once."""

VARIABLES = (
    "MKL_CBWR",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "NPY_DISABLE_CPU_FEATURES",
)
"""These variables limit MKL, ATen, oneDNN, NumPy's BLAS and NumPy itself, in this order."""

ONE_CORE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""These settings make a function compute on one core, so that its bits do not depend on the machine."""

_AVX2 = ("AVX2", "avx2", "AVX2", "Haswell")
_OLDER_X86 = ("COMPATIBLE", "default", "SSE41", "Nehalem")
_ARM = ("", "default", "", "ARMV8")
_BRANCHES = (
    "OFF AUTO COMPATIBLE SSE2 SSE3 SSSE3 SSE4_1 SSE4_2 AVX AVX2 AVX512_MIC AVX512 AVX512_MIC_E1 AVX512_E1".split()
)
"""MKL gives its branches these names, from number 1 on."""


def environment(mode: Mode) -> dict[str, str]:
    """Return the variables that a process of this mode needs on this machine; none for `fast`."""
    if mode == "fast":
        return {}
    x86, avx2 = platform.machine().lower() in ("x86_64", "amd64"), "avx2" in _cpu()["flags"].split()
    values = [*((_AVX2 if avx2 else _OLDER_X86) if x86 else _ARM), _too_new_for_numpy(avx2) if x86 else ""]
    if x86 and os.environ.get("MKL_CBWR") == "COMPATIBLE":
        values[0] = "COMPATIBLE"
    return {name: value for name, value in zip(VARIABLES, values, strict=True) if value}


def prepare(mode: Mode) -> None:
    """Put the mode's variables into this process's environment, and remove those of the other mode.

    Warning: a library that has already computed does not change. `current_class` says what the process computes in.

    Raises:
        SettingsError: If there is no such mode.
    """
    if mode not in get_args(Mode):
        raise SettingsError(f"numerics: must be {' or '.join(get_args(Mode))} (it is {mode!r})")
    for name, value in environment("reproducible").items():
        if mode == "reproducible":
            os.environ[name] = value
        elif os.environ.get(name) == value:
            del os.environ[name]


def prepare_for(run: Numerics | None) -> None:
    """Prepare this process to continue or check a run, as `prepare` does; do nothing if the run has recorded no
    class."""
    if run is not None:
        if run.decides.get("MKL", "").endswith("COMPATIBLE"):
            os.environ["MKL_CBWR"] = "COMPATIBLE"
        prepare(run.mode)


def current_class() -> Numerics:
    """Return the class that this process computes in. The call loads torch, and fixes the class."""
    import numpy
    import torch

    branch, cpu = _mkl_branch(), _cpu()
    wide = "AVX512" if "avx512f" in cpu["flags"].split() else "AVX2" if "avx2" in cpu["flags"].split() else "SSE"
    kind = f" on {cpu['vendor_id']} family {cpu['cpu family']}, {wide}" if branch in ("AUTO", "OFF") else ""
    version = re.search(r"Math Kernel Library Version (\S+?)-", torch.__config__.show())
    simd = numpy.show_config(mode="dicts")["SIMD Extensions"]
    widest = [*simd.get("baseline", []), *simd.get("found", [])][-1:]
    return Numerics(
        "fast" if branch == "OFF" else "reproducible",
        {
            "machine": platform.machine(),
            "torch": str(torch.__version__),
            "MKL": f"{version[1] if version else ''} {branch}{kind}".strip(),
            "ATen": torch.backends.cpu.get_cpu_capability(),
            "oneDNN": _onednn(wide),
        },
        {
            "NumPy": " ".join([numpy.__version__, *widest]),
            "glibc": platform.libc_ver()[1],
        },
    )


@cache
def _onednn(wide: str) -> str:
    """Return the instruction set that oneDNN computes in. It cannot be asked, so its limit is looked up once: when torch has
    been loaded, a change of the environment changes nothing. A limit beyond what the CPU has is no limit."""
    return os.environ.get("ONEDNN_MAX_CPU_ISA", wide) if wide == "AVX512" else wide


def of_new_process() -> Numerics:
    """Return the class of a new process with this one's environment; it takes as long as loading torch."""
    command = [sys.executable, "-P", "-m", "lambdaml.training.numerics"]
    return Numerics(**json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


def differences(run: Numerics | None) -> str:
    """Describe on one line how this process's class differs from a run's; "" if it does not, or the run has none."""
    if run is None:
        return ""
    here = current_class()
    pairs: list[tuple[str, str, str]] = [("mode", here.mode, run.mode)] if run.mode == "reproducible" else []
    pairs += [(name, here.decides.get(name, "none"), value) for name, value in run.decides.items()]
    return "; ".join(f"{name} is {mine} here and {theirs} in the run" for name, mine, theirs in pairs if mine != theirs)


def demand(run: Numerics | None) -> None:
    """Make sure that this process may compute for a run that promises bits.

    Raises:
        OtherNumerics: If the process is of another class than the run.
    """
    if run is None or run.mode == "fast" or not (found := differences(run)):
        return
    if "mode is" in found:
        wanted = " ".join(f"{name}='{value}'" for name, value in environment(run.mode).items())
        what = f"torch has computed before; use the command line, or begin Python with {wanted}"
    else:
        what = (
            "use a machine and versions like the run's (runs begun with MKL_CBWR=COMPATIBLE can mix Intel and AMD), or "
            "go on from here in a new run: lambdaml train --from RUN"
        )
    raise OtherNumerics(f"this process is of another numerics class than the run: {found}; {what}")


def norm(vector: NDArray[Any]) -> float:
    """Return the 2-norm, with the same bits on every CPU."""
    return math.sqrt(squares(vector))


def squares(vector: NDArray[Any]) -> float:
    """Return the sum of the squares, with the same bits on every CPU: it squares in float64, and adds half of the
    numbers to the other half until one is left."""
    half = vector.size // 2
    size = vector.size - half
    squared = vector[:size].astype("float64")
    squared *= squared
    for start in range(0, half, _BLOCK):  # the first halving, without all squares of the second half in memory
        part = vector[size + start : min(size + start + _BLOCK, vector.size)].astype("float64")
        part *= part
        squared[start : start + len(part)] += part
    while size > 1:
        half = size // 2
        squared[:half] += squared[size - half : size]
        size -= half
    return float(squared[0]) if size else 0.0


def _mkl_branch() -> str:
    """Return the branch that torch's MKL takes: `OFF` if it chooses one for each array, `none` without MKL."""
    import torch

    if "Math Kernel Library" not in torch.__config__.show():
        return "none"
    name = {"Darwin": "libtorch_cpu.dylib", "Windows": "torch_cpu.dll"}.get(platform.system(), "libtorch_cpu.so")
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
    for symbol in ("mkl_serv_cbwr_get", "MKL_CBWR_Get"):  # linked into torch, or a library of its own
        if hasattr(library, symbol):
            number = getattr(library, symbol)(-1)
            branch, strict = max(1, number & 0xFFFF), ",STRICT" if number & 0x10000 else ""
            return (_BRANCHES[branch - 1] if branch <= len(_BRANCHES) else f"number {branch}") + strict
    return os.environ.get("MKL_CBWR", "OFF")


def _too_new_for_numpy(avx2: bool) -> str:
    """Return the instruction sets that NumPy must not use, by NumPy's names."""
    from importlib.metadata import version

    if tuple(int(part) for part in version("numpy").split(".")[:2]) >= (2, 4):
        return "X86_V4 AVX512_ICL AVX512_SPR" if avx2 else "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
    newer = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"
    return newer if avx2 else f"AVX F16C FMA3 AVX2 {newer}"


def _cpu() -> dict[str, str]:
    """Return the first processor's entry in /proc/cpuinfo; its values are unknown if the file does not exist."""
    found = {"flags": "", "vendor_id": "unknown", "cpu family": "unknown"}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return found
    return found | {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


if __name__ == "__main__":
    print(json.dumps(asdict(current_class())))
