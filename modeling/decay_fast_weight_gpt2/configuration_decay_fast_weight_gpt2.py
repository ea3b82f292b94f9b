"""Configuration of Decaying Fast Weight GPT-2."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# Raised when a config gains a meaning that older code would silently get wrong.
CONFIG_VERSION = 2

# What each option can be. Other values are refused: a model that ignored them would be a different model.
CHOICES = {
    "update_rule": ("decay", "gated", "delta", "sum"),
    "feature_map": ("identity", "elu", "relu", "dpfp", "softmax", "hedgehog"),
    "gate_sides": (None, "both", "key", "value"),
    "position_embedding_type": ("learned", "learned_clamped", "none"),
}

# Options that not every update rule has -> the rules that do.
RULES_WITH = {
    "gate_sides": ("decay",),
    "gate_rank": ("decay",),
    "gate_init": ("decay", "gated", "delta"),
    "read_before_write": ("delta",),
}

# The bias of the gates that a rule has, where `gate_init` does not say: what is kept (0.88), or written (0.5), a step.
GATE_INIT = {"decay": 2.0, "gated": 2.0, "delta": 0.0}


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
        update_rule (`str`, defaults to `"decay"`): How the memory S [K, D] changes at a step, with keys and queries
            after the feature map. All are compared in the paper.
            `"decay"`: `S_t = (b_t a_t^T) * S_{t-1} + k_t v_t^T`, the paper's proposal.
            `"gated"`: `S_t = g_t S_{t-1} + (1 - g_t) k_t v_t^T`, one gate a head (Peng et al. 2021, arXiv 2103.02143).
            `"delta"`: `S_t = S_{t-1} + g_t k_t (v_t - S_{t-1}^T k_t)^T` (Schlag et al. 2021, arXiv 2102.11174). Keys
            and queries are scaled to sum 1, as there, or to length 1 if the feature map can be negative.
            `"sum"`: `S_t = S_{t-1} + k_t v_t^T` (Katharopoulos et al. 2020, arXiv 2006.16236).
        feature_map (`str`, defaults to `"identity"`): What happens to each head's queries and keys x after their
            projection.
            `"identity"`: nothing, the paper's final choice.
            `"elu"`: `1 + elu(x)` (Katharopoulos et al. 2020).
            `"relu"`: `relu(W x + b)`, learned (T2R: Kasai et al. 2021, arXiv 2103.13076).
            `"dpfp"`: products of rectified neighbours, `r_i r_{i-n}` for r = relu([x, -x]) and n = 1, ...,
            `state_size / (2 head_dim)` (Schlag et al. 2021).
            `"softmax"`: softmax over the channels of x.
            `"hedgehog"`: `[softmax(W x), softmax(-W x)]`, learned, W starts as the identity where it is square (Zhang
            et al. 2024, arXiv 2402.04347).
        normalize (`bool`, defaults to `False`): Attention normalisation: what is read is divided by what would be
            read if all values were 1, so that it is a weighted mean. Needs weights that are not negative (a feature
            map other than `"identity"`), one weight a head (`"decay"` only with `gate_sides="key"`) and a memory that
            is a weighted sum (not `"delta"`). The paper's final choice is none.
        gate_sides (`str`, *optional*): Of the decay rule. `"both"` (what `None` becomes) is the paper's gate `G_t =
            b_t a_t^T`; `"key"` leaves `a_t` at 1, `"value"` leaves `b_t` at 1.
        gate_init (`float` or `"uniform"`, *optional*): Bias of the gate logits. A number `c` is the constant bias:
            of a memory cell `sigmoid(c)` is kept (or, delta rule, written) a step and gated side. `None` becomes 2.0,
            or 0.0 for the delta rule. `"uniform"` (decay rule) is uniform gate initialisation: the gates start uniform
            in `[1/n, 1 - 1/n]`, n the size of the side, as the paper's reference tests draw them; two such sides
            forget fast (a quarter is kept a step).
        gate_rank (`int`, *optional*): Of the decay rule: rank of the gate projections; `None` is the paper's full
            matrices.
        read_before_write (`bool`, defaults to `False`): Of the delta rule: a step reads the memory as it was before
            its own write, as the paper's reference kernels do.
        state_size (`int`, *optional*): Key size K of a head's memory [K, D]; `None` is the head size, or twice that
            for `"dpfp"` and `"hedgehog"`. With `"identity"`, `"elu"` and `"softmax"` it is the size of the query and
            key projections, which cannot come from a GPT-2 checkpoint when it is not the head size and start anew.
        scale (`float`, *optional*): Factor of the query. `None` is `(n_embd / n_head) ** -0.5`, GPT-2's own, so that a
            converted model starts from the scores `q k^T` that its weights were trained for; the paper's kernels do
            not scale (1.0). `None` is 1.0 for the delta rule, whose queries are scaled already. Refused where
            `normalize` would cancel it.
        softmax_layers (`list[int]`, defaults to none): Layers that keep GPT-2's attention: a hybrid, whose cache grows
            with the context in these layers.
        position_embedding_type (`str`, defaults to `"learned"`): `"learned"` refuses positions beyond `n_positions`;
            `"learned_clamped"` uses the last row again beyond it; `"none"` has no position embedding. The memory
            itself has no length limit.
        use_cache (`bool`, defaults to `True`): Whether the model returns its state for the next call.
        bos_token_id, eos_token_id (`int`, defaults to 50256), pad_token_id (`int`, *optional*): Special tokens.
        tie_word_embeddings (`bool`, defaults to `True`): Whether the output projection is the token embedding.
        config_version (`int`, defaults to 2): Written with the config; a config of a newer version is refused.

    Raises:
        ValueError: a choice that does not exist, options that do not go together, sizes that do not fit, or a config
            of a newer version.
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
    gate_sides: str | None = None
    gate_init: float | int | str | None = None
    gate_rank: int | None = None
    read_before_write: bool = False
    state_size: int | None = None
    scale: float | int | None = None
    softmax_layers: list[int] | tuple[int, ...] = ()
    position_embedding_type: str = "learned"
    use_cache: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True
    config_version: int = CONFIG_VERSION

    def __post_init__(self, **kwargs):
        self.check()
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Refuses what does not go together and fills in what follows from the rest.

        Models call it again, for fields may have been set after the config was made: by keyword arguments of
        `from_pretrained`, say.
        """
        if self.config_version < 1:
            raise ValueError(f"config_version={self.config_version} does not exist; the first one is 1")
        if self.config_version > CONFIG_VERSION:
            raise ValueError(
                f"this config has config_version={self.config_version}, written by a newer release; this one reads up "
                f"to {CONFIG_VERSION}. Upgrade seqzoo, or use the code files that came with the model."
            )
        self.config_version = CONFIG_VERSION
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                named = ", ".join(choice for choice in choices if choice)
                raise ValueError(f"{name}={getattr(self, name)!r} is not supported; choose from {named}")
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "gate_rank", "state_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} must be a multiple of n_head={self.n_head}")
        if self.scale is not None and not math.isfinite(self.scale):
            raise ValueError(f"scale={self.scale} must be a finite number")
        self._check_rule()
        self._check_softmax_layers()
        if self.update_rule == "decay" and self.gate_sides is None:
            self.gate_sides = "both"
        if self.gate_init is None:
            self.gate_init = GATE_INIT.get(self.update_rule)
        self._check_normalize()

    def _check_rule(self):
        for name, rules in RULES_WITH.items():
            value = getattr(self, name)
            if value not in (None, False) and self.update_rule not in rules:
                raise ValueError(
                    f"{name}={value!r} means nothing to update_rule={self.update_rule!r}, it is an option of "
                    f"{', '.join(rules)}: leave it out"
                )
        if self.gate_init == "uniform":
            if self.update_rule != "decay":
                raise ValueError("gate_init='uniform' spreads the channels of a gate, of which only decay has many")
        elif isinstance(self.gate_init, str) or not math.isfinite(self.gate_init or 0):
            raise ValueError(f"gate_init={self.gate_init!r} must be a finite number or 'uniform'")
        if self.feature_map == "dpfp" and self.key_dim % (2 * self.head_dim):
            raise ValueError(
                f"state_size={self.state_size}: dpfp makes 2 * head_dim = {2 * self.head_dim} features at a time, so "
                "it must be a multiple of that"
            )
        if self.feature_map == "hedgehog" and self.key_dim % 2:
            raise ValueError(f"state_size={self.state_size}: hedgehog makes features in pairs, so it must be even")

    def _check_normalize(self):
        if not self.normalize:
            return
        if self.update_rule == "delta":
            raise ValueError(
                "normalize=True has no meaning for update_rule='delta': what it writes depends on what is stored, so "
                "the memory is no weighted sum to be divided by its weights"
            )
        if self.feature_map == "identity":
            raise ValueError(
                "normalize=True needs weights q k^T that are not negative; feature_map='identity' gives any sign. "
                "Choose elu, relu, dpfp, softmax or hedgehog."
            )
        if self.update_rule == "decay" and self.gate_sides != "key":
            raise ValueError(
                f"normalize=True with gate_sides={self.gate_sides!r}: a value-side gate gives every value channel "
                "weights of its own, so there is no one sum to divide by. Set gate_sides='key'."
            )
        if self.scale is not None and not self.softmax_layers:
            raise ValueError(f"scale={self.scale} has no effect with normalize=True, which cancels it. Leave it out.")

    def _check_softmax_layers(self):
        self.softmax_layers = sorted(self.softmax_layers)
        if len(set(self.softmax_layers)) < len(self.softmax_layers) or not all(
            0 <= layer < self.n_layer for layer in self.softmax_layers
        ):
            raise ValueError(
                f"softmax_layers={self.softmax_layers} must be different layers from 0 to n_layer - 1 = "
                f"{self.n_layer - 1}"
            )
        if len(self.softmax_layers) == self.n_layer:
            raise ValueError("softmax_layers names every layer: that is GPT-2 itself (model_type 'gpt2')")

    @property
    def head_dim(self) -> int:
        """Value size D of a head."""
        return self.n_embd // self.n_head

    @property
    def key_dim(self) -> int:
        """Key size K of a head's memory: how many features a key has."""
        if self.state_size is not None:
            return self.state_size
        return 2 * self.head_dim if self.feature_map in ("dpfp", "hedgehog") else self.head_dim

    @property
    def query_dim(self) -> int:
        """Size of a head's projected queries and keys, before the feature map."""
        return self.key_dim if self.feature_map in ("identity", "elu", "softmax") else self.head_dim
