"""The first NVIDIA GPU, asked of its driver: without torch, which takes a second to load."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from contracts.errors import DependencyError

DRIVER_LIBRARY = "libcuda.so.1"
"""What the NVIDIA driver installs; no CUDA toolkit is needed for it."""

NAME_BYTES = 256
COMPUTE_CAPABILITY_MAJOR = 75
COMPUTE_CAPABILITY_MINOR = 76
"""Of ``CUdevice_attribute`` (CUDA driver API, section 6.1, data types)."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes
    ----------
    name : str
        As the driver says it: ``NVIDIA H100 80GB HBM3``.
    compute_capability : str
        ``9.0``.
    """

    name: str
    compute_capability: str


def find_gpu(library: str = DRIVER_LIBRARY) -> Gpu:
    """Ask the driver for the first GPU that ``CUDA_VISIBLE_DEVICES`` leaves.

    Parameters
    ----------
    library : str
        Of the driver.

    Returns
    -------
    Gpu

    Raises
    ------
    DependencyError
        If there is no driver, or it has no GPU.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise DependencyError(f"no NVIDIA driver is here ({library})") from error
    n_gpus, device = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(NAME_BYTES)
    major, minor = ctypes.c_int(), ctypes.c_int()
    for function, arguments in (
        ("cuInit", (0,)),
        ("cuDeviceGetCount", (ctypes.byref(n_gpus),)),
        ("cuDeviceGet", (ctypes.byref(device), 0)),
        ("cuDeviceGetName", (name, NAME_BYTES, device)),
        ("cuDeviceGetAttribute", (ctypes.byref(major), COMPUTE_CAPABILITY_MAJOR, device)),
        ("cuDeviceGetAttribute", (ctypes.byref(minor), COMPUTE_CAPABILITY_MINOR, device)),
    ):
        status = getattr(driver, function)(*arguments)
        if status:
            raise DependencyError(f"the NVIDIA driver has no GPU for us ({function}: {status})")
    return Gpu(name.value.decode("utf-8", "replace"), f"{major.value}.{minor.value}")
