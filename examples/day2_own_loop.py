"""A day with an own PyTorch loop: CIFAR from torchvision, a teacher, an audit, three students.

    python examples/day2_own_loop.py --root data --data CIFAR10 --epochs 30

Trains a teacher on plain images, asks ``audit_teacher`` whether correcting its soft labels would change anything, then
trains a small student three times from the same weights: on labels alone, with the teacher on CutMix images (KD), and
with its soft labels corrected (KD-i). ``--data made`` needs no files: it draws coloured squares.
"""

import argparse
import time

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets

from ida_lightning import (
    LabelMix,
    Mixing,
    audit_teacher,
    build_model,
    distillation_loss,
    isotonic_soft_labels,
    mix_images,
    mix_labels,
    mixed_cross_entropy,
)

MEAN, STD = torch.tensor([0.49, 0.48, 0.45])[:, None, None], torch.tensor([0.25, 0.24, 0.26])[:, None, None]
TEMPERATURE = 4.5


def load(name: str, root: str, train: bool, count: int | None) -> TensorDataset:
    """Return normalised images and labels, the first ``count`` of them; ``name`` is a class of torchvision, or made."""
    if name == "made":
        rng = np.random.default_rng(int(train))
        labels = rng.integers(10, size=count or 1000)
        colours = np.random.default_rng(2).integers(256, size=(10, 1, 1, 3))
        pixels = np.clip(colours[labels] + rng.normal(0, 60, (len(labels), 32, 32, 3)), 0, 255).astype(np.uint8)
    else:
        source = getattr(datasets, name)(root, train=train)
        pixels, labels = source.data[:count], np.asarray(source.targets[:count])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return TensorDataset((images - MEAN) / STD, torch.from_numpy(labels).long())


def train(network: nn.Module, loader: DataLoader, epochs: int, teacher: nn.Module | None, correct: bool) -> None:
    """Train on labels alone, or by a teacher on CutMix images."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, epochs * len(loader))
    rng, mixing = np.random.default_rng(0), Mixing("cutmix")
    network.train()
    for _ in range(epochs):
        for images, labels in loader:
            if teacher is None:
                loss = mixed_cross_entropy(network(images), LabelMix.unmixed(labels)).mean()
            else:
                plan = mixing.draw(len(images), images.shape[2:], rng)
                mixed, mix = mix_images(images, plan), mix_labels(labels, plan)
                with torch.no_grad():
                    soft_labels = (teacher(mixed) / TEMPERATURE).softmax(1)
                    if correct:
                        soft_labels = isotonic_soft_labels(soft_labels, mix)
                logits = network(mixed)
                kd = distillation_loss(logits, soft_labels, TEMPERATURE).mean()
                loss = 0.95 * kd + 0.05 * mixed_cross_entropy(logits, mix).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(network: nn.Module, data: TensorDataset) -> float:
    """Return the share of images that a network is right about."""
    network.eval()
    right: list[Tensor] = [network(images).argmax(1) == labels for images, labels in DataLoader(data, 256)]
    return float(torch.cat(right).double().mean())


def main() -> None:
    """Do the day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="where torchvision finds the data set")
    parser.add_argument("--data", default="CIFAR10", help="a class of torchvision.datasets such as CIFAR100, or made")
    parser.add_argument("--count", type=int, help="how many images of each split; all if not given")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--teacher", default="resnet10t", help="a timm name")
    parser.add_argument("--student", default="test_resnet", help="a timm name")
    options = parser.parse_args()
    data, test = (load(options.data, options.root, part, options.count) for part in (True, False))
    classes = int(data.tensors[1].max()) + 1
    torch.manual_seed(0)
    loader = DataLoader(data, batch_size=128, shuffle=True, drop_last=True)

    def fit(title: str, name: str, taught_by: nn.Module | None = None, correct: bool = False) -> nn.Module:
        started = time.perf_counter()
        torch.manual_seed(0)  # the same weights and order for every student
        network = build_model(name, num_classes=classes, in_channels=3, stem="small")
        train(network, loader, options.epochs, taught_by, correct)
        print(f"{title:>15}: {accuracy(network, test):6.1%} test accuracy, {time.perf_counter() - started:.0f} s")
        return network

    teacher = fit("teacher", options.teacher).eval()
    audit_teacher(
        teacher, loader, mixing=Mixing("cutmix"), temperature=TEMPERATURE, batches=5, out="outputs/day2/audit"
    )
    fit("student, labels", options.student)
    fit("student, KD", options.student, teacher)
    student = fit("student, KD-i", options.student, teacher, correct=True)
    save_file(student.state_dict(), "outputs/day2/student.safetensors")


if __name__ == "__main__":
    main()
