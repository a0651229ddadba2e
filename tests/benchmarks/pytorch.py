"""LeNet-5 as a user of PyTorch writes it, as peers of `training.py` and `inference.py`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import measure
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import nn
from training import random_batches, repeated

torch.set_num_threads(measure.cores())


def network() -> nn.Sequential:
    """Return the same layers as `keras_lenet.models.lenet5`: 61,706 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 120, 5), nn.ReLU(), nn.Flatten(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 10),
    )  # fmt: skip


def stepper(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Return a step of training, of images and labels."""

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def training(
    count: int, batch: int, *, channels_last: bool = False, compiled: bool = False
) -> measure.Repetition:
    """Prepare steps of AdamW over prepared batches: `count` images in one repetition.

    `channels_last` is the memory format of images and kernels, and comes with the fused optimizer.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = network().to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-4, fused=channels_last)
    images, labels = random_batches(count)
    prepared = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous(memory_format=layout)
    known = torch.from_numpy(labels).long()
    batches = [*zip(prepared.split(batch), known.split(batch), strict=True)]
    step = stepper(torch.compile(model) if compiled else model, optimizer)

    def epoch() -> None:
        for one in batches:
            step(*one)

    return lambda: measure.wall(epoch)


def warped(count: int, strengths: dict[str, float], batch: int) -> measure.Repetition:
    """Prepare the usual augmentation: affine_grid, grid_sample, from 28×28 to 32×32 pixels."""
    pixels = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8)

    def epoch() -> None:
        for chosen in torch.randperm(count).split(batch):
            size, images = (len(chosen), 1, 32, 32), pixels[chosen, None].float() / 255
            grid = F.affine_grid(transforms(len(chosen), strengths), size, align_corners=False)
            F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    return lambda: measure.wall(epoch)


def transforms(count: int, strengths: dict[str, float]) -> torch.Tensor:
    """Return random affine maps, (N, 2, 3)."""
    turn, zoom, shear, right, down = torch.rand(5, count) * 2 - 1
    angle = turn * (strengths["rotate"] * math.pi / 180)
    scale = 1 / (1 + zoom * strengths["zoom"])
    sheared = shear * strengths["shear"]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shift = strengths["shift"] / 14  # of half a side
    rows = (cos - sheared * sin, -sin - sheared * cos, right * shift, sin, cos, down * shift)
    return torch.stack(rows, 1).view(-1, 2, 3)


def tutorial(data: str, goal: float) -> measure.Repetition:
    """Prepare LeNet-5 on padded, standardized images at a constant rate, validated every epoch."""
    (images, labels), validation = standardized(data, pad=2)

    def attempt(seed: int, deadline: float) -> bool:
        torch.manual_seed(seed)
        model = network()
        step = stepper(model, torch.optim.Adam(model.parameters(), 1e-3))
        while (reached := accuracy(model, *validation)) < goal and time.perf_counter() < deadline:
            for chosen in torch.randperm(len(images)).split(64):
                step(images[chosen], labels[chosen])
        return reached >= goal

    return repeated(attempt)


def one_epoch(data: str, goal: float) -> measure.Repetition:
    """Prepare a wider network, one epoch of one cycle: the method of tuomaso/train_mnist_fast."""
    (images, labels), validation = standardized(data, pad=0)

    def attempt(seed: int, deadline: float) -> bool:
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
            nn.Linear(800, 256), nn.ReLU(),
            nn.Linear(256, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), 1e-2, betas=(0.7, 0.9))
        batches = [*zip(images.split(256), labels.split(256), strict=True)]
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 1e-2, total_steps=len(batches), cycle_momentum=False
        )
        step = stepper(model, optimizer)
        for batch in batches:
            step(*batch)
            schedule.step()
        return accuracy(model, *validation) >= goal

    return repeated(attempt)


def standardized(data: str, pad: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return images (N, 1, side, side) by the usual mean and deviation, and labels, by split."""
    found = []
    with np.load(data) as splits:
        for split in ("train", "validation"):
            pixels = torch.from_numpy(splits[f"{split}_images"])[:, None]
            images = F.pad((pixels / 255 - 0.1307) / 0.3081, (pad,) * 4, value=-0.1307 / 0.3081)
            found.append((images, torch.from_numpy(splits[f"{split}_labels"]).long()))
    return found


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.inference_mode():
        found = torch.cat([model(batch).argmax(1) for batch in images.split(1000)])
    return float((found == labels).float().mean())


def inference(
    weights: list[NDArray[np.float32]], images: NDArray[np.float32], compiled: bool
) -> Callable[[], torch.Tensor]:
    """Return LeNet-5 as it is deployed, resize and softmax included, on one thread.

    The weights are those of a Keras model of the same layers; the images, (N, 1, 28, 28), are given
    to every call.
    """
    torch.set_num_threads(1)
    model = network()
    layers = [layer for layer in model if hasattr(layer, "weight")]
    for layer, kernel, bias in zip(layers, weights[::2], weights[1::2], strict=True):
        axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        layer.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.transpose(axes)))
        layer.bias.data = torch.from_numpy(bias)
    resize = nn.Upsample(size=(32, 32), mode="bilinear")
    whole = nn.Sequential(resize, model, nn.Softmax(dim=1)).eval()
    run, pixels = torch.compile(whole) if compiled else whole, torch.from_numpy(images)

    def invoke() -> torch.Tensor:
        with torch.inference_mode():
            return run(pixels)

    return invoke
