"""Out of memory in the words of every backend, and what only looks like it."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from honeclip.device.oom import is_out_of_memory
from honeclip.errors import MemoryExhausted, StepError

MPS = (
    "MPS backend out of memory (MPS allocated: 17.64 GB, other allocations: 384.00 KB, max allowed: 18.13 GB). Tried "
    "to allocate 1024.00 MB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for "
    "memory allocations (may cause system failure)."
)
MPS_UNLIMITED = (
    "MPS backend out of memory (MPS allocated: 30.20 GiB, other allocations: 1.02 GiB). Tried to allocate 256 bytes on "
    "shared pool."
)
MPS_LATER = (
    "MPS command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory). "
    "This error may have been asynchronously reported at some other API call."
)
CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 15.77 GiB of which 12.12 MiB is "
    "free. Process 2714 has 15.75 GiB memory in use. Of the allocated memory 14.53 GiB is allocated by PyTorch, and "
    "213.40 MiB is reserved by PyTorch but unallocated."
)
CUDA_DRIVER = (
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
    "stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
CPU_WINDOWS = (
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate "
    "8589934592 bytes."
)

OUT_OF_MEMORY = [
    torch.OutOfMemoryError(CUDA),
    torch.OutOfMemoryError(MPS_LATER),
    torch.OutOfMemoryError("XPU out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError(MPS_LATER),
    torch.AcceleratorError(CUDA_DRIVER),
    RuntimeError(CUDA),
    RuntimeError(CUDA_DRIVER),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated: 14.00 GiB"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB (GPU 0; 63.98 GiB total capacity)"),
    RuntimeError(MPS),
    RuntimeError(MPS_UNLIMITED),
    RuntimeError("Invalid buffer size: 24.00 GiB"),
    RuntimeError("MPSGraph does not support tensor dims larger than INT_MAX"),
    RuntimeError("Output dim sizes larger than 2**32 elements for matmul not supported"),
    RuntimeError(CPU),
    RuntimeError(CPU_WINDOWS),
    RuntimeError("$ Torch: unable to mmap memory: you tried to mmap 3GB."),
    RuntimeError("could not create a primitive"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
    MemoryError("Unable to allocate 7.28 TiB for an array with shape (1000000000000,) and data type float64"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]

SOMETHING_ELSE = [
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError(
        "MPS command buffer execution failed: Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)"
    ),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x5 and 6x7)"),
    RuntimeError("Placeholder storage has not been allocated on MPS device!"),
    RuntimeError("The MPS backend is supported on macOS 15.0+. Current OS version can be queried using `sw_vers`"),
    RuntimeError("Cannot execute synchronize() without MPS backend."),
    RuntimeError(
        "could not create a primitive descriptor for the matmul primitive. Run workload with ONEDNN_VERBOSE=1"
    ),
    RuntimeError("could not execute a primitive"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed."),
    RuntimeError("can't start new thread"),
    RuntimeError("the caption says: out of memory"),
    RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904]"),
    NotImplementedError("scaled_dot_product_attention for MPS does not support dropout."),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError(CPU),
    KeyError("MPS backend out of memory"),
    KeyboardInterrupt(),
    StepError(MPS),
    MemoryExhausted(f"out of memory with one sample at a time: {CPU}"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: f"{type(error).__name__}: {str(error)[:40]}")
def test_the_words_of_every_backend_are_known(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", SOMETHING_ELSE, ids=lambda error: f"{type(error).__name__}: {str(error)[:40]}")
def test_what_less_work_would_not_cure_is_left_alone(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "ask",
    [lambda: torch.empty(10**16), lambda: torch.ones(10**8, 1).expand(-1, 10**8).contiguous(), lambda: np.ones(10**16)],
    ids=["torch.empty", "contiguous", "numpy"],
)
def test_what_this_machine_itself_raises(ask):
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        ask()
    assert is_out_of_memory(raised.value)
