"""torchvision, importable beside a CPU-only torch, and imported where it is first used.

`vision.torchvision.utils.make_grid(...)`: its import takes as long as torch's own, and most processes never use it.

PyPI's torchvision is built for CUDA: beside a CPU-only torch its import fails, as two operators of its compiled part
are unknown. Only then, and never before a plain import was tried (on a healthy install a second definition aborts the
process), their schemas are declared here; nobody calls them.
"""

import sys

import torch


def __getattr__(name):
    """`torchvision` (a module's own attributes are looked up first, so this is called once)."""
    if name != "torchvision":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        for part in [part for part in sys.modules if part.split(".")[0] == "torchvision"]:
            del sys.modules[part]
        global _library  # what it declares ends with it
        _library = torch.library.Library("torchvision", "FRAGMENT")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    globals()[name] = torchvision
    return torchvision
