"""The state of a distillation: all that its next iteration depends on, and its history; kept in checkpoints.

The numbers drawn in an iteration are made from its number, so no generator stands here.
"""

from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field

from mtt import foreign, tensorfile
from mtt.workers import made_with

TENSORS = ("x", "y", "alpha", "velocity_x", "velocity_alpha", "best_x", "best_alpha")
LARGEST = 100_000_000  # bytes of a header, safetensors' own bound: the history of a million iterations


@dataclass
class State:
    """The synthetic set as it stands."""

    x: torch.Tensor  # images (n, C, H, W) in the normalised space
    y: torch.Tensor  # labels (n,)
    alpha: torch.Tensor  # learned step size ()
    velocity_x: torch.Tensor  # the momenta of both
    velocity_alpha: torch.Tensor
    best_x: torch.Tensor  # images and step size of the best score so far
    best_alpha: torch.Tensor
    iteration: int = 0  # finished ones
    curve: list = field(default_factory=list)  # a row for each iteration
    scores: list = field(default_factory=list)  # [iteration, score] for each scoring
    how: dict = field(default_factory=dict)  # how the stage computes: compiled or not, in how many ranks

    @classmethod
    def begin(cls, x, y, alpha, how=None):
        """The state before the first iteration."""
        alpha = torch.tensor(alpha, device=x.device)
        return cls(x, y, alpha, torch.zeros_like(x), torch.zeros_like(alpha), x.clone(), alpha.clone(), how=how or {})

    def step(self, dx, dalpha, lr_img, lr_lr, momentum, floor):
        """SGD with momentum on images and step size; the step size stays at or above `floor`. Gives whether it was clamped.

        Raises ArithmeticError, and leaves the state as it was, where a number is no longer finite.
        """
        velocity_x, velocity_alpha = momentum * self.velocity_x + dx, momentum * self.velocity_alpha + dalpha
        x, alpha = self.x - lr_img * velocity_x, self.alpha - lr_lr * velocity_alpha
        if not all(number.isfinite().all() for number in (x, alpha, velocity_x, velocity_alpha)):
            raise ArithmeticError(f"images or step size ({float(alpha)}) would not be finite")
        self.velocity_x, self.velocity_alpha, self.x, self.alpha = velocity_x, velocity_alpha, x, alpha
        clamped = bool(self.alpha < floor)
        self.alpha = self.alpha.clamp(min=floor)
        self.iteration += 1
        return clamped

    def score(self, score):
        """Note a score of the images as they stand, and keep them where it is the best so far."""
        if score > max((found for _, found in self.scores), default=-1):
            self.best_x, self.best_alpha = self.x.clone(), self.alpha.clone()
        self.scores.append([self.iteration, score])

    def save(self, path):
        """Write a checkpoint to `path`."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        numbers = {"iteration": self.iteration, "curve": self.curve, "scores": self.scores}
        tensorfile.save(path, tensors, {"kind": "checkpoint", "made_with": made_with(self.how), **numbers})


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
