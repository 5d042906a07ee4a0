"""The state of a distillation: all that its next iteration depends on, and its history; kept in checkpoints.

The numbers drawn in an iteration are made from its number, so no generator stands here.
"""

import time
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field

from mtt import foreign, store, tensorfile
from mtt.workers import made_with

LEARNED = ("x", "y", "alpha")
TENSORS = (*LEARNED, *(f"{kind}_{name}" for kind in ("velocity", "best") for name in LEARNED), "average")
LARGEST = 100_000_000  # bytes of a header, safetensors' own bound: the history of a million iterations


@dataclass
class State:
    """The synthetic set as it stands."""

    x: torch.Tensor  # images (n, C, H, W) in the normalised space
    y: torch.Tensor  # labels (n,), or the logits (n, K) of learned ones
    alpha: torch.Tensor  # learned step size ()
    velocity_x: torch.Tensor  # the momenta of all three
    velocity_y: torch.Tensor
    velocity_alpha: torch.Tensor
    best_x: torch.Tensor  # images, labels and step size of the best score so far
    best_y: torch.Tensor
    best_alpha: torch.Tensor
    average: torch.Tensor  # of the images on their way; what is scored, and kept
    iteration: int = 0  # finished ones
    curve: list = field(default_factory=list)  # a row for each segment of each iteration
    scores: list = field(default_factory=list)  # [iteration, score] for each scoring
    how: dict = field(default_factory=dict)  # how the stage computes: compiled or not, in how many ranks

    @classmethod
    def begin(cls, x, y, alpha, how=None):
        """The state before the first iteration."""
        found = dict(zip(LEARNED, (x, y, torch.tensor(alpha, device=x.device)), strict=True))
        momenta = {f"velocity_{name}": torch.zeros_like(value) for name, value in found.items()}
        best = {f"best_{name}": value.clone() for name, value in found.items()}
        return cls(**found, **momenta, **best, average=x.clone(), how=how or {})

    def step(self, slopes, rates, momenta, floor, decay=0.0):
        """SGD with momentum on those of x, y, alpha that the mapping `slopes` has; alpha stays at or above `floor`.

        Gives whether alpha was clamped. The average of the images follows.

        Raises ArithmeticError, and leaves the state as it was, where a number is no longer finite.
        """
        changed = {}
        for name, slope in slopes.items():
            changed[f"velocity_{name}"] = momenta[name] * getattr(self, f"velocity_{name}") + slope
            changed[name] = getattr(self, name) - rates[name] * changed[f"velocity_{name}"]
        if not all(number.isfinite().all() for number in changed.values()):
            raise ArithmeticError(f"images, labels or step size ({float(changed.get('alpha', self.alpha))}) would not be finite")
        vars(self).update(changed)
        clamped = bool(self.alpha < floor)
        self.alpha = self.alpha.clamp(min=floor)
        self.skip(decay)
        return clamped

    def skip(self, decay=0.0):
        """An iteration that changes nothing but its number, and the average of the images, in which they count once more.

        E <- d E + (1 - d) x with d = `decay` (FTD, Du et al. 2023), but corrected for its start, as if E had been 0 before and were
        divided by 1 - d^t; uncorrected, the first images weigh 61 % after 5,000 iterations of d = 0.9999. With d = 0 it is x.
        """
        self.iteration += 1
        self.average = self.average.lerp(self.x, (1 - decay) / (1 - decay**self.iteration))

    def note(self, segments, losses, clamped, skipped):
        """Write an iteration into the curve: a row for each of its `segments` (expert, start epoch, ...), whose `losses` (s,) these are."""
        for (expert, start, *_), loss in zip(segments, losses.tolist(), strict=True):
            self.curve.append([self.iteration, expert, start, loss, float(self.alpha), int(clamped), int(skipped)])

    def score(self, score):
        """Note a score of the images (their average) as they stand, and keep them where it is the best so far."""
        if score > max((found for _, found in self.scores), default=-1):
            self.best_x, self.best_y, self.best_alpha = self.average.clone(), self.y.clone(), self.alpha.clone()
        self.scores.append([self.iteration, score])

    def save(self, path):
        """Write a checkpoint to `path`."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        numbers = {"iteration": self.iteration, "curve": self.curve, "scores": self.scores}
        tensorfile.save(path, tensors, {"kind": "checkpoint", "made_with": made_with(self.how), **numbers})


class Checkpoints:
    """What a run of so many `iterations` keeps of its State in `folder` (None: nothing): a file that rolls, and one of the end.

    The former is named by where the run goes, so that a shorter run of the same settings leaves a longer one's alone.
    """

    def __init__(self, folder, iterations):
        self.folder, self.iterations, self.saved = folder, iterations, time.monotonic()

    def due(self, state):
        """Keep the state every $MTT_SAVE_EVERY seconds."""
        if self.folder and store.due(self.saved):
            self.now(state)
            self.saved = time.monotonic()

    def now(self, state):
        """Keep the state, to go on from."""
        if self.folder:
            state.save(self.folder / f"towards-{self.iterations:06d}.safetensors")

    def end(self, state):
        """Keep the last state, in place of those on the way to it."""
        if self.folder:
            state.save(self.folder / f"{self.iterations:06d}.safetensors")
            (self.folder / f"towards-{self.iterations:06d}.safetensors").unlink(missing_ok=True)


class Checkpoint(foreign.Schema):
    """The header of a checkpoint."""

    iteration: Annotated[int, Field(ge=0)]
    curve: foreign.several(foreign.several(float))
    scores: foreign.several(foreign.several(float, min_length=2, max_length=2))
    made_with: dict


def resume(folder, iterations, device, how=None):
    """The State of the newest checkpoint in `folder` not past `iterations`, or None; and a warning, empty where nothing is to be said.

    Raises ValueError, naming the file, for a checkpoint that is none.
    """
    found = [(_header(path)["iteration"], path) for path in folder.glob("*.safetensors")]
    found = [(iteration, path) for iteration, path in found if iteration <= iterations]
    if not found:
        return None, ""
    path = max(found)[1]
    tensors, header = tensorfile.load(path, "checkpoint", LARGEST)
    if tensors.keys() != {*TENSORS}:
        raise ValueError(f"{path}: found tensors {sorted(tensors)}; wanted {sorted(TENSORS)}")
    numbers = {name: header[name] for name in ("iteration", "curve", "scores")}
    state = State(**{name: tensor.to(device) for name, tensor in tensors.items()}, **numbers, how=how or {})
    if header["made_with"] == made_with(state.how):
        return state, ""
    return state, f"; warning: it was made with {header['made_with']}, now {made_with(state.how)}: the result may differ in its last bits"


def _header(path):
    header, _ = tensorfile.read_header(path, "checkpoint", LARGEST)
    foreign.held(path, Checkpoint, header)
    return header
