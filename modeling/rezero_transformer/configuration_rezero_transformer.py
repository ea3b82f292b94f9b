"""Configuration of ReZero Transformer."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# What each option can be. Other values are refused: a model that ignored them would be a different model.
CHOICES = {
    "residual": (
        *("rezero", "identity", "post_norm", "pre_norm", "gpt2_norm", "t_fixup"),
        *("admin", "deepnorm", "layerscale", "dyt", "keel", "zero_init"),
    ),
    "position_embedding_type": ("learned", "sinusoidal", "none"),
}

# The kinds whose residual weights are one number; the kinds whose weights `fold_residual_weights` can take away.
SCALAR_WEIGHT = ("rezero", "zero_init")
FOLDABLE = ("rezero", "layerscale")


@strict
class ReZeroTransformerConfig(PreTrainedConfig):
    r"""
    A transformer without normalisation whose residual branches are weighted by learned numbers that start at 0
    (Bachlechner et al., "ReZero is All You Need: Fast Convergence at Large Depth", UAI 2021, arXiv 2003.04887), and,
    by `residual`, the models that it is compared with. The defaults are the size of the paper's 12-layer model of
    bytes.

    What a model reads depends on its class, which sets `is_causal` and `is_encoder_decoder` of its config:
    `...ForCausalLM` reads to the left, `...ForMaskedLM` reads both sides, `...ForConditionalGeneration` is an encoder
    that reads both sides and a decoder.

    Args:
        vocab_size (`int`, defaults to 257): Number of tokens: bytes and the end of text.
        hidden_size (`int`, defaults to 512): Width; a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, defaults to 12): Layers; of an encoder-decoder, in each of the two.
        num_attention_heads (`int`, defaults to 8): Attention heads of a layer.
        intermediate_size (`int`, defaults to 2048): Width of the feed-forward branch.
        hidden_act (`str`, defaults to `"relu"`): Its activation, by the library's name.
        dropout (`float`, defaults to 0.1): Of embeddings, of branches, and inside of the feed-forward branch.
        attention_dropout (`float`, defaults to 0.1): Of attention probabilities.
        residual (`str`, defaults to `"rezero"`): How a branch F joins the residual stream x, and how it starts.
            `residual_rezero_transformer.py` has the equations and their sources: `"rezero"`, `"identity"`,
            `"post_norm"`, `"pre_norm"`, `"gpt2_norm"`, `"t_fixup"`, `"admin"`, `"deepnorm"`, `"layerscale"`,
            `"dyt"`, `"keel"`, `"zero_init"`.
        residual_weight_per_branch (`bool`, defaults to `False`): Of `"rezero"` and `"zero_init"`: each branch has a
            residual weight of its own. The paper has one a layer, shared by its branches.
        residual_weights_folded (`bool`, defaults to `False`): The residual weights of a `"rezero"` or `"layerscale"`
            model are part of its output projections: what `fold_residual_weights()` leaves behind.
        position_embedding_type (`str`, defaults to `"learned"`): `"learned"` refuses positions beyond
            `max_position_embeddings`; `"sinusoidal"` (the paper's word-level model) and `"none"` have no limit.
        max_position_embeddings (`int`, defaults to 512): Rows of the learned position embedding.
        initializer_range (`float`, *optional*): Standard deviation of new embeddings. Nothing normalises them later,
            so it is the size of the residual stream: `None` is 1, and `hidden_size ** -0.5` where the output layer is
            tied to them, for logits of about 1. GPT-2's 0.02 trains badly without norms. Learned positions start at a
            tenth of it.
        layer_norm_epsilon (`float`, defaults to 1e-5): Of the kinds that have layer norms.
        is_causal (`bool`, defaults to `True`): Whether a position sees only those before it; see above.
        use_cache (`bool`, defaults to `True`): Whether the model returns keys and values for the next call.
        bos_token_id, eos_token_id (`int`, defaults to 0), pad_token_id (`int`, *optional*): Special tokens.
        decoder_start_token_id (`int`, *optional*): What a decoder starts from; `None` is `bos_token_id`.
        tie_word_embeddings (`bool`, defaults to `False`): Whether the output layer is the token embedding, and of an
            encoder-decoder, whether both parts have the same one.

    Raises:
        ValueError: a choice that does not exist, options that do not go together, or sizes that do not fit.
    """

    model_type = "rezero_transformer"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 257
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    hidden_act: str = "relu"
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    residual: str = "rezero"
    residual_weight_per_branch: bool = False
    residual_weights_folded: bool = False
    position_embedding_type: str = "learned"
    max_position_embeddings: int = 512
    initializer_range: float | int | None = None
    layer_norm_epsilon: float = 1e-5
    is_causal: bool = True
    use_cache: bool = True
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        self.check()
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Refuses what does not go together. Models call it again, for fields may have been set in between."""
        from transformers.activations import ACT2FN  # imports torch, which a table of configs should not wait for

        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not supported; choose from {', '.join(choices)}")
        for name in (
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if self.position_embedding_type == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(f"hidden_size={self.hidden_size} must be even for pairs of sines and cosines")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act={self.hidden_act!r} is unknown to transformers; the paper's is 'relu'")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        if self.initializer_range is not None and not 0 < self.initializer_range < math.inf:
            raise ValueError(f"initializer_range={self.initializer_range} must be a positive number")
        if not 0 < self.layer_norm_epsilon < math.inf:
            raise ValueError(f"layer_norm_epsilon={self.layer_norm_epsilon} must be a positive number")
        for name, kinds in (
            ("residual_weight_per_branch", SCALAR_WEIGHT),
            ("residual_weights_folded", FOLDABLE),
        ):
            if getattr(self, name) and self.residual not in kinds:
                raise ValueError(
                    f"{name}=True means nothing to residual={self.residual!r}, it is an option of "
                    f"{', '.join(kinds)}: leave it out"
                )

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def has_residual_weights(self) -> bool:
        """Whether layers have the parameter `residual.resweight`."""
        return self.residual in SCALAR_WEIGHT and not self.residual_weights_folded

    @property
    def embedding_std(self) -> float:
        """Standard deviation of new embeddings, before what the kind of residual makes of it."""
        if self.initializer_range is not None:
            return float(self.initializer_range)
        return self.hidden_size**-0.5 if self.tie_word_embeddings else 1.0
