"""A perceptron with one hidden layer and Adam, in NumPy: small enough to read, real enough to learn."""

from __future__ import annotations

import numpy as np

PIXELS, HIDDEN, CLASSES = 784, 128, 10
SHAPES = ((PIXELS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
SIZE = sum(int(np.prod(shape)) for shape in SHAPES)
"""Parameters in all; they and their gradients are kept as one flat vector, so they can be averaged as one."""


def start(seed: int = 0) -> np.ndarray:
    """Initial parameters (He et al. 2015); the same seed gives every rank the same ones."""
    chance = np.random.default_rng(seed)
    layers = [
        chance.normal(0, np.sqrt(2 / shape[0]), shape) if len(shape) == 2 else np.zeros(shape) for shape in SHAPES
    ]
    return np.concatenate([layer.ravel() for layer in layers]).astype(np.float32)


def split(flat: np.ndarray) -> list[np.ndarray]:
    """Views of the flat vector, one per layer."""
    views, offset = [], 0
    for shape in SHAPES:
        size = int(np.prod(shape))
        views.append(flat[offset : offset + size].reshape(shape))
        offset += size
    return views


def loss_and_gradient(flat: np.ndarray, pixels: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean cross entropy of a batch and its gradient, flat."""
    first, first_bias, second, second_bias = split(flat)
    hidden = np.maximum(pixels @ first + first_bias, 0)
    shares = _softmax(hidden @ second + second_bias)
    rows = np.arange(len(labels))
    loss = float(-np.log(shares[rows, labels] + 1e-9).mean())
    shares[rows, labels] -= 1
    shares /= len(labels)
    back = (shares @ second.T) * (hidden > 0)
    gradient = (pixels.T @ back, back.sum(0), hidden.T @ shares, shares.sum(0))
    return loss, np.concatenate([part.ravel() for part in gradient])


def predict(flat: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The most likely digit of each image."""
    first, first_bias, second, second_bias = split(flat)
    return (np.maximum(pixels @ first + first_bias, 0) @ second + second_bias).argmax(1)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


class Adam:
    """Adam (Kingma and Ba 2014) on the flat vector."""

    def __init__(self, rate: float = 4e-3) -> None:
        self.rate = rate
        self.step_count = 0
        self.mean = np.zeros(SIZE, np.float32)
        self.square = np.zeros(SIZE, np.float32)

    def step(self, flat: np.ndarray, gradient: np.ndarray) -> None:
        """Change the parameters in place."""
        self.step_count += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient * gradient - self.square)
        mean = self.mean / (1 - 0.9**self.step_count)
        square = self.square / (1 - 0.999**self.step_count)
        flat -= self.rate * mean / (np.sqrt(square) + 1e-8)
