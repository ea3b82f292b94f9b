"""ReZero ResNet: residual networks for images with ReZero, and the networks it is compared with.

Bachlechner et al., "ReZero is All You Need: Fast Convergence at Large Depth", UAI 2021, arXiv 2003.04887. For a block
with convolutions F and shortcut S the rules are

    rezero      x <- S(x) + alpha relu(F(x))     batch normalisation in F, alpha = 0 at first
    vanilla     x <- relu(S(x) + F(x))           batch normalisation in F
    fixup       x <- relu(S(x) + scale F(x) + bias)     scalar biases in F, initialised by depth
    skipinit    x <- relu(S(x) + alpha F(x))     nothing in F but convolutions with biases, alpha = 0 at first

Of ReZero, the last non-linearity belongs to the branch, so at first the blocks of a stage are the identity.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.utils.generic import can_return_tuple

from seqzoo.modeling.rezero_resnet.configuration_rezero_resnet import ReZeroResNetConfig


class ReZeroResNetConvolution(nn.Module):
    """A convolution and what the rule of the block puts beside it: batch normalisation, scalars, or a bias.

    Args:
        rule (`str`):
            `block` of the config.
        in_size (`int`), out_size (`int`), kernel (`int`), stride (`int`):
            Of the convolution.
        init_scale (`float`, defaults to 1.0):
            Its weights start so many times as large as He's.
        scaled (`bool`, defaults to `False`):
            Fixup: whether the output has the scale of its branch.
    """

    def __init__(
        self,
        rule: str,
        in_size: int,
        out_size: int,
        kernel: int,
        stride: int,
        init_scale: float = 1.0,
        scaled: bool = False,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_size, out_size, kernel, stride, padding=kernel // 2, bias=rule == "skipinit")
        self.conv.init_scale = init_scale
        self.norm = nn.BatchNorm2d(out_size) if rule in ("rezero", "vanilla") else None
        self.has_scalars = rule == "fixup"
        if self.has_scalars:
            self.bias_before = nn.Parameter(torch.zeros(1))
            self.bias_after = nn.Parameter(torch.zeros(1))
            self.scale = nn.Parameter(torch.ones(1)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        if self.has_scalars:
            x = self.conv(x + self.bias_before)
            return (x if self.scale is None else self.scale * x) + self.bias_after
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)


class ReZeroResNetBlock(nn.Module):
    """A residual block; `block` of the config is its rule."""

    def __init__(self, config: ReZeroResNetConfig, in_size: int, out_size: int, stride: int):
        super().__init__()
        self.rule = config.block
        self.stride = stride
        self.new_channels = out_size - in_size
        if config.layer_type == "basic":
            shapes = [(in_size, out_size, 3, stride), (out_size, out_size, 3, 1)]
        else:
            inner = out_size // 4
            shapes = [(in_size, inner, 1, 1), (inner, inner, 3, stride), (inner, out_size, 1, 1)]
        smaller, last = (
            (sum(config.depths) ** (-1 / (2 * len(shapes) - 2)), 0.0) if self.rule == "fixup" else (1.0, 1.0)
        )
        self.branch = nn.ModuleList(
            [ReZeroResNetConvolution(self.rule, *shape, init_scale=smaller) for shape in shapes[:-1]]
        )
        self.branch.append(ReZeroResNetConvolution(self.rule, *shapes[-1], init_scale=last, scaled=True))
        self.projection = None
        if config.shortcut == "projection" and (stride > 1 or self.new_channels):
            self.projection = ReZeroResNetConvolution(self.rule, in_size, out_size, 1, stride)
        if self.rule in ("rezero", "skipinit"):
            self.resweight = nn.Parameter(torch.zeros(1, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        skip = self._shortcut(x)
        for layer in self.branch[:-1]:
            x = F.relu(layer(x))
        x = self.branch[-1](x)
        if self.rule == "rezero":
            return skip + self._weigh(F.relu(x))
        if self.rule == "skipinit":
            x = self._weigh(x)
        return F.relu(skip + x)

    def _weigh(self, x: Tensor) -> Tensor:
        """alpha times the branch: under autocast in alpha's float32, else of the type of the model's weights."""
        return (self.resweight * x).to(self.branch[-1].conv.weight.dtype)

    def _shortcut(self, x: Tensor) -> Tensor:
        """The input at the size of the output."""
        if self.projection is not None:
            return self.projection(x)
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return x


class ReZeroResNetPreTrainedModel(PreTrainedModel):
    config_class = ReZeroResNetConfig
    base_model_prefix = "resnet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = False  # batch normalisation would count every batch twice
    _no_split_modules = ["ReZeroResNetBlock"]

    def __init__(self, config: ReZeroResNetConfig, *args, **kwargs):
        config.validate_choices()  # again, for fields may have been set since
        config.validate_sizes()
        super().__init__(config, *args, **kwargs)
        if config.block in ("rezero", "skipinit"):
            self._keep_in_fp32_modules_strict = ["resweight"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            init.normal_(module.weight, std=module.init_scale * (2 / fan_out) ** 0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):  # the classifier
            init.normal_(module.weight, std=0.0 if self.config.block == "fixup" else module.in_features**-0.5)
            init.zeros_(module.bias)
        elif isinstance(module, ReZeroResNetConvolution) and module.has_scalars:
            init.zeros_(module.bias_before)
            init.zeros_(module.bias_after)
            if module.scale is not None:
                init.ones_(module.scale)
        elif isinstance(module, ReZeroResNetBlock) and module.rule in ("rezero", "skipinit"):
            init.zeros_(module.resweight)
        else:
            super()._init_weights(module)  # batch normalisation


class ReZeroResNetModel(ReZeroResNetPreTrainedModel):
    """Stem and stages, and the mean of the last stage over the image."""

    def __init__(self, config: ReZeroResNetConfig):
        super().__init__(config)
        kernel, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        self.stem = ReZeroResNetConvolution(config.block, config.num_channels, config.stem_size, kernel, stride)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if config.stem == "imagenet" else nn.Identity()
        self.stages = nn.ModuleList()
        for i, depth in enumerate(config.depths):
            in_size, out_size = config.sizes[i : i + 2]
            blocks = [ReZeroResNetBlock(config, in_size, out_size, stride=1 if i == 0 else 2)]
            blocks += [ReZeroResNetBlock(config, out_size, out_size, stride=1) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        r"""
        Args:
            pixel_values (`Tensor` [batch, channels, height, width]): Images, normalised.
            output_hidden_states (`bool`, *optional*): Whether to return what stem and stages give, too; `None` is as
                the config says.

        Raises:
            ValueError: images with another number of channels than the config's.
        """
        if pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"pixel_values has {pixel_values.shape[1]} channels, but num_channels of the config is "
                f"{self.config.num_channels}"
            )
        hidden = self.pool(F.relu(self.stem(pixel_values)))
        hidden_states = [hidden]
        for stage in self.stages:
            hidden = stage(hidden)
            hidden_states.append(hidden)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden,
            pooler_output=hidden.mean((2, 3), keepdim=True),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )


class ReZeroResNetForImageClassification(ReZeroResNetPreTrainedModel):
    """[`ReZeroResNetModel`] with a linear layer on the mean of the last stage."""

    def __init__(self, config: ReZeroResNetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.resnet = ReZeroResNetModel(config)
        self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> ImageClassifierOutputWithNoAttention:
        r"""
        Args:
            pixel_values (`Tensor` [batch, channels, height, width]): Images, normalised.
            labels (`Tensor` [batch], *optional*): Classes, for the loss; see `problem_type` of the config.
            output_hidden_states (`bool`, *optional*): Whether to return what stem and stages give, too.

        Raises:
            ValueError: images with another number of channels than the config's.
        """
        outputs = self.resnet(pixel_values, output_hidden_states=output_hidden_states)
        logits = self.classifier(outputs.pooler_output.flatten(1))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
