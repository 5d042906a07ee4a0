"""What a distillation leaves behind: sets, pictures, and its history in numbers."""

import json
import math
from typing import NamedTuple

from mtt import history, imageset, pictures, store
from mtt.files import write
from mtt.imageset import ImageSet

SHOWN = 100  # images of a picture on their way, at most, or one a class


class Outs(NamedTuple):
    """Where the run leaves what: paths."""

    best: str  # the set that is best on validation
    last: str  # the last one
    history: str  # a folder of pictures, NUMBER.png of the iteration: the first images of each class on their way
    animation: str  # these, moving
    curves: str
    scores: str
    metrics: str
    picture: str  # of the best, in pixels
    seen: str  # and as a network takes it


def described(index, settings, images):
    """What an ImageSet of learned images is but for them, their labels and the step size: a mapping.

    `index` is the buffer's, `settings` are {key: value} of `distill:`; the whitening is that of the set file `images`.
    """
    about = {key: index[key] for key in ("classes", "mean", "std")} | {"name": index["set"]}
    about["provenance"] = {"network": index["network"], "augmentation": index["augmentation"], "distill": settings}
    about["whitening"] = imageset.load(images).whitening if "whitening" in index else None
    return about | {key: settings[key] for key in ("canvas_size", "canvas_samples")}


def shoot(about, folder, state):
    """Take a picture of the first images of each class as they stand, into `folder`."""
    found = ImageSet(state.average.cpu(), state.y.cpu(), **about)
    pictures.save_set(history.frame(folder, state.iteration), found, max(1, SHOWN // len(about["classes"])))


def finish(state, about, labels, folder, outs):
    """Write what the run leaves behind: `about` is from `described`, `folder` has the pictures that `shoot` took."""
    ends = [(state.average, state.y, state.alpha), *([(state.best_x, state.best_y, state.best_alpha)] if state.scores else [])]
    final, *best = [ImageSet(x.cpu(), labels.kept(y, x).cpu(), learning_rate=float(alpha), **about) for x, y, alpha in ends]
    chosen = best[0] if best else final
    chosen.save(outs.best)
    final.save(outs.last)
    if all(skipped for *_, skipped in state.curve):
        print("warning: the loss was above distill.start_epochs.threshold in every iteration: nothing was learned")
    if clamped := {iteration for iteration, *_, clamped, _ in state.curve if clamped}:
        often = f"in {len(clamped)} of {state.iteration} iterations"
        print(f"warning: the step size was clamped at a hundredth of distill.lr_init {often}; lower distill.lr_lr (docs/choosing.md)")
    pictures.save_set(outs.picture, chosen)
    pictures.save_set(outs.seen, chosen, whitened=True)
    frames, shown = history.frames(folder, state.iteration), store.emptied(outs.history)
    for frame in frames:
        store.link(frame, shown / frame.name)
    history.animate(outs.animation, frames)
    write_curves(state, chosen.learning_rate, outs)


def write_curves(state, step_size, outs):
    """Write the history in numbers."""
    import pandas as pd  # here: every stage loads this module

    curve = pd.DataFrame(state.curve, columns=["iteration", "expert", "start_epoch", "loss", "step_size", "clamped", "skipped"])
    scored = pd.DataFrame(state.scores, columns=["iteration", "validation_accuracy"])
    write(outs.curves, curve.to_csv(index=False, float_format="%.6g"))
    write(outs.scores, scored.to_csv(index=False, float_format="%.6g"))
    recent, each = curve.tail(math.ceil(len(curve) / 10)), curve.drop_duplicates("iteration")  # which may have several segments
    numbers = {
        "loss": recent.loss.mean(),
        "step_size": step_size,
        "clamped": int(each.clamped.sum()),
        "skipped": int(each.skipped.sum()),
        "iterations": state.iteration,
    }
    if state.scores:
        best, accuracy = max(state.scores, key=lambda row: row[1])
        numbers |= {"validation_accuracy": accuracy, "best_iteration": best}
    write(outs.metrics, json.dumps(numbers, indent=1) + "\n")
