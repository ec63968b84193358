"""Out of memory, recognised by the messages that the backends really raise."""

from __future__ import annotations

import errno

import torch

MESSAGES = (
    "CUDA out of memory. Tried to allocate",  # a plain RuntimeError before torch.OutOfMemoryError existed
    "HIP out of memory. Tried to allocate",
    "would exceed allowed memory. (out of memory)",  # the cudaMallocAsync allocator
    "CUDA ran out of memory outside PyTorch's allocator",
    "CUDA error: out of memory",  # the driver; an AcceleratorError since torch 2.8
    "HIP error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",  # a plain RuntimeError in every version
    "Invalid buffer size:",  # one tensor larger than Metal's largest buffer
    "kIOGPUCommandBufferCallbackErrorOutOfMemory",  # torch 2.15: the GPU failed, which shows at a later synchronisation
    "MPSGraph does not support tensor dims larger than INT_MAX",
    "Output dim sizes larger than 2**32 elements for matmul not supported",
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    "DefaultCPUAllocator: not enough memory: you tried to allocate",  # Windows
    "unable to mmap memory: you tried to mmap",
)
"""Parts of the text of a RuntimeError that less work at once can cure. Sources: reference mps.md section 2, and the
strings of the libraries of torch 2.15."""

WHOLE = (
    "could not create a primitive",  # oneDNN under an address-space limit, where its code finds no room (seen)
    "std::bad_alloc",
)
"""Whole texts. oneDNN says "could not create a primitive descriptor for ..." where it is not about memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device, so that a smaller piece of work may succeed."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    return isinstance(error, RuntimeError) and (text in WHOLE or any(part in text for part in MESSAGES))
