"""Which functions of torch are of which kind to relevance; knows what they are called, not what is done with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F


def functions(*names: str) -> frozenset[Callable[..., Any]]:
    """Return the functions with these names, whether of torch, of tensors or of torch.nn.functional."""
    homes = (torch, torch.Tensor, F, torch._C._nn, torch.special)
    return frozenset(getattr(home, name) for name in names for home in homes if hasattr(home, name))


LINEAR = functions("linear")
CONVOLUTIONS = functions("conv1d", "conv2d", "conv3d")
TRANSPOSED = functions("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
BATCH_NORM = functions("batch_norm")
LAYER_NORM = functions("layer_norm")
GROUP_NORM = functions("group_norm")

ACTIVATIONS = functions(
    *("relu", "relu_", "relu6", "threshold", "threshold_", "leaky_relu", "leaky_relu_", "rrelu", "prelu"),
    *("elu", "elu_", "selu", "selu_", "celu", "celu_", "gelu", "silu", "mish", "softplus", "softsign", "tanh", "tanh_"),
    *("hardswish", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_", "clamp_max", "clamp_max_"),
    *("clip", "clip_", "hardshrink", "softshrink", "neg", "neg_", "negative", "abs", "log_sigmoid"),
) | {torch.Tensor.__neg__}
"""Functions of single elements: each hands all its relevance to its element."""

GATES = functions("sigmoid", "sigmoid_", "hardsigmoid", "expit")
"""Activations that open and close something: a factor that comes from one of them gets no relevance."""

SUMS = functions("add", "add_", "sub", "sub_", "subtract", "sum", "mean", "rsub", "cumsum") | {
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.Tensor.__iadd__,
    torch.Tensor.__sub__,
    torch.Tensor.__rsub__,
    torch.Tensor.__isub__,
}
POOLING = functions(
    *("avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("interpolate", "upsample", "upsample_bilinear2d", "grid_sample"),
)
PROPORTIONAL = SUMS | POOLING
"""Linear functions without weights: relevance goes to terms in proportion."""

PRODUCTS = functions("mul", "mul_", "multiply", "multiply_") | {
    torch.Tensor.__mul__,
    torch.Tensor.__rmul__,
    torch.Tensor.__imul__,
}
QUOTIENTS = functions("div", "div_", "divide", "true_divide") | {torch.Tensor.__truediv__, torch.Tensor.__itruediv__}
AFFINE = (
    PRODUCTS
    | QUOTIENTS
    | functions("add", "add_", "sub", "sub_", "subtract")
    | {torch.Tensor.__add__, torch.Tensor.__radd__, torch.Tensor.__iadd__}
    | {torch.Tensor.__sub__, torch.Tensor.__rsub__, torch.Tensor.__isub__}
)
"""Functions that shift and scale, as models do with their input."""

MATRIX_PRODUCTS = functions("matmul", "bmm", "mm", "einsum") | {torch.Tensor.__matmul__, torch.Tensor.__rmatmul__}
SOFTMAX = functions("softmax")
ATTENTION = functions("scaled_dot_product_attention")

ROUTING = functions(
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze"),
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint", "expand", "expand_as"),
    *("broadcast_to", "repeat", "repeat_interleave", "tile", "cat", "concat", "concatenate", "stack", "hstack"),
    *("vstack", "dstack", "split", "split_with_sizes", "tensor_split", "chunk", "unbind", "narrow", "select"),
    *("index_select", "gather", "take_along_dim", "roll", "flip", "rot90", "pad", "constant_pad_nd", "diagonal"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "fold", "where", "masked_fill", "clone"),
    *("contiguous", "to", "type", "type_as", "float", "double", "half", "bfloat16", "alias", "positive"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"),
    *("adaptive_max_pool2d_with_indices", "amax", "max", "maximum", "topk", "sort", "dropout", "dropout2d"),
    *("dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "meshgrid", "atleast_2d", "tril"),
    *("triu", "copy_", "masked_fill_"),
) | {
    torch.Tensor.__getitem__,
    torch.Tensor.__setitem__,
    *(getattr(torch.Tensor, name).__get__ for name in ("T", "mT", "real")),
}
"""Functions that only take elements from one place to another: there relevance goes where gradients go.

Maximum pooling is one of them: the winner takes all.
"""

HANDING_ON = functions("clone", "contiguous", "to", "float", "cat") | {torch.Tensor.__getitem__}
"""Those of them that may stand between a layer and its normalisation, because the server put them there."""

WRITTEN_IN_PYTHON = functions("multi_head_attention_forward")
"""Functions that are looked into."""

OUT_OF_PLACE: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.Tensor.__iadd__: torch.add,
    torch.Tensor.__isub__: torch.sub,
    torch.Tensor.__imul__: torch.mul,
    torch.Tensor.__itruediv__: torch.div,
    torch.Tensor.add_: torch.add,
    torch.Tensor.sub_: torch.sub,
    torch.Tensor.mul_: torch.mul,
    torch.Tensor.multiply_: torch.mul,
    torch.Tensor.div_: torch.div,
}
"""What functions that write over their first argument compute."""
