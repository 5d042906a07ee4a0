"""torchvision, importable beside a CPU-only torch.

PyPI's torchvision is built for CUDA: beside a CPU-only torch its import fails, as two operators of its compiled part
are unknown. Only then, and never before a plain import was tried (on a healthy install a second definition aborts the
process), their schemas are declared here; nobody calls them.
"""

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    if "operator torchvision::nms does not exist" not in str(error):
        raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "FRAGMENT")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
