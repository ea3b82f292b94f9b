r"""How the branches of a layer join the residual stream: ReZero, and what it is compared with.

A layer has the branches self-attention, cross-attention (in a decoder with an encoder) and feed-forward. Its
[`Residual`] says what a branch F reads, by what its output is weighted, and how the two are joined:

    x <- join(x, dropout(weight * F(enter(x))))

The weight is applied to the output projection of the branch, weight and bias, rather than to its output: the same
function with the same gradient, and no activation that would have to be saved for it.

N is the number of layers, d the width. Matrices start Xavier uniform with a gain, biases at 0, and all kinds start
from the same embeddings, but where a class says otherwise: comparisons are of residuals. Every class names its source,
and says so where its definition is from memory or leaves something open.
"""

import math
from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init

from seqzoo.modeling.rezero_transformer.configuration_rezero_transformer import ReZeroTransformerConfig


class Gains(NamedTuple):
    """Gains of the Xavier uniform matrices of a layer.

    Those of queries, keys and values are by default what `nn.MultiheadAttention` and the ReZero package start from,
    where the three are one matrix of [3 d, d]. Post-LN does not learn at 12 layers where they are 1.
    """

    query_key: float = 0.5**0.5
    value: float = 0.5**0.5
    attention_output: float = 1.0
    up: float = 1.0
    down: float = 1.0


class Residual(nn.Module):
    """`identity`, and the base of the others: x + F(x), the control of the ReZero paper (alpha = 1, no norm).

    Args:
        config (`ReZeroTransformerConfig`): Of the model.
        part (`str`): `"alone"`, or the `"encoder"` or `"decoder"` of an encoder-decoder.
    """

    def __init__(self, config: ReZeroTransformerConfig, part: str):
        super().__init__()
        self.branches = count_branches(part)

    def reset_parameters(self) -> None:
        """Gives the residual weights their first values; modules inside do so themselves."""

    @staticmethod
    def gains(config: ReZeroTransformerConfig, part: str) -> Gains:
        return Gains()

    @staticmethod
    def embedding_gain(config: ReZeroTransformerConfig) -> float:
        return 1.0

    @staticmethod
    def final_norm(config: ReZeroTransformerConfig) -> nn.Module | None:
        """What normalises the stream behind the last layer."""
        return None

    def enter(self, x: torch.Tensor, branch: int) -> torch.Tensor:
        return x

    def weight(self, branch: int) -> torch.Tensor | None:
        """A number, or one a channel; `None` is 1."""
        return None

    def join(self, x: torch.Tensor, y: torch.Tensor, branch: int) -> torch.Tensor:
        return x + y


class ReZero(Residual):
    """`rezero`: x + alpha F(x), alpha = 0 at the start (Bachlechner et al. 2021, arXiv 2003.04887).

    One alpha a layer, shared by its branches, or one a branch (`residual_weight_per_branch`, as SkipInit: De and
    Smith 2020, arXiv 2002.10444).
    """

    def __init__(self, config: ReZeroTransformerConfig, part: str):
        super().__init__(config, part)
        self.resweight = None
        if not config.residual_weights_folded:
            count = self.branches if config.residual_weight_per_branch else 1
            self.resweight = nn.Parameter(torch.zeros(count, dtype=torch.float32))

    def reset_parameters(self):
        if self.resweight is not None:
            init.zeros_(self.resweight)

    def drop_weights(self):
        self.resweight = None

    def weight(self, branch):
        return None if self.resweight is None else self.resweight[branch % len(self.resweight)]


class ChannelWeights(nn.Module):
    """One weight a channel, all equal at the start."""

    def __init__(self, hidden_size: int, start: float):
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.full((hidden_size,), start))

    def reset_parameters(self):
        init.constant_(self.weight, self.start)


class _Normed(Residual):
    """One layer norm a branch."""

    def __init__(self, config: ReZeroTransformerConfig, part: str):
        super().__init__(config, part)
        self.norms = nn.ModuleList(layer_norm(config) for _ in range(self.branches))


class PostNorm(_Normed):
    """`post_norm`: LN(x + F(x)) (Vaswani et al. 2017, arXiv 1706.03762). It needs a learning rate that warms up."""

    def join(self, x, y, branch):
        return self.norms[branch](x + y)


class PreNorm(_Normed):
    """`pre_norm`: x + F(LN(x)) and a last LN (Xiong et al. 2020, arXiv 2002.04745).

    Output projections start smaller by the root of the number of branches, as in GPT-2 (Radford et al. 2019), which
    is the strongest form of this baseline.
    """

    @staticmethod
    def gains(config, part):
        output = (count_branches(part) * config.num_hidden_layers) ** -0.5
        return Gains(attention_output=output, down=output)

    @staticmethod
    def final_norm(config):
        return layer_norm(config)

    def enter(self, x, branch):
        return self.norms[branch](x)


