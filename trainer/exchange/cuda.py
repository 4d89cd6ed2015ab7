"""GPU memory that another process can open, straight from the CUDA driver.

torch.multiprocessing would do it too, but keeps a counter of users in a file in /dev/shm, which a killed process leaves
there, and cannot share what some settings of PyTorch's allocator give (expandable segments). Blocks are few and live as
long as their process: nothing of it is ever freed.

Source: CUDA driver API, cuMemAlloc, cuIpcGetMemHandle, cuIpcOpenMemHandle (cuda.h).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_HANDLE_BYTES = 64  # CU_IPC_HANDLE_SIZE
_LAZY_ENABLE_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the only flag there is


class _Handle(ctypes.Structure):
    """CUipcMemHandle; passed by value."""

    _fields_ = (("reserved", ctypes.c_byte * _HANDLE_BYTES),)


class _Region:
    """Bytes at an address, in the form in which PyTorch takes them."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 2,
        }


def allocate(nbytes: int, device: torch.device) -> tuple[Tensor, bytes]:
    """Bytes `[nbytes]` on a GPU, and the handle by which another process opens them.

    Raises:
        RuntimeError: There is no room, or the system has no CUDA IPC.
    """
    address, handle = ctypes.c_uint64(), _Handle()
    with _context(device):
        _call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(nbytes))
        _call("cuIpcGetMemHandle", ctypes.byref(handle), address)
    return _tensor(address.value, nbytes, device), bytes(handle)


def open_allocation(handle: bytes, nbytes: int, device: torch.device) -> Tensor:
    """The bytes that another process has allocated on the same GPU.

    Raises:
        RuntimeError: The system has no CUDA IPC.
    """
    address = ctypes.c_uint64()
    with _context(device):
        flags = ctypes.c_uint(_LAZY_ENABLE_PEER_ACCESS)
        _call("cuIpcOpenMemHandle_v2", ctypes.byref(address), _Handle.from_buffer_copy(handle), flags)
    return _tensor(address.value, nbytes, device)


def _tensor(address: int, nbytes: int, device: torch.device) -> Tensor:
    tensor = torch.as_tensor(_Region(address, nbytes), device=device)
    if tensor.data_ptr() != address:
        raise RuntimeError(f"PyTorch has copied shared memory on {device} instead of taking it as it is")
    return tensor


@contextmanager
def _context(device: torch.device) -> Iterator[None]:
    """The context of the device that PyTorch uses too."""
    number, context = ctypes.c_int(), ctypes.c_void_p()
    _call("cuInit", ctypes.c_uint(0))
    _call("cuDeviceGet", ctypes.byref(number), ctypes.c_int(device.index))
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), number)
    _call("cuCtxPushCurrent_v2", context)
    try:
        yield
    finally:
        _call("cuCtxPopCurrent_v2", ctypes.byref(context))


def _call(function: str, *arguments: Any) -> None:
    driver = _driver()
    error = getattr(driver, function)(*arguments)
    if error:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(ctypes.c_int(error), ctypes.byref(text))
        raise RuntimeError(f"CUDA driver: {function}: {(text.value or b'unknown error').decode()} ({error})")


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
