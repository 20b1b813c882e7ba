"""A transformers tower -> the same function in fewer, larger operations, for inference alone.

Exact up to rounding, and measured as such at export. Shapes: B images, L patches, D width, H heads,
E = D / H, C channels, P the side of a patch.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# quick_gelu(x) = x * sigmoid(1.702 x) = silu(1.702 x) / 1.702 (Hendrycks and Gimpel, "Gaussian
# error linear units", 2016, give the constant).
QUICK_GELU: Final = 1.702
_PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj")
_OUTPUTS: Final = ("out_proj", "o_proj")
# Model types whose image towers hand on the state of the first token alone.
_FIRST_TOKEN: Final = ("clip_vision_model", "chinese_clip_vision_model", "vit")
# Attention, the norm before it, the norm after it: names by which a layer is recognised.
_LAYERS: Final = (
    ("self_attn", "layer_norm1", "layer_norm2"),
    ("attention", "layernorm_before", "layernorm_after"),
)


class FusedAttention(nn.Module):
    """Self-attention without a mask, its three input projections as one matrix product.

    The scale of the scores is in the queries' weights. Asked for `mixing`, a type of few bits, it
    mixes in that: two plain matrix products beat the fused kernel on processors that multiply that
    type, and lose to it in float32.
    """

    def __init__(self, attention: Any, output: nn.Linear) -> None:
        super().__init__()
        inputs = [getattr(attention, name) for name in _PROJECTIONS]
        self.head_dim = int(attention.head_dim)
        self.mixing: torch.dtype | None = None
        self.qkv = _stacked(inputs)
        scale = float(getattr(attention, "scale", self.head_dim**-0.5))
        _scale(self.qkv, scale, output.in_features)
        self.out = output

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Return the mixed states, and None for the weights, which are not used."""
        # The name is that by which transformers calls it.
        states_BLD = hidden_states
        B, L = states_BLD.shape[:2]
        # In few bits before it is moved: moving costs by the byte.
        qkv_BL3D = self.qkv(states_BLD).to(self.mixing or states_BLD.dtype)
        qkv_3BHLE = qkv_BL3D.view(B, L, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed_BLHE = self._mix(qkv_3BHLE).transpose(1, 2)
        # Another type and the order of the axes in one pass over memory.
        mixed_BLHE = mixed_BLHE.to(states_BLD.dtype, memory_format=torch.contiguous_format)
        return self.out(mixed_BLHE.reshape(B, L, -1)), None

    def _mix(self, qkv_3BHLE: Tensor) -> Tensor:
        if self.mixing is None:
            return F.scaled_dot_product_attention(
                qkv_3BHLE[0], qkv_3BHLE[1], qkv_3BHLE[2], scale=1.0
            )
        _, B, H, L, E = qkv_3BHLE.shape
        queries, keys, values = qkv_3BHLE.contiguous().view(3, B * H, L, E).unbind(0)
        # It sums in float32 by itself; going there and back costs as much as the softmax.
        weights = torch.bmm(queries, keys.transpose(1, 2)).softmax(dim=-1)
        return torch.bmm(weights, values).view(B, H, L, E)


class FirstTokenLayer(nn.Module):
    """The last layer of a tower that hands on its first token's state: nothing else is computed.

    Of twelve layers' work this saves nearly one. Keys and values are still those of all tokens.
    """

    def __init__(self, layer: Any, names: tuple[str, str, str]) -> None:
        super().__init__()
        attention, norm_before, norm_after = (getattr(layer, name) for name in names)
        D = attention.qkv.in_features
        self.head_dim = attention.head_dim
        self.queries = _rows(attention.qkv, 0, D)
        self.keys_values = _rows(attention.qkv, D, 3 * D)
        self.out = attention.out
        self.norm_before, self.norm_after, self.mlp = norm_before, norm_after, layer.mlp

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the first token's state, B x 1 x D."""
        B, L = hidden_states.shape[:2]
        states_BLD, first_B1D = self.norm_before(hidden_states), hidden_states[:, :1]
        queries = self.queries(states_BLD[:, :1]).view(B, 1, -1, self.head_dim).transpose(1, 2)
        keys_values = self.keys_values(states_BLD).view(B, L, 2, -1, self.head_dim)
        keys, values = keys_values.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
        first_B1D = first_B1D + self.out(mixed.transpose(1, 2).reshape(B, 1, -1))
        out_B1D: Tensor = first_B1D + self.mlp(self.norm_after(first_B1D))
        return out_B1D


class PatchLinear(nn.Module):
    """Images BCHW -> patches B x D x H/P x W/P, as a linear layer, which can be quantised."""

    weight: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.side = int(convolution.kernel_size[0])
        bias = convolution.bias
        self.linear = nn.Linear(
            convolution.weight[0].numel(), convolution.out_channels, bias=bias is not None
        )
        with torch.no_grad():
            self.linear.weight.copy_(convolution.weight.flatten(1))
            if bias is not None:
                self.linear.bias.copy_(bias)
        # transformers asks a patch embedding for the type of its weight.
        self.register_buffer("weight", torch.zeros(0), persistent=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Cut patches and project them."""
        B, C, height, width = images_BCHW.shape
        P, rows, columns = self.side, height // self.side, width // self.side
        patches = images_BCHW.view(B, C, rows, P, columns, P).permute(0, 2, 4, 1, 3, 5)
        projected_BLD = self.linear(patches.reshape(B, rows * columns, C * P * P))
        out: Tensor = projected_BLD.transpose(1, 2).reshape(B, -1, rows, columns)
        return out


def for_inference(tower: nn.Module) -> nn.Module:
    """Rewrite an image tower in place and return it: what is not recognised stays as it is."""
    tower.eval().requires_grad_(requires_grad=False)
    for parent in list(tower.modules()):
        _fold_quick_gelu(parent)
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(parent, name, nn.Identity())
            elif (output := _output_of(child)) is not None:
                setattr(parent, name, FusedAttention(child, output))
    for parent in list(tower.modules()):
        _shorten_last_layer(parent)
    return tower.requires_grad_(requires_grad=False)


def cut_patches_linearly(tower: nn.Module) -> None:
    """Replace the convolution that cuts patches by a linear layer, in place."""
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and _cuts_patches(child):
                setattr(parent, name, PatchLinear(child).requires_grad_(requires_grad=False))


def mix_in(tower: nn.Module, dtype: torch.dtype) -> None:
    """Let attention mix in a type of fewer bits, in place."""
    for module in tower.modules():
        if isinstance(module, FusedAttention):
            module.mixing = dtype


def _cuts_patches(layer: nn.Conv2d) -> bool:
    square = layer.kernel_size[0] == layer.kernel_size[1]
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding in {(0, 0), "valid"}
    return square and plain and layer.stride == layer.kernel_size


def _output_of(module: nn.Module) -> nn.Linear | None:
    """Return the output projection of a plain self-attention; None for everything else."""
    if not all(isinstance(getattr(module, name, None), nn.Linear) for name in _PROJECTIONS):
        return None
    if getattr(module, "is_causal", False) or not hasattr(module, "head_dim"):
        return None
    found = [getattr(module, name, None) for name in _OUTPUTS]
    return next((one for one in found if isinstance(one, nn.Linear)), None)


def _shorten_last_layer(module: nn.Module) -> None:
    """Let the last layer of a transformer compute its first token alone, if no more is read."""
    config = getattr(module, "config", None)
    if getattr(config, "model_type", "") not in _FIRST_TOKEN:
        return
    layers: Any = getattr(getattr(module, "encoder", module), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return
    for names in _LAYERS:
        if isinstance(getattr(layers[-1], names[0], None), FusedAttention):
            layers[-1] = FirstTokenLayer(layers[-1], names)
            return


def _stacked(layers: list[nn.Linear]) -> nn.Linear:
    """Return one linear layer whose output is that of all layers, one after another."""
    weight = torch.cat([layer.weight for layer in layers])
    biases: list[Tensor | None] = [layer.bias for layer in layers]
    if all(bias is None for bias in biases):
        return _linear(weight, None)
    zeros = weight.new_zeros(layers[0].out_features)
    return _linear(weight, torch.cat([zeros if bias is None else bias for bias in biases]))


def _scale(layer: nn.Linear, factor: float, outputs: int) -> None:
    """Multiply the first `outputs` outputs of a layer, in place: exact for powers of two."""
    bias: Tensor | None = layer.bias
    with torch.no_grad():
        layer.weight[:outputs].mul_(factor)
        if bias is not None:
            bias[:outputs].mul_(factor)


def _rows(layer: nn.Linear, start: int, stop: int) -> nn.Linear:
    """Return a linear layer that gives some of another's outputs."""
    bias: Tensor | None = layer.bias
    return _linear(layer.weight[start:stop], None if bias is None else bias[start:stop])


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer = layer.to(weight.device, weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer.requires_grad_(requires_grad=False)


def _fold_quick_gelu(module: Any) -> None:
    """Turn fc1, quick_gelu, fc2 into fc1, SiLU, fc2: the constant goes into the weights."""
    activation = getattr(module, "activation_fn", None)
    first, second = getattr(module, "fc1", None), getattr(module, "fc2", None)
    if type(activation).__name__ != "QuickGELUActivation":
        return
    if not (isinstance(first, nn.Linear) and isinstance(second, nn.Linear)):
        return
    bias: Tensor | None = first.bias
    with torch.no_grad():
        first.weight.mul_(QUICK_GELU)
        if bias is not None:
            bias.mul_(QUICK_GELU)
        second.weight.div_(QUICK_GELU)
    # In place: nothing else reads the output of the first layer.
    module.activation_fn = nn.SiLU(inplace=True)
