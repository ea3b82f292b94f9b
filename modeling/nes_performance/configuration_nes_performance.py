"""Configuration of NES performance models."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


ARCHITECTURES = ("regression", "lstm", "transformer")


@strict
class NESPerformanceConfig(PreTrainedConfig):
    r"""
    Models of how the notes of an NES score are played: velocity and timbre of each step (C. Donahue, H. H. Mao, J.
    McAuley, "The NES Music Database", ISMIR 2018, arXiv 1806.04278). The defaults are the bidirectional transformer.

    Args:
        architecture (`str`, defaults to `"transformer"`):
            `"regression"`: multinomial logistic regression on the step's notes, one-hot. It has no sizes:
            `hidden_size` and what is below it say nothing.
            `"lstm"`: an LSTM that reads the notes up to the step.
            `"transformer"`: attention to the notes before and after the step.
        autoregressive (`bool`, defaults to `False`): Whether a step also depends on velocities and timbres before it:
            of the step before (`"regression"`, `"lstm"`, the latter having read the earlier ones too), or of
            `attention_window` steps (`"transformer"`, by causal layers on top of those for the notes).
        note_timing (`bool`, *optional*): Whether a step is also told how long each voice's note has lasted and how
            long it still will, which follows from the notes. `None` is `True` for the transformer and `False` for the
            others, for which the second would be a look ahead that they do not have.
        longest_timing (`int`, defaults to 32): Steps from which on `note_timing` says "long".
        hidden_size (`int`, defaults to 128): Width.
        num_hidden_layers (`int`, defaults to 2): LSTM layers, or attention layers that read the notes both ways.
        num_causal_layers (`int`, defaults to 2): Attention layers above these that read what was played before; of the
            autoregressive transformer only.
        num_attention_heads (`int`, defaults to 4): Heads of an attention layer.
        intermediate_size (`int`, *optional*): Width of the MLPs of the transformer; `None` is `4 * hidden_size`.
        attention_window (`int`, defaults to 255): Steps that a step attends to on either side. Songs may be longer
            than this, and than anything that was trained on: positions are relative.
        rope_theta (`float`, defaults to 1000.0): Base of the rotary positions.
        dropout (`float`, defaults to 0.1): Of embeddings and layers.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of the layer norms.
        initializer_range (`float`, defaults to 0.02): Standard deviation of new weights.

    Raises:
        ValueError: an unknown architecture, or sizes that do not fit.
    """

    model_type = "nes_performance"

    architecture: str = "transformer"
    autoregressive: bool = False
    note_timing: bool | None = None
    longest_timing: int = 32
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_causal_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int | None = None
    attention_window: int = 255
    rope_theta: float | int = 1000.0
    dropout: float | int = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if self.note_timing is None:
            self.note_timing = self.architecture == "transformer"
        self.check()
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Refuses what does not go together; models call it again, for fields may have been set since."""
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture={self.architecture!r} must be one of {', '.join(ARCHITECTURES)}")
        for name in (
            *("longest_timing", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
            "attention_window",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be 1 or more")
        for name in ("rope_theta", "layer_norm_eps", "initializer_range"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a positive number")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and less than 1")
        if self.architecture == "transformer":
            self._check_transformer()

    def _check_transformer(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of 2 * num_attention_heads = "
                f"{2 * self.num_attention_heads}: rotary positions turn pairs of a head's channels"
            )
        if self.autoregressive and self.num_causal_layers < 1:
            raise ValueError(
                f"num_causal_layers={self.num_causal_layers} must be 1 or more: an autoregressive transformer reads "
                "its past in them"
            )


__all__ = ["NESPerformanceConfig"]
