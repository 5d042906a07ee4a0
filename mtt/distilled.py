"""Somebody's distilled set, in use: `load` it, `train` a network of your own on it, `export` its pictures.

    data = distilled.load("sets/digits-ipc1.safetensors")
    network = distilled.train(network, data)                       # any nn.Module: images of data.shape to a logit for each of data.classes
    distilled.accuracy(network, data.normalise(images), labels)    # images (n, C, H, W) uint8

On the command line: `python -m mtt.distilled export SET FOLDER [--huggingface]`.
"""

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from mtt import dsa, imageset, photos, textures
from mtt.imageset import ImageSet
from mtt.progress import bar
from mtt.seeds import generator
from mtt.training import accuracy, halves

__all__ = ["Distilled", "accuracy", "load", "train"]

PUBLISHED = {"epochs": 1000, "batch": 256, "momentum": 0.9, "weight_decay": 0.0005}  # the paper's, where the set says nothing


class Distilled(ImageSet, Dataset):
    """An ImageSet (its attributes are those) whose items are what a network takes: (image (C, H, W) float32, label).

    A label is its class index, or (K,) float32 probabilities. `normalise` and `transform` prepare other images as these are;
    `pixels()` leads back to what an eye takes, and so do `mean` and `std`, or `whitening.back`, unclipped.
    """

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        """One (image, label); a canvas is cropped at random."""
        image = self.normalise(self.images[index][None])
        image = textures.crop(image, textures.draw(1, self.canvas_size, None), self.canvas_size)[0]
        return image, self.labels[index] if self.labels.ndim > 1 else int(self.labels[index])

    def transform(self, picture):
        """(C, H, W) float32, as a network takes it, of a PIL image of any kind and size: prepared as stage prepare does with files."""
        channels, side, _ = self.shape
        picture = photos.seen(picture).convert("L" if channels == 1 else "RGB")
        return self.normalise(photos.fitted(picture, side)[None])[0]

    @property
    def families(self):
        """The augmentation (mtt/dsa.py) that the set was made with, and is to be trained on with."""
        return self.provenance.get("augmentation", {}).get("families", [])

    @property
    def protocol(self):
        """Epochs, batch, momentum and weight decay by which the set was scored while it was made; the paper's where it says nothing."""
        stored = self.provenance.get("distill", {}).get("validate", {})
        return {name: stored.get(name, value) for name, value in PUBLISHED.items()}


def load(path):
    """The Distilled set in the file `path`. Raises ValueError, naming the path, for a file that is none."""
    return Distilled(**vars(imageset.load(path)))


def train(network, data, learning_rate=None, epochs=None, seed=0):
    """Train a network on a Distilled set by its stored protocol, in place and on its own device; gives it back, at rest.

    `network` is any nn.Module of images (n, C, H, W) that gives logits (n, K). SGD at the learned step size (`learning_rate` where the
    set has none, or where another is better for this network), a tenth of it in the second half, momentum from rest in each, the
    set's own augmentation, hard or soft labels (Cazenavette et al. 2022, appendix). Raises ValueError without a learning rate.
    """
    rate = learning_rate or data.learning_rate
    if not rate:
        raise ValueError(f"this set of {data.name} has no learned step size; wanted train(..., learning_rate=0.01) or the like")
    how, network, device = data.protocol, network.train(), next(network.parameters()).device
    images, labels, draws = data.on(device), data.labels.to(device), generator("train", seed)
    epochs = epochs or how["epochs"]
    with bar(epochs, "training", "epoch") as progress:
        for half, slower in halves(epochs, rate):
            optimizer = torch.optim.SGD(network.parameters(), slower, how["momentum"], weight_decay=how["weight_decay"])
            for _ in range(half):
                chunks = torch.randperm(len(data), generator=draws).split(how["batch"])
                losses = [step(network, optimizer, *seen(data, images, labels, chunk, draws)) for chunk in chunks]
                progress.set_postfix_str(f"loss {float(sum(losses)) / len(losses):.4f}", refresh=False)
                progress.update()
    return network.eval()


def seen(data, images, labels, chunk, draws):
    """Images and labels of a step as the network sees them: canvases cropped, all augmented."""
    chunk = chunk.repeat_interleave(data.canvas_samples)
    offsets = textures.draw(len(chunk), data.canvas_size, draws)
    cropped = textures.crop(images[chunk], offsets, data.canvas_size)
    return dsa.augment(cropped, data.families, draws), labels[chunk.to(labels.device)]


def step(network, optimizer, x, y):
    """One step of the network; gives the loss before it."""
    loss = F.cross_entropy(network(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


if __name__ == "__main__":
    from mtt import exporting, params

    params.run(exporting.main)
