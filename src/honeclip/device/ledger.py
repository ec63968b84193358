"""Every tensor's memory from its making to its end, as torch's dispatcher sees it, on any device and on none.

Under torch's fake tensors, which have shapes and no numbers, the same operations run without being computed: what a
forward and backward of a large model would hold is then known in a second, whatever the machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Ledger(TorchDispatchMode):
    """Tells of each new storage and of its end, while it is entered and for storages that were made inside.

    Tensors that were there before are not counted. Only operations of this thread are seen, backward passes too; what a
    kernel allocates for itself is not.

    Args:
        take: called with the bytes of a new storage; may raise.
        release: called with the bytes of one that has ended.
        fake: the fake tensors' mode that is entered around, if there is one: a real tensor is made a fake one there.
    """

    def __init__(
        self, take: Callable[[int], None], release: Callable[[int], None], fake: FakeTensorMode | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._take, self._release, self._fake = take, release, fake
        self._fakes: dict[int, Tensor] = {}  # the mode itself forgets a fake that nobody holds, and makes another

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {
            number for one in tree_iter((args, kwargs)) if isinstance(one, Tensor) for number in self._numbers(one)
        }
        result = func(*args, **kwargs)
        for one in tree_iter(result):
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in given:
                storage = one.untyped_storage()
                given.add(storage._cdata)
                size = storage.nbytes()
                self._take(size)
                weakref.finalize(storage, self._release, size)
        return result

    def _numbers(self, tensor: Tensor) -> Iterator[int]:
        """Of a tensor's storage, and of that of its fake, of which a view may be the result."""
        yield tensor.untyped_storage()._cdata
        if self._fake is not None and not isinstance(tensor, FakeTensor):
            fake = self._fake.from_tensor(tensor)
            self._fakes[fake.untyped_storage()._cdata] = fake
            yield fake.untyped_storage()._cdata


@contextmanager
def levels(fake: FakeTensorMode | None = None) -> Iterator[list[int]]:
    """Bytes above those at the start, after each storage's beginning and end inside; the first entry is 0.

    Args:
        fake: enters this mode as well, so that nothing is computed.
    """
    found, there = [0], [True]

    def note(change: int) -> None:
        if there:
            found.append(found[-1] + change)

    with fake or nullcontext(), Ledger(note, lambda size: note(-size), fake):
        try:
            yield found
        finally:
            there.clear()  # what ends later is not part of it
