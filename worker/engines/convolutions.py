"""TorchScript of many convolutions -> the same, in oneDNN's own layout from one to the next.

With one thread torch leaves convolutions of 1 x 1 to a path of its own, which copies every image.
Once weights and all between them are oneDNN's, ResNet-50, RegNet and EfficientNet-Lite take about
0.6 times as long. Refused where layer norms stand between: each would change the layout twice, and
ConvNeXt takes 1.1 times as long.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from worker.engines.runners import MANY_CONVOLUTIONS

_CONVOLUTION: Final = "aten::_convolution"
# As they are called once they are oneDNN's.
_LAID_OUT: Final = "prim::mkldnn_convolution"
_LAYER_NORM: Final = "aten::layer_norm"


def has_many(module: torch.jit.ScriptModule) -> bool:
    """Whether it is a network of many convolutions, each too short for threads to share."""
    return _are_many(module.inlined_graph)


def laid_out(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Return a frozen module for the CPU, in the other layout if that helps one of its kind.

    Then it cannot be saved any more.
    """
    # Its nodes live as long as it does.
    graph: Any = module.inlined_graph
    if not _are_many(graph) or graph.findAllNodes(_LAYER_NORM) or not _are_float32(graph):
        return module
    return torch.jit.optimize_for_inference(module)


def _are_many(graph: Any) -> bool:
    count = sum(len(graph.findAllNodes(kind)) for kind in (_CONVOLUTION, _LAID_OUT))
    return count >= MANY_CONVOLUTIONS


def _are_float32(graph: Any) -> bool:
    """Whether all weights of convolutions are constants of that type: others are oneDNN's as is."""
    weights = [node.inputsAt(1).toIValue() for node in graph.findAllNodes(_CONVOLUTION)]
    return {getattr(weight, "dtype", None) for weight in weights} == {torch.float32}
