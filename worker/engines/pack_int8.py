"""Weights of int8 layers, plain in a file -> packed as this processor reads them, once.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final

import torch

from worker.model.int8.products import packed

_PREPACKS: Final = ("qconv_prepack", "qlinear_prepack")
# Of what oneDNN alone can read, in a graph that cannot be saved any more.
_PACKED: Final = "prim::ConstantMKLDNNTensor"


def pack_graph(module: Any) -> None:
    """Pack what a frozen TorchScript module holds, in place, before its first run."""
    graph = module.graph
    for node in [one for name in _PREPACKS for one in graph.findAllNodes(f"onednn::{name}")]:
        constant = graph.create(_PACKED)
        constant.t_("value", packed(*(node.inputsAt(place).toIValue() for place in (0, 1))))
        constant.insertBefore(node)
        node.output().replaceAllUsesWith(constant.output())
        node.destroy()


def pack_program(module: Any) -> Any:
    """Pack what a loaded exported program holds, in place; return it."""
    graph = module.graph
    operations = [getattr(torch.ops.onednn, name).default for name in _PREPACKS]
    for node in [one for one in graph.nodes if one.target in operations]:
        weights = (one and attrgetter(one.target)(module) for one in node.args[:2])
        name = f"packed_{node.name}"
        module.register_buffer(name, packed(*weights), persistent=False)
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(name))
        graph.erase_node(node)
    module.recompile()
    return module
