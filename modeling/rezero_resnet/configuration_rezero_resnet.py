"""Configuration of ReZero ResNet."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


CHOICES = {
    "block": ("rezero", "vanilla", "fixup", "skipinit"),
    "layer_type": ("basic", "bottleneck"),
    "stem": ("cifar", "imagenet"),
    "shortcut": ("pad", "projection"),
}


@strict
class ReZeroResNetConfig(PreTrainedConfig):
    r"""
    A residual network for images whose blocks follow one of four rules (Bachlechner et al., "ReZero is All You Need",
    UAI 2021, arXiv 2003.04887, and what it is compared with). The defaults are the ResNet-56 of CIFAR-10 (He et al.
    2016, section 4.2) with ReZero.

    Args:
        num_channels (`int`, defaults to 3): Channels of the images.
        hidden_sizes (`list[int]`, defaults to `[16, 32, 64]`): Channels after each stage.
        depths (`list[int]`, defaults to `[9, 9, 9]`): Blocks of each stage: 3, 9 and 18 a stage are the ResNets 20, 56
            and 110 of CIFAR-10. The first block of every stage but the first halves the resolution.
        layer_type (`str`, defaults to `"basic"`): `"basic"` is two 3x3 convolutions; `"bottleneck"` 1x1, 3x3, 1x1, the
            middle one at a quarter of the channels.
        block (`str`, defaults to `"rezero"`): With the convolutions F of a block,
            `"rezero"`: `x <- S(x) + alpha relu(F(x))`, the skip behind the last non-linearity, batch normalisation
            kept, one alpha a block that starts at 0;
            `"vanilla"`: `x <- relu(S(x) + F(x))` with batch normalisation (He et al. 2016);
            `"fixup"`: no normalisation but scalar biases and a scale; all but the last convolution of a branch start
            smaller by `L^(-1 / (2 m - 2))` for L blocks of m convolutions, the last one and the classifier at 0
            (Zhang et al. 2019, arXiv 1901.09321);
            `"skipinit"`: `x <- relu(S(x) + alpha F(x))` with convolutions that have biases, no normalisation, alpha 0
            at first (De and Smith 2020, arXiv 2002.10444).
        stem (`str`, defaults to `"cifar"`): `"cifar"` is a 3x3 convolution to `stem_size` channels, `"imagenet"` a 7x7
            one with stride 2 and max-pooling with stride 2 behind it.
        stem_size (`int`, *optional*): Channels of the stem; `None` is those of the first stage.
        shortcut (`str`, defaults to `"pad"`): S where sizes change. `"pad"`: every other pixel, new channels are zero
            (option A of He et al. 2016); `"projection"`: a 1x1 convolution (option B).

    Raises:
        ValueError: a choice that does not exist, sizes that do not fit, or stages without a size or a depth.
    """

    model_type = "rezero_resnet"

    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (16, 32, 64)
    depths: list[int] | tuple[int, ...] = (9, 9, 9)
    layer_type: str = "basic"
    block: str = "rezero"
    stem: str = "cifar"
    stem_size: int | None = None
    shortcut: str = "pad"

    def __post_init__(self, **kwargs):
        self.hidden_sizes, self.depths = list(self.hidden_sizes), list(self.depths)
        if self.stem_size is None and self.hidden_sizes:
            self.stem_size = self.hidden_sizes[0]
        super().__post_init__(**kwargs)

    def validate_choices(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(choices)}")

    def validate_sizes(self):
        if not self.depths or len(self.depths) != len(self.hidden_sizes):
            raise ValueError(
                f"depths is {self.depths} and hidden_sizes {self.hidden_sizes}, but each stage needs one of each"
            )
        if min(self.depths) < 1:
            raise ValueError(f"depths is {self.depths}, but a stage has at least 1 block")
        if min(self.num_channels, self.stem_size, *self.hidden_sizes) < 1:
            raise ValueError(
                f"num_channels {self.num_channels}, stem_size {self.stem_size} and hidden_sizes {self.hidden_sizes} "
                "must all be 1 or more"
            )
        if self.layer_type == "bottleneck" and any(size % 4 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes is {self.hidden_sizes}, but a bottleneck needs multiples of 4")
        if self.shortcut == "pad" and sorted(self.sizes) != self.sizes:
            raise ValueError(
                f"stem_size and hidden_sizes are {self.sizes}: shortcut='pad' cannot take channels away; use "
                "'projection'"
            )

    @property
    def sizes(self) -> list[int]:
        """Channels after the stem and after each stage."""
        return [self.stem_size, *self.hidden_sizes]
