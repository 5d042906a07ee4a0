"""A set's pictures in folders that other programs read: PNG with labels.csv, or the layout of Hugging Face's `datasets`."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import torch
import yaml

from mtt import imageset, vision
from mtt.files import write

USAGE = "export SET FOLDER [--huggingface]"
EXACT = "set.safetensors"  # the set itself, beside its pictures


def main(*words):
    """`python -m mtt.distilled export SET FOLDER [--huggingface]`: write the set file's pictures into a new folder."""
    flags = {word for word in words if word.startswith("--")}
    command, *paths = [word for word in words if word not in flags] or [""]
    if command != "export" or len(paths) != 2 or flags - {"--huggingface"}:
        raise ValueError(f"the command line: found {' '.join(words) or 'nothing'}; wanted {USAGE}")
    found, folder = imageset.load(paths[0]), Path(paths[1])
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise ValueError(f"{folder}: found {'files there' if folder.is_dir() else 'a file'}; wanted a new folder, or an empty one")
    (huggingface if flags else folders)(found, folder)
    shutil.copyfile(paths[0], folder / EXACT)
    print(f"{folder}: {len(found.images)} pictures of {len(found.classes)} classes; {loss(found)}")


def loss(found):
    """What a picture lacks of a learned image, in words."""
    if found.images.dtype == torch.uint8:
        return "all pixels are exact"
    unclipped = found.plain([0.0] * found.images.shape[1], [1.0] * found.images.shape[1]).images
    share = ((unclipped < 0) | (unclipped > 1)).float().mean()
    return f"{share:.0%} of the pixels are clipped to 0..255 and all are rounded; the numbers that were learned are in {EXACT}"


def folders(found, folder):
    """A folder for each class, and labels.csv: file, class index and name, and of soft labels the probability of each class."""
    names, rows = [f"{label:03d}-{slug(name)}" for label, name in enumerate(found.classes)], []
    for number, (label, row) in enumerate(labelled(found)):
        rows.append({"file": f"{names[label]}/{number:05d}.png", "label": label, "class": found.classes[label]})
        rows[-1] |= {f"p{k}": share for k, share in enumerate(row)}
    draw(found, [folder / row["file"] for row in rows])
    write(folder / "labels.csv", pd.DataFrame(rows).to_csv(index=False))


def huggingface(found, folder):
    """What `datasets.load_dataset(folder)` opens: train/ with metadata.jsonl, and a card that names the classes."""
    files = [f"{number:05d}.png" for number in range(len(found.images))]
    draw(found, [folder / "train" / file for file in files])
    lines = [
        {"file_name": file, "label": label} | ({"probabilities": row} if row else {})
        for file, (label, row) in zip(files, labelled(found), strict=True)
    ]
    write(folder / "train" / "metadata.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write(folder / "README.md", card(found))


def card(found):
    """The dataset card: the features (of a configuration: those of `dataset_info` are lost) for the library, and words for people."""
    names = {str(label): name for label, name in enumerate(found.classes)}
    features = [{"name": "image", "dtype": "image"}, {"name": "label", "dtype": {"class_label": {"names": names}}}]
    if found.labels.ndim > 1:
        features.append({"name": "probabilities", "sequence": "float32"})
    head = {"configs": [{"config_name": "default", "features": features}], "task_categories": ["image-classification"]}
    space = "whitened by ZCA; the map is in the file" if found.whitening else f"normalised by mean {found.mean} and std {found.std}"
    return f"""---
{yaml.safe_dump(head, sort_keys=False)}---

# {len(found.images)} images that stand for {found.name}

{"Learned by matching training trajectories. " if "distill" in found.provenance else ""}In these pictures {loss(found)}.
A network is given them {space}.
Learned step size: {found.learning_rate or "none"}. Trained on with the augmentation and protocol that {EXACT} names:

```json
{json.dumps(found.provenance, indent=1)}
```
"""


def labelled(found):
    """(class index, []) of each image, or of soft labels (the most probable, their probabilities)."""
    if found.labels.ndim == 1:
        return [(label, []) for label in found.labels.tolist()]
    return list(zip(found.labels.argmax(1).tolist(), found.labels.tolist(), strict=True))


def draw(found, paths):
    """Write each image of the set, in pixels, to its path."""
    for path, image in zip(paths, (found.pixels() * 255).round().to(torch.uint8), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        vision.torchvision.transforms.functional.to_pil_image(image).save(path)


def slug(name):
    """A class name as part of a file's: T-shirt/top is T-shirt-top."""
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "class"
