r"""NES performance: from the notes of a score to the velocities and timbres that they are played with.

Given the notes n of all steps, each of six columns c (velocity of P1, P2 and NO, timbre of the same; the triangle has
neither) of each step t is a choice among classes:

    p(e | n) = prod_t prod_c p(e_{t,c} | n)                       without, and
    p(e | n) = prod_t prod_c p(e_{t,c} | n, e_1, ..., e_{t-1})    with `config.autoregressive`

The task and the models other than the transformer are those of C. Donahue, H. H. Mao, J. McAuley, "The NES Music
Database", ISMIR 2018, arXiv 1806.04278; sizes and training are not.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from seqzoo.modeling.nes_performance.configuration_nes_performance import NESPerformanceConfig


# Values of a note: MIDI's, of NO 1 to 16, and 0 for silence.
NOTE_SIZES = (109, 109, 109, 17)
# Classes of the columns, and where in a score [..., voice, (note, velocity, timbre)] these are.
COLUMN_SIZES = (16, 16, 16, 4, 4, 2)
COLUMN_VOICES = (0, 1, 3, 0, 1, 3)
COLUMN_FEATURES = (1, 1, 1, 2, 2, 2)

# Queries that attend together: memory does not grow with the square of a song's length.
STEPS_AT_ONCE = 1024

# Of the steps read so far: an LSTM's two states, or keys and values of each causal layer.
State = tuple[torch.Tensor, torch.Tensor] | list[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class NESPerformanceOutput(ModelOutput):
    """
    Args:
        loss (`torch.Tensor`, *optional*): Where labels are given: mean over their steps of the negative
            log-likelihood of a step in nats, the sum of that of its six columns.
        logits (`torch.Tensor` of shape `[batch, time, 58]`): Of the classes of the columns, one column after the
            other; [`split_columns`] takes them apart.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


