"""What a vector is here, and what is done to one without a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""[texts, D], a row a text."""


def shorten(vectors: Vectors, dimensions: int) -> Vectors:
    """The first dimensions of each vector, scaled to length 1 again (Matryoshka, Kusupati et al. 2022)."""
    return normalised(vectors[:, :dimensions])


def normalised(vectors: Vectors) -> Vectors:
    """Each vector at length 1; a zero vector stays one."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
