"""Configuration of Decaying Fast Weight GPT-2."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# Raised when a config gains a meaning that older code would silently get wrong.
CONFIG_VERSION = 1

# What each option can be today. Other values are refused: a model that ignored them would be a different model.
CHOICES = {
    "update_rule": ("decay",),
    "feature_map": ("identity",),
    "gate_sides": ("both", "key", "value"),
    "position_embedding_type": ("learned", "learned_clamped", "none"),
}


@strict
class DecayFastWeightGPT2Config(PreTrainedConfig):
    r"""
    GPT-2 whose attention is a decaying fast-weight memory (H. H. Mao, "Fine-Tuning Pre-trained Transformers into
    Decaying Fast Weights", EMNLP 2022, arXiv 2210.04243). Fields that GPT-2 has too keep its names and defaults; there
    is no attention dropout because there are no attention probabilities.

    Args:
        vocab_size (`int`, defaults to 50257): Number of tokens.
        n_positions (`int`, defaults to 1024): Rows of the position embedding; see `position_embedding_type`.
        n_embd (`int`, defaults to 768): Width; a multiple of `n_head`. The value size D of a head is `n_embd /
            n_head`.
        n_layer (`int`, defaults to 12): Number of blocks.
        n_head (`int`, defaults to 12): Number of heads, each with a memory of its own.
        n_inner (`int`, *optional*): Width of the MLP; `None` is `4 * n_embd`.
        activation_function (`str`, defaults to `"gelu_new"`): Activation of the MLP.
        resid_pdrop, embd_pdrop (`float`, defaults to 0.1): Dropout of the branches and of the embeddings.
        layer_norm_epsilon (`float`, defaults to 1e-5): Epsilon of the layer norms.
        initializer_range (`float`, defaults to 0.02): Standard deviation of new weights, gates included.
        update_rule (`str`, defaults to `"decay"`): How the memory changes at a step. `"decay"` is the paper's
            proposal, `S_t = G_t * S_{t-1} + k_t v_t^T`; the only one so far.
        feature_map (`str`, defaults to `"identity"`): What happens to queries and keys after their projection.
            `"identity"` is the paper's final choice; the only one so far.
        normalize (`bool`, defaults to `False`): Attention normalisation. The paper's final choice is none; `True` is
            refused so far.
        gate_sides (`str`, defaults to `"both"`): `"both"` is the paper's gate `G_t = b_t a_t^T`; `"key"` leaves `a_t`
            at 1, `"value"` leaves `b_t` at 1.
        gate_init (`float` or `"uniform"`, defaults to 2.0): Bias of the gate logits. A number `c` is the constant
            bias: a memory cell keeps `sigmoid(c)` of its content a step and gated side. `"uniform"` is uniform gate
            initialisation: the gates start uniform in `[1/n, 1 - 1/n]`, n the size of the side, as the paper's
            reference tests draw them; two such sides forget fast (a quarter is kept a step).
        gate_rank (`int`, *optional*): Rank of the gate projections; `None` is the paper's full matrices.
        state_size (`int`, *optional*): Key size K of a head's memory [K, D]; `None` is the head size. Query and key
            projections of another size cannot come from a GPT-2 checkpoint and start anew.
        scale (`float`, *optional*): Factor of the query. `None` is `(n_embd / n_head) ** -0.5`, GPT-2's own, so that a
            converted model starts from the scores `q k^T` that its weights were trained for; the paper's kernels do
            not scale (1.0).
        position_embedding_type (`str`, defaults to `"learned"`): `"learned"` refuses positions beyond `n_positions`;
            `"learned_clamped"` uses the last row again beyond it; `"none"` has no position embedding. The memory
            itself has no length limit.
        use_cache (`bool`, defaults to `True`): Whether the model returns its state for the next call.
        bos_token_id, eos_token_id (`int`, defaults to 50256), pad_token_id (`int`, *optional*): Special tokens.
        tie_word_embeddings (`bool`, defaults to `True`): Whether the output projection is the token embedding.
        config_version (`int`, defaults to 1): Written with the config; a config of a newer version is refused.

    Raises:
        ValueError: a choice that does not exist (yet), sizes that do not fit, or a config of a newer version.
    """

    model_type = "decay_fast_weight_gpt2"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float | int = 0.1
    embd_pdrop: float | int = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    update_rule: str = "decay"
    feature_map: str = "identity"
    normalize: bool = False
    gate_sides: str = "both"
    gate_init: float | int | str = 2.0
    gate_rank: int | None = None
    state_size: int | None = None
    scale: float | int | None = None
    position_embedding_type: str = "learned"
    use_cache: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True
    config_version: int = CONFIG_VERSION

    def __post_init__(self, **kwargs):
        if self.config_version > CONFIG_VERSION:
            raise ValueError(
                f"this config has config_version={self.config_version}, written by a newer release; this one reads up "
                f"to {CONFIG_VERSION}. Upgrade seqzoo, or use the code files that came with the model."
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not supported; choose from {', '.join(choices)}")
        if self.normalize:
            raise ValueError("normalize=True is not supported: the decay rule is used without attention normalisation")
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "gate_rank", "state_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} must be a multiple of n_head={self.n_head}")
        if self.gate_init != "uniform" and (isinstance(self.gate_init, str) or not math.isfinite(self.gate_init)):
            raise ValueError(f"gate_init={self.gate_init!r} must be a finite number or 'uniform'")
        if self.scale is not None and not math.isfinite(self.scale):
            raise ValueError(f"scale={self.scale} must be a finite number")
        super().__post_init__(**kwargs)

    @property
    def head_dim(self) -> int:
        """Value size D of a head."""
        return self.n_embd // self.n_head

    @property
    def key_dim(self) -> int:
        """Key size K of a head."""
        return self.head_dim if self.state_size is None else self.state_size