class GPT2Norm(_Normed):
    """`gpt2_norm`: x + LN(F(x)), so called in the ReZero paper, which compares with it. GPT-2 itself is `pre_norm`."""

    def join(self, x, y, branch):
        return x + self.norms[branch](y)


class TFixup(Residual):
    """`t_fixup`: x + F(x) without norms, from smaller weights (Huang et al., ICML 2020).

    Value, output and feed-forward matrices are scaled by 0.67 N^(-1/4) in an encoder and by (9 N)^(-1/4) in a decoder
    that has one, embeddings by (9 N)^(-1/4). A model that stands alone has the branches of an encoder, and its gains:
    the paper derives none for it. There embeddings start at d^(-1/2) and are multiplied by d^(1/2) when they are read,
    if its code does what the toolkit does that it is written for; here they start at 1 and are not.
    """

    @staticmethod
    def gains(config, part):
        layers = config.num_hidden_layers
        gain = (9 * layers) ** -0.25 if part == "decoder" else 0.67 * layers**-0.25
        return Gains(value=gain, attention_output=gain, up=gain, down=gain)

    @staticmethod
    def embedding_gain(config):
        return (9 * config.num_hidden_layers) ** -0.25


class Admin(_Normed):
    """`admin`: LN(omega * x + F(x)), omega learned, one a channel (Liu et al. 2020, arXiv 2004.08249).

    The paper profiles the variance of every branch on one batch and starts the omega of a branch at the root of 1 plus
    the variances of all branches before it: [`profile_admin`], to be called before training. Until then omega is
    ((M + 1) / log(M + 1) - 1)^(1/2), M the number of branches, for all: the rule without data of the authors' later
    package (from memory).
    """

    def __init__(self, config: ReZeroTransformerConfig, part: str):
        super().__init__(config, part)
        count = self.branches * config.num_hidden_layers + 1
        start = math.sqrt(count / math.log(count) - 1)
        self.omegas = nn.ModuleList(ChannelWeights(config.hidden_size, start) for _ in range(self.branches))
        self.variances: dict[int, float] | None = None  # filled while profiling

    def join(self, x, y, branch):
        if self.variances is not None:
            self.variances[branch % self.branches] = float(y.float().var())
        return self.norms[branch](self.omegas[branch].weight * x + y)


class DeepNorm(PostNorm):
    """`deepnorm`: LN(a x + F(x)) (Wang et al. 2022, arXiv 2203.00555).

    A model that stands alone has a = (2 N)^(1/4) and gains b = (8 N)^(-1/4) of value, output and feed-forward
    matrices; of an encoder-decoder (N layers each) the encoder a = 0.81 N^(5/16), b = 0.87 N^(-5/16), the decoder
    a = (3 N)^(1/4), b = (12 N)^(-1/4). Xavier normal there, Xavier uniform here, of the same variance.
    """

    def __init__(self, config: ReZeroTransformerConfig, part: str):
        super().__init__(config, part)
        layers = config.num_hidden_layers
        self.factor = {
            "alone": (2 * layers) ** 0.25,
            "encoder": 0.81 * layers**0.3125,
            "decoder": (3 * layers) ** 0.25,
        }[part]

    @staticmethod
    def gains(config, part):
        layers = config.num_hidden_layers
        gain = {
            "alone": (8 * layers) ** -0.25,
            "encoder": 0.87 * layers**-0.3125,
            "decoder": (12 * layers) ** -0.25,
        }[part]
        return Gains(query_key=1.0, value=gain, attention_output=gain, up=gain, down=gain)

    def join(self, x, y, branch):
        return self.norms[branch](self.factor * x + y)


class LayerScale(PreNorm):
    """`layerscale`: x + diag(s) F(LN(x)) and a last LN, one s a channel and branch (Touvron et al. 2021, arXiv
    2103.17239), from 0.1 up to 18 layers, 1e-5 up to 24, 1e-6 beyond."""

    def __init__(self, config: ReZeroTransformerConfig, part: str):
        super().__init__(config, part)
        layers = config.num_hidden_layers
        start = 0.1 if layers <= 18 else 1e-5 if layers <= 24 else 1e-6
        self.scales = None
        if not config.residual_weights_folded:
            self.scales = nn.ModuleList(ChannelWeights(config.hidden_size, start) for _ in range(self.branches))

    @staticmethod
    def gains(config, part):
        return Gains()

    def drop_weights(self):
        self.scales = None

    def weight(self, branch):
        return None if self.scales is None else self.scales[branch].weight


