"""Configuration of the models that compose NES scores."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


ARCHITECTURES = ("soloists", "quartet", "transformer", "blended")


@strict
class NESScoreConfig(PreTrainedConfig):
    r"""
    Composition of scores of the NES Music Database (C. Donahue, H. H. Mao and J. McAuley, "The NES Music Database",
    ISMIR 2018, arXiv 1806.04278).

    Args:
        architecture (`str`, defaults to `"quartet"`): What the probability of a step depends on.
            `"soloists"`: each voice on its own past, by an LSTM of its own.
            `"quartet"`: each voice on the past of all, by one LSTM, and on the voices before it in the same step, in
            the order P1, P2, TR, NO.
            `"transformer"`: as the quartet, with attention instead of the LSTM.
            `"blended"`: one LSTM over the notes of P1, P2 and TR together, whoever plays them; each key of the piano
            roll is on or off independently of the others in the same step.
        hidden_size (`int`, defaults to 256): Width; for the transformer a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, defaults to 2): Layers of each LSTM, or of the transformer.
        num_attention_heads (`int`, defaults to 4): Of the transformer; an even width each.
        context (`int`, defaults to 256): Of the transformer: how many steps a layer attends to.
        longest_age (`int`, defaults to 96): A model is told for how many steps a note (or silence, or a chord) has
            lasted: 0, 1, ..., `longest_age` and longer.
        dropout (`float`, defaults to 0.1): Of what goes into the layers, between and out of them, and of attention.
        lowest_notes (`list[int]`, defaults to `[33, 33, 21, 1]`), highest_notes (`list[int]`, defaults to `[108, 108,
            108, 16]`): Of P1, P2, TR and NO. Note 0 is silence.
        initializer_range (`float`, defaults to 0.05): Standard deviation of new weights but those of LSTMs.
        use_cache (`bool`, defaults to `True`): Whether the model returns its state for the next call.

    Raises:
        ValueError: a choice that does not exist, or sizes that do not fit.
    """

    model_type = "nes_score"
    keys_to_ignore_at_inference = ["past_key_values"]

    architecture: str = "quartet"
    hidden_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    context: int = 256
    longest_age: int = 96
    dropout: float | int = 0.1
    lowest_notes: list[int] | tuple[int, ...] = (33, 33, 21, 1)
    highest_notes: list[int] | tuple[int, ...] = (108, 108, 108, 16)
    initializer_range: float = 0.05
    use_cache: bool = True

    def __post_init__(self, **kwargs):
        self.lowest_notes, self.highest_notes = list(self.lowest_notes), list(self.highest_notes)
        self.check()
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Refuses what does not go together; models call it again, for fields may have been set since."""
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture={self.architecture!r} is not one of {', '.join(ARCHITECTURES)}")
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "context", "longest_age"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.architecture == "transformer" and self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of 2 * num_attention_heads = "
                f"{2 * self.num_attention_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and less than 1")
        if not 0 < self.initializer_range < math.inf:
            raise ValueError(f"initializer_range={self.initializer_range} must be a positive number")
        if not len(self.lowest_notes) == len(self.highest_notes) == 4:
            raise ValueError("lowest_notes and highest_notes have one note for each of P1, P2, TR and NO")
        for lowest, highest in zip(self.lowest_notes, self.highest_notes):
            if not 1 <= lowest <= highest <= 127:
                raise ValueError(f"notes from {lowest} to {highest} are none: both lie between 1 and 127, in order")

    @property
    def num_classes(self) -> list[int]:
        """Of each voice: silence and its notes."""
        return [highest - lowest + 2 for lowest, highest in zip(self.lowest_notes, self.highest_notes)]

    @property
    def keys(self) -> range:
        """The notes of the piano roll of `"blended"`."""
        return range(min(self.lowest_notes[:3]), max(self.highest_notes[:3]) + 1)
