"""Memory that one forward pass frees, kept for the next.

Activations are large, and glibc asks the kernel for every large block anew and gives it back at once; the kernel then
fills each of its pages with zeros. That costs a good part of a forward pass on a CPU.
"""

from __future__ import annotations

import ctypes
import platform
import sys

# Parameters of mallopt(3): never give the end of the heap back, grow it by large steps, and use mmap, which gives back
# what is freed, from the largest size on that can be set. A small model's activations are below it; large weights and
# the states of all texts, which would leave holes in the heap, above.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_NEVER_TRIM = 2**31 - 1
_GROW_BYTES = 1 << 26
_MAPPED_FROM = 1 << 25


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, and use it again, from here on; only glibc on Linux can.

    Blocks of 32 MB and more still go back at once. The heap stays as large as it was at its peak, so this is for programs
    that do one thing, not for a library that is imported: only the command line calls it. Results do not change.

    Returns:
        Whether it is so now; False leaves everything as it was, or slower than it could be.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((_MMAP_THRESHOLD, _MAPPED_FROM), (_TRIM_THRESHOLD, _NEVER_TRIM), (_TOP_PAD, _GROW_BYTES))
    return all([bool(mallopt(parameter, value)) for parameter, value in wanted])