class DynamicTanh(nn.Module):
    """w * tanh(slope x) + b in the place of a layer norm; slope starts at 0.5."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.slope = nn.Parameter(torch.full((1,), 0.5))
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def reset_parameters(self):
        init.constant_(self.slope, 0.5)
        init.ones_(self.weight)
        init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.slope * x) * self.weight + self.bias


class DyT(PreNorm):
    """`dyt`: Pre-LN with [`DynamicTanh`] for every layer norm (Zhu et al. 2025, arXiv 2503.10622).

    Their language models also multiply small embeddings by a learned number that starts at d^(1/2), which embeddings
    of size 1 do not need, and choose other slopes for widths of thousands (from memory).
    """

    def __init__(self, config: ReZeroTransformerConfig, part: str):
        super().__init__(config, part)
        self.norms = nn.ModuleList(DynamicTanh(config.hidden_size) for _ in range(self.branches))

    @staticmethod
    def final_norm(config):
        return DynamicTanh(config.hidden_size)


class Keel(_Normed):
    """`keel`: LN(a x + F(LN(x))), a the number of branches (Chen and Wei 2026, arXiv 2601.19895).

    From the published equation; that a counts branches rather than layers, that every layer norm has its own weights,
    and that the first layer is like all others, is how it is read here.
    """

    def __init__(self, config: ReZeroTransformerConfig, part: str):
        super().__init__(config, part)
        self.factor = self.branches * config.num_hidden_layers
        self.outer_norms = nn.ModuleList(layer_norm(config) for _ in range(self.branches))

    def enter(self, x, branch):
        return self.norms[branch](x)

    def join(self, x, y, branch):
        return self.outer_norms[branch](self.factor * x + y)


class ZeroInit(PreNorm):
    """`zero_init`: alpha x + F(LN(x)) and a last LN, alpha = 1 and output projections 0 at the start.

    What the fastest recipes for small GPTs do today, of which there is no paper; like ReZero it starts as the
    identity. Their residual weights have a learning rate and betas of their own: `parameter_groups` takes them. The
    norms are those of the other kinds (theirs have no weights), and their second weight, of the embeddings in every
    layer, is left out.
    """

    def __init__(self, config: ReZeroTransformerConfig, part: str):
        super().__init__(config, part)
        count = self.branches if config.residual_weight_per_branch else 1
        self.resweight = nn.Parameter(torch.ones(count, dtype=torch.float32))

    def reset_parameters(self):
        init.ones_(self.resweight)

    @staticmethod
    def gains(config, part):
        return Gains(attention_output=0.0, down=0.0)

    def join(self, x, y, branch):
        return self.resweight[branch % len(self.resweight)] * x + y


RESIDUALS = {
    "rezero": ReZero,
    "identity": Residual,
    "post_norm": PostNorm,
    "pre_norm": PreNorm,
    "gpt2_norm": GPT2Norm,
    "t_fixup": TFixup,
    "admin": Admin,
    "deepnorm": DeepNorm,
    "layerscale": LayerScale,
    "dyt": DyT,
    "keel": Keel,
    "zero_init": ZeroInit,
}


def count_branches(part: str) -> int:
    """Branches of a layer."""
    return 3 if part == "decoder" else 2


def layer_norm(config: ReZeroTransformerConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)


@torch.no_grad()
def profile_admin(model: nn.Module, **inputs: torch.Tensor) -> None:
    """Start the omegas of an `admin` model from the variances of its branches on one batch.

    Args:
        model (`nn.Module`): A model of this kind, before training.
        **inputs: What it is called with.

    Raises:
        ValueError: the model has no omegas.
    """
    stacks = [
        [layer.residual for layer in module.layers]
        for module in model.modules()
        if isinstance(getattr(module, "layers", None), nn.ModuleList)
    ]
    residuals = [residual for stack in stacks for residual in stack]
    if not all(isinstance(residual, Admin) for residual in residuals):
        raise ValueError("only a model with residual='admin' is profiled")
    training = model.training
    for residual in residuals:
        for omega in residual.omegas:
            omega.weight.fill_(1)
        residual.variances = {}
    try:
        model.eval()(**inputs)
        for stack in stacks:
            total = 1.0
            for residual in stack:
                for branch in range(residual.branches):
                    residual.omegas[branch].weight.fill_(math.sqrt(total))
                    total += residual.variances[branch]
    finally:
        model.train(training)
        for residual in residuals:
            residual.variances = None