def split_columns(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`[..., 58]` -> for each column `[..., classes]`."""
    return logits.split(COLUMN_SIZES, dim=-1)


def one_hot(values: torch.Tensor, sizes: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """`[batch, time, len(sizes)]` of classes -> `[batch, time, sum(sizes)]` of zeros and ones."""
    columns = values.long().unbind(-1)
    return torch.cat([F.one_hot(v, size) for v, size in zip(columns, sizes, strict=True)], -1).to(dtype)


def note_timing(notes: torch.Tensor, padding: torch.Tensor | None, longest: int) -> torch.Tensor:
    """Steps since each voice's note (or rest) began and steps until it ends, `[batch, time, 8]`, at most `longest`.

    A note that is struck again in the next step cannot be told from one that lasts.
    """
    if padding is not None:  # neither end of a song is inside of a note
        notes = notes.masked_fill(padding[..., None], -1)
    time = notes.shape[1]
    steps = torch.arange(time, device=notes.device)[None, :, None]
    change = notes[:, 1:] != notes[:, :-1]
    began = F.pad(steps[:, 1:] * change, (0, 0, 1, 0)).cummax(1).values
    ends = F.pad(torch.where(change, steps[:, 1:], time), (0, 0, 0, 1), value=time)
    ends = ends.flip(1).cummin(1).values.flip(1)
    return torch.cat([steps - began, ends - 1 - steps], -1).clamp(max=longest)


class Attention(nn.Module):
    """Self-attention to the steps of a window, with rotary positions."""

    def __init__(self, config: NESPerformanceConfig, causal: bool):
        super().__init__()
        self.heads = config.num_attention_heads
        self.window = config.attention_window
        self.causal = causal
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)
        pairs = config.hidden_size // self.heads // 2
        self.frequencies = [float(config.rope_theta) ** (-i / pairs) for i in range(pairs)]

    def forward(self, hidden_states, padding=None, past=None):
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in self.qkv(hidden_states).chunk(3, -1))
        if past is not None:  # keys before rotation: a position counts from the first that is kept
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        state = k[:, :, -self.window :], v[:, :, -self.window :]
        kept = k.shape[2]
        position = torch.arange(kept, device=q.device)
        q, k = self.rotate(q, position[kept - q.shape[2] :]), self.rotate(k, position)
        attended = []
        first = kept - q.shape[2]
        for part in q.split(STEPS_AT_ONCE, dim=2):
            last = first + part.shape[2]
            keys = slice(max(first - self.window, 0), last if self.causal else last + self.window)
            distance = position[first:last, None] - position[keys]
            seen = (distance <= self.window) & (distance >= (0 if self.causal else -self.window))
            if padding is not None:
                # A padded step sees itself, or it would be the mean of nothing.
                seen = (seen & ~padding[:, None, None, keys]) | (distance == 0)
            attended.append(F.scaled_dot_product_attention(part, k[:, :, keys], v[:, :, keys], attn_mask=seen))
            first = last
        return self.out(torch.cat(attended, 2).transpose(1, 2).flatten(-2)), state

    def rotate(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        angle = position[:, None] * torch.tensor(self.frequencies, device=x.device)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class NESPerformanceLayer(GradientCheckpointingLayer):
    def __init__(self, config: NESPerformanceConfig, causal: bool):
        super().__init__()
        size = config.hidden_size
        self.attention_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.attention = Attention(config, causal)
        self.mlp_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        inner = config.intermediate_size or 4 * size
        self.mlp = nn.Sequential(nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, size))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states, padding=None, past=None):
        attended, state = self.attention(self.attention_norm(hidden_states), padding, past)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states))), state


class NESPerformancePreTrainedModel(PreTrainedModel):
    config_class = NESPerformanceConfig
    main_input_name = "notes"
    supports_gradient_checkpointing = True
    _no_split_modules = ["NESPerformanceLayer"]
    _supports_sdpa = True

    def __init__(self, config: NESPerformanceConfig, *args, **kwargs):
        config.check()
        super().__init__(config, *args, **kwargs)
        # Only its layers can be recomputed; transformers refuses to enable it for a model that says so.
        self.supports_gradient_checkpointing = config.architecture == "transformer"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if module in (getattr(self, "embed_notes", None), getattr(self, "embed_past", None)):
            init.normal_(module.weight, std=0.25)  # a sum of a dozen rows: about as large as what a layer norm gives


class NESPerformanceModel(NESPerformancePreTrainedModel):
    """All architectures; see [`NESPerformanceConfig`]. [`NESPerformanceModel.perform`] plays notes."""

    def __init__(self, config: NESPerformanceConfig):
        super().__init__(config)
        sizes = NOTE_SIZES
        if config.note_timing:
            sizes += (config.longest_timing + 1,) * 8
        self.note_sizes = sizes
        classes = sum(COLUMN_SIZES)
        width = classes if config.architecture == "regression" else config.hidden_size
        # Rows of these matrices are looked up by one-hot vectors; a regression is their sum.
        self.embed_notes = nn.Linear(sum(sizes), width)
        self.embed_past = nn.Linear(classes, width, bias=False) if config.autoregressive else None
        if config.architecture == "regression":
            self.post_init()
            return
        if config.architecture == "lstm":
            between = config.dropout if config.num_hidden_layers > 1 else 0.0
            self.lstm = nn.LSTM(width, width, config.num_hidden_layers, batch_first=True, dropout=between)
        else:
            both_ways, causal = config.num_hidden_layers, config.num_causal_layers if config.autoregressive else 0
            self.note_layers = nn.ModuleList(NESPerformanceLayer(config, causal=False) for _ in range(both_ways))
            self.past_layers = nn.ModuleList(NESPerformanceLayer(config, causal=True) for _ in range(causal))
            self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, classes)
        self.post_init()

    def encode(self, notes: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """What does not depend on the past, `[batch, time, width]`."""
        features = notes
        if self.config.note_timing:
            features = torch.cat([notes, note_timing(notes, padding, self.config.longest_timing)], -1)
        hidden = self.embed_notes(one_hot(features, self.note_sizes, self.dtype))
        if self.config.architecture == "transformer":
            hidden = self.dropout(hidden)
            for layer in self.note_layers:
                hidden, _ = layer(hidden, padding)
        return hidden

    def decode(
        self,
        hidden: torch.Tensor,
        previous: torch.Tensor | None = None,
        state: State | None = None,
        padding: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, State | None]:
        """Logits, and the state after the last step.

        Args:
            hidden (`[batch, time, width]`): From `encode`, of all steps or of the next ones.
            previous (`[batch, time, 6]`, *optional*): Of an autoregressive model: what was played a step before.
            state (*optional*): From the steps before.
        """
        if self.embed_past is not None:
            hidden = hidden + self.embed_past(one_hot(previous, COLUMN_SIZES, self.dtype))
        if self.config.architecture == "regression":
            return hidden, None
        if self.config.architecture == "lstm":
            hidden, state = self.lstm(self.dropout(hidden), state)
        else:
            past, state = state or [None] * len(self.past_layers), []
            for layer, layer_past in zip(self.past_layers, past, strict=True):
                hidden, layer_state = layer(hidden, padding, layer_past)
                state.append(layer_state)
            hidden = self.norm(hidden)
        return self.head(self.dropout(hidden)), state

    @can_return_tuple
    def forward(
        self,
        notes: torch.LongTensor,
        previous: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs,
    ) -> NESPerformanceOutput:
        r"""
        Args:
            notes (`torch.LongTensor` or uint8 of shape `[batch, time, 4]`):
                Of the voices P1, P2, TR and NO, as in a score: MIDI's notes, of NO 1 to 16, and 0 for silence.
            previous (`torch.LongTensor` or uint8 of shape `[batch, time, 6]`, *optional*):
                Of an autoregressive model: velocities of P1, P2 and NO and timbres of the same, a step before each
                step; 0 before a song. Without them, those of `labels`, moved on by a step.
            attention_mask (`torch.Tensor` of shape `[batch, time]`, *optional*):
                0 where a song is over: padding is on the right.
            labels (`torch.LongTensor` of shape `[batch, time, 6]`, *optional*):
                What is played; steps of -100 are left out of the loss.

        Raises:
            ValueError: an autoregressive model gets neither `previous` nor `labels`.
        """
        notes = notes.long()
        labels = None if labels is None else labels.long()
        padding = None if attention_mask is None else attention_mask == 0
        if self.config.autoregressive and previous is None:
            if labels is None:
                raise ValueError(
                    "an autoregressive model needs `previous`, velocities and timbres a step before, or `labels` to "
                    "take them from; `perform` plays notes without"
                )
            previous = F.pad(labels[:, :-1].clamp(min=0), (0, 0, 1, 0))
        logits, _ = self.decode(self.encode(notes, padding), previous, padding=padding)
        loss = None
        if labels is not None:
            per_column = [
                F.cross_entropy(column.flatten(0, 1).float(), target.flatten(), reduction="sum")
                for column, target in zip(split_columns(logits), labels.unbind(-1), strict=True)
            ]
            loss = sum(per_column) / (labels[..., 0] != -100).sum()
        return NESPerformanceOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def perform(
        self,
        notes: np.ndarray | torch.Tensor,
        *,
        do_sample: bool = False,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """Play the notes of one song, without dropout also while the model is in training.

        A sounding voice gets a velocity of 1 or more and a silent one 0, as all songs of the data set have it.

        Args:
            notes (`[time, 4]`): The voices P1, P2, TR, NO, as in a separated score.
            do_sample (`bool`): Draw each value from its distribution; otherwise the most probable one is taken.
            temperature (`float`): Divides the logits before drawing; more than 0.
            generator (`torch.Generator`, *optional*): On the model's device; what is drawn depends on it alone.

        Returns:
            uint8 `[time, 4, 3]`: an expressive score with these notes.

        Raises:
            ValueError: notes of another shape, values that are no notes, or a temperature that cannot be.
        """
        notes = torch.as_tensor(notes, dtype=torch.long, device=self.device)
        _check_notes(notes)
        if do_sample and not 0 < temperature < math.inf:
            raise ValueError(
                f"temperature={temperature} must be a positive number; do_sample=False takes the most probable values"
            )
        score = np.zeros((len(notes), 4, 3), dtype=np.uint8)
        if not len(notes):
            return score
        score[:, :, 0] = notes.cpu().numpy()
        sounding = notes[:, COLUMN_VOICES[:3]] > 0

        def choose(logits: torch.Tensor, steps: slice) -> torch.Tensor:
            chosen = []
            for column, options in enumerate(split_columns(logits[0].float())):
                if column < 3:
                    is_silence = torch.arange(options.shape[-1], device=self.device) == 0
                    options = options.masked_fill(is_silence == sounding[steps, column, None], -torch.inf)
                if do_sample:
                    shares = (options / temperature).softmax(-1)
                    chosen.append(torch.multinomial(shares, 1, generator=generator)[:, 0])
                else:
                    chosen.append(options.argmax(-1))
            return torch.stack(chosen, -1)

        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            hidden = self.encode(notes[None])
            if self.config.autoregressive:
                played, state = [notes.new_zeros(1, 6)], None
                for step in range(len(notes)):
                    here = slice(step, step + 1)
                    logits, state = self.decode(hidden[:, here], played[-1][None], state)
                    played.append(choose(logits, here))
                expression = torch.cat(played)[1:]
            else:
                expression = choose(self.decode(hidden)[0], slice(None))
        finally:
            for module in training:
                module.training = True
        score[:, COLUMN_VOICES, COLUMN_FEATURES] = expression.cpu().numpy()
        return score


def _check_notes(notes: torch.Tensor) -> None:
    if notes.ndim != 2 or notes.shape[1] != 4:
        raise ValueError(f"notes have the shape {list(notes.shape)}; a song's are [time, 4] (P1, P2, TR, NO)")
    wrong = (notes < 0) | (notes >= torch.tensor(NOTE_SIZES, device=notes.device))
    if wrong.any():
        step, voice = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"the note {int(notes[step, voice])} of {('P1', 'P2', 'TR', 'NO')[voice]} at step {step} is not one: they "
            f"are 0 to {NOTE_SIZES[voice] - 1}"
        )


__all__ = ["NESPerformanceModel", "NESPerformancePreTrainedModel"]
