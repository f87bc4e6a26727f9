"""The lengths that programs are compiled for."""

from __future__ import annotations

SMALLEST = 128


def token_sizes(n_positions: int | list[int]) -> list[int]:
    """Total lengths: a list as it is, sorted; for a number, powers of two from 128, and the number itself."""
    if isinstance(n_positions, list):
        return sorted(n_positions)
    sizes = []
    size = SMALLEST
    while size < n_positions:
        sizes.append(size)
        size *= 2
    return [*sizes, n_positions]


def context_sizes(estimate: int | list[int] | None, tokens: list[int]) -> list[int]:
    """Prompt lengths: a list as it is, sorted; one for a number, none for 0; half of each total length for None."""
    if isinstance(estimate, list):
        return sorted(estimate)
    if estimate is None:
        return [size // 2 for size in tokens]
    if isinstance(estimate, int):
        return [estimate] if estimate > 0 else []
    raise NotImplementedError(f"prompt buckets {estimate!r} are neither a number nor a list")


def find(sizes: list[int], length: int) -> int | None:
    """The smallest that length fits in, the largest when it fits in none; None when there is none."""
    return next((size for size in sizes if size >= length), sizes[-1] if sizes else None)
