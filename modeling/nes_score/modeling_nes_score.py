r"""Composition of NES scores: what sounds at the next step, given all steps before it.

C. Donahue, H. H. Mao and J. McAuley, "The NES Music Database", ISMIR 2018, arXiv 1806.04278. With `x_t` the notes of
step t in the order P1, P2, TR, NO, and `x_0` silence,

    separated   p(x) = prod_t prod_v p(x_t^v | x_1 ... x_{t-1}, x_t^1 ... x_t^{v-1})
    blended     p(x) = prod_t prod_k p(k sounds at t | x_1 ... x_{t-1})        for the keys k of a piano roll

where soloists drop from the first all voices but v. A trunk (LSTM or transformer) reads the steps before t and for
how long their notes have lasted; the head of a voice reads its output and, in the same step, the voices before it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.modeling_utils import PreTrainedModel
from transformers.models.mistral.configuration_mistral import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralModel
from transformers.utils import ModelOutput, can_return_tuple

from seqzoo.modeling.nes_score.configuration_nes_score import NESScoreConfig


@dataclass
class NESScoreState:
    """What a model has read, to go on from.

    Args:
        last (`torch.LongTensor` of shape `[batch, 1, voice]`): Notes of the last step.
        age (`torch.LongTensor` of shape `[batch, 1, voice]`): For how many steps before it they have lasted; of
            `"blended"` `[batch, 1, 1]`, all of them together.
        memory (`list`): What each trunk keeps: an LSTM its two states, the transformer a cache, which calls change.
        length (`int`): Steps read.
    """

    last: Tensor
    age: Tensor
    memory: list[Any]
    length: int

    def get_seq_length(self) -> int:
        return self.length


@dataclass
class NESScoreOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor`, *optional*): Nats a step, summed over the voices (or keys); with `labels`.
        logits (`torch.FloatTensor` of shape `[batch, time, sum(num_classes)]`): Of the classes of P1, then those of
            P2, TR and NO, for the same step, before the softmax; see [`NESScoreModel.by_voice`]. Of `"blended"`
            `[batch, time, keys]`, before the sigmoid.
        past_key_values ([`NESScoreState`], *optional*): With `use_cache`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    past_key_values: NESScoreState | None = None


class LSTMTrunk(nn.Module):
    """`[batch, time, width]` to the same shape, and the states behind it."""

    def __init__(self, config: NESScoreConfig):
        super().__init__()
        between = config.dropout if config.num_hidden_layers > 1 else 0.0
        self.lstm = nn.LSTM(
            config.hidden_size, config.hidden_size, config.num_hidden_layers, batch_first=True, dropout=between
        )

    def forward(self, inputs: Tensor, memory: tuple[Tensor, Tensor] | None, use_cache: bool):
        return self.lstm(inputs, memory)


class TransformerTrunk(nn.Module):
    """Attention over the last `context` steps of each layer, with rotary positions: any length, bounded memory."""

    def __init__(self, config: NESScoreConfig):
        super().__init__()
        self.transformer = MistralModel(
            MistralConfig(
                vocab_size=1,
                hidden_size=config.hidden_size,
                intermediate_size=3 * config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_attention_heads,
                sliding_window=config.context,
                attention_dropout=config.dropout,
                bos_token_id=None,
                eos_token_id=None,
                initializer_range=config.initializer_range,
            )
        )
        self.transformer.set_input_embeddings(None)  # steps are embedded outside
        # As an LSTM's, its output begins small beside the step before, which goes to the heads too: they learn to
        # repeat that within tens of updates rather than hundreds.
        nn.init.constant_(self.transformer.norm.weight, 0.1)

    def forward(self, inputs: Tensor, memory: DynamicCache | None, use_cache: bool):
        output = self.transformer(inputs_embeds=inputs, past_key_values=memory, use_cache=use_cache)
        return output.last_hidden_state, output.past_key_values


class Head(nn.Module):
    def __init__(self, config: NESScoreConfig, classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out = nn.Linear(config.hidden_size, classes)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out(F.gelu(self.dense(self.norm(hidden))))


class NESScorePreTrainedModel(PreTrainedModel):
    """Weights, loading and saving (safetensors)."""

    config_class = NESScoreConfig
    main_input_name = "notes"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MistralDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True

    def __init__(self, config: NESScoreConfig, *args, **kwargs):
        config.check()
        super().__init__(config, *args, **kwargs)
        # Only its layers can be recomputed; transformers refuses to enable it for a model that says so.
        self.supports_gradient_checkpointing = config.architecture == "transformer"


class NESScoreModel(NESScorePreTrainedModel):
    """Soloists, quartet, transformer or blended: scores to the probabilities of each of their steps."""

    def __init__(self, config: NESScoreConfig):
        super().__init__(config)
        self.blended = config.architecture == "blended"
        self.soloists = config.architecture == "soloists"
        self.voices = 3 if self.blended else 4
        if self.blended:
            self.embed_keys = nn.Linear(len(config.keys), config.hidden_size)
            heads = [len(config.keys)]
        else:
            heads = config.num_classes
            self.embed_notes = nn.ModuleList(nn.Embedding(classes, config.hidden_size) for classes in heads)
        self.embed_ages = nn.ModuleList(
            nn.Embedding(config.longest_age + 1, config.hidden_size) for _ in range(1 if self.blended else 4)
        )
        if config.architecture in ("quartet", "transformer"):
            # The voices before a voice, in the same step.
            self.embed_chosen = nn.ModuleList(nn.Embedding(classes, config.hidden_size) for classes in heads[:-1])
        trunk = TransformerTrunk if config.architecture == "transformer" else LSTMTrunk
        self.trunks = nn.ModuleList(trunk(config) for _ in range(4 if self.soloists else 1))
        self.heads = nn.ModuleList(Head(config, classes) for classes in heads)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        notes: torch.LongTensor,
        labels: torch.LongTensor | None = None,
        before: torch.LongTensor | None = None,
        past_key_values: NESScoreState | None = None,
        use_cache: bool | None = None,
    ) -> NESScoreOutput:
        r"""
        Args:
            notes (`torch.LongTensor` or uint8 of shape `[batch, time, 4]`): Notes of P1, P2, TR and NO, 0 for silence.
                Of `"blended"` `[batch, time, places]`, the notes of P1, P2 and TR in any order.
            labels (`torch.LongTensor` or uint8 of the shape of `notes`, *optional*): The notes again; a step whose
                first label is -100 does not count. Logits and labels of a step stand at the same place: nothing is
                shifted.
            before (`torch.LongTensor` or uint8 of shape `[batch, 1, voice]`, *optional*): Notes of the step before
                the first one, of a song that is entered in its middle; without it, silence.
            past_key_values ([`NESScoreState`], *optional*): What was read before the first step, instead of `before`.
            use_cache (`bool`, *optional*): Whether to return the state behind them.

        Raises:
            ValueError: a shape is another one, or a note (or a label that counts) is none of its voice.
        """
        self._check_notes(notes)
        notes = notes.long()
        if labels is not None:
            labels = labels.long()
            left_out = labels[..., :1] == -100
            labels = labels.masked_fill(left_out, 0)
            self._check_notes(labels, "labels", notes.shape[:2])
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if past_key_values is not None:
            before = past_key_values.last
        elif before is None:
            before = torch.zeros_like(notes[:, :1])
        else:
            self._check_notes(before, "before", (len(notes), 1))
        steps = _beside(before, notes)
        age = self._ages(steps, past_key_values)
        hidden, memory = self._read(steps[:, :-1], age[:, :-1], past_key_values, use_cache)
        state = None
        if use_cache:
            length = notes.shape[1] + (past_key_values.length if past_key_values is not None else 0)
            state = NESScoreState(notes[:, -1:], age[:, -1:], memory, length)
        logits = torch.cat([self._logits(hidden, notes, voice) for voice in range(len(self.heads))], dim=-1)
        loss = None
        if labels is not None:
            counted = ~left_out[:, :, 0]
            loss = self.nll(logits, labels)[counted].sum() / counted.sum()
        return NESScoreOutput(loss=loss, logits=logits, past_key_values=state)

    def by_voice(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Logits of P1, P2, TR and NO, each `[batch, time, classes]`, of the classes of [`classes`]."""
        return logits.split(self.config.num_classes, dim=-1)

    def nll(self, logits: Tensor, notes: Tensor) -> Tensor:
        """`-ln p` of the notes of each step: `[batch, time, 4]`, or of `"blended"` `[batch, time, keys]`."""
        if self.blended:
            return F.binary_cross_entropy_with_logits(logits.float(), self.roll(notes), reduction="none")
        classes = self.classes(notes)
        losses = [
            F.cross_entropy(voice.float().transpose(1, 2), classes[:, :, place], reduction="none")
            for place, voice in enumerate(self.by_voice(logits))
        ]
        return torch.stack(losses, dim=-1)

    def classes(self, notes: Tensor) -> Tensor:
        """int64 of the shape of `notes`, `[batch, time, 4]`: 0 is silence, 1 the voice's lowest note."""
        lowest = torch.tensor(self.config.lowest_notes, device=notes.device)
        return torch.where(notes == 0, 0, notes - lowest + 1)

    def roll(self, notes: Tensor) -> Tensor:
        """float32 `[batch, time, keys]`, 1 where a key sounds."""
        keys = self.config.keys
        roll = torch.zeros(*notes.shape[:2], len(keys) + 1, device=notes.device)
        return roll.scatter(-1, torch.where(notes == 0, 0, notes - keys.start + 1), 1.0)[:, :, 1:]

    @torch.no_grad()
    def compose(
        self,
        steps: int,
        *,
        prefix: torch.LongTensor | np.ndarray | None = None,
        batch_size: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws the next steps one after the other; each costs the same, however long the score is.

        There is no dropout, also while the model is in training.

        Args:
            steps (`int`): How many to add.
            prefix (`torch.LongTensor`, uint8 or NumPy array of shape `[batch, time, voice]`, *optional*): What to go
                on from.
            batch_size (`int`): Songs to begin, without a prefix.
            temperature (`float`): Logits are divided by it; 0 takes the most probable note (or every key that is more
                probable on than off).
            top_k (`int`, *optional*): Only the `top_k` most probable notes of a voice (or keys) may be drawn.
            generator (`torch.Generator`, *optional*): Of the draws.

        Returns:
            uint8 `[batch, time, voice]`, the prefix and what was drawn: with `.numpy()` of one song, a
            `SeparatedScore`. Of `"blended"` `[batch, time, places]`, each step from its lowest note, zeros behind.

        Raises:
            ValueError: a number that cannot be, or a prefix with wrong notes.
        """
        if min(steps, batch_size, 1 if top_k is None else top_k) < 1 or not 0 <= temperature < math.inf:
            raise ValueError(
                f"steps={steps}, batch_size={batch_size} and top_k={top_k} must be at least 1, "
                f"temperature={temperature} at least 0 and finite"
            )
        score = []
        if prefix is not None:
            prefix = torch.as_tensor(prefix, device=self.device)
            self._check_shape(prefix)
        draw = Draw(temperature, top_k, generator)
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            if prefix is not None and prefix.shape[1]:
                score.append(prefix)
                state = self(prefix, use_cache=True).past_key_values
            else:
                silence = torch.zeros(batch_size, 1, self.voices, dtype=torch.long, device=self.device)
                state = NESScoreState(silence, self._ages(silence, None), [None] * len(self.trunks), 0)
            for _ in range(steps):
                hidden, memory = self._read(state.last, state.age, state, use_cache=True)
                chosen = self._draw(hidden, draw)
                age = self._ages(_beside(state.last, chosen), state)[:, -1:]
                state = NESScoreState(chosen, age, memory, state.length + 1)
                score.append(chosen)
        finally:
            for module in training:
                module.training = True
        return _beside(*score).to(torch.uint8)

    def _draw(self, hidden: Sequence[Tensor], draw: "Draw") -> Tensor:
        """The notes of one step, `[batch, 1, voice]`."""
        if self.blended:
            sounds = draw.keys(self._logits(hidden, None, 0))  # [batch, 1, keys]
            most = max(self.voices, int(sounds.sum(-1).max()))
            keys = torch.arange(self.config.keys.start, self.config.keys.stop, device=sounds.device)
            notes = torch.where(sounds, keys, 255).sort(dim=-1).values[:, :, :most]
            return torch.where(notes == 255, 0, notes)
        notes = torch.zeros(len(hidden[0]), 1, 4, dtype=torch.long, device=self.device)
        for voice in range(4):
            choice = draw.one(self._logits(hidden, notes, voice))
            notes[:, :, voice] = torch.where(choice == 0, 0, choice + self.config.lowest_notes[voice] - 1)
        return notes

    def _read(
        self, before: Tensor, age: Tensor, state: NESScoreState | None, use_cache: bool
    ) -> tuple[list[Tensor], list[Any]]:
        """What the head of each voice reads at each step, from the step before it; and the trunks' memories."""
        age = age.clamp(max=self.config.longest_age)
        if self.blended:
            notes = [self.embed_keys(self.roll(before).to(self.embed_keys.weight.dtype))]
        else:
            classes = self.classes(before)
            notes = [embed(classes[:, :, voice]) for voice, embed in enumerate(self.embed_notes)]
        own = [some + embed(age[:, :, place]) for place, (some, embed) in enumerate(zip(notes, self.embed_ages))]
        inputs = own if self.soloists else [torch.stack(own).sum(0)]
        memory = state.memory if state is not None else [None] * len(self.trunks)
        outputs = [
            trunk(self.dropout(some), kept, use_cache) for trunk, some, kept in zip(self.trunks, inputs, memory)
        ]
        hidden = [self.dropout(output) for output, _ in outputs] * (1 if self.soloists else len(own))
        # Most steps repeat the one before: it goes past the trunk to the voice's head as well.
        return [past + before for past, before in zip(hidden, own)], [kept for _, kept in outputs]

    def _ages(self, notes: Tensor, state: NESScoreState | None) -> Tensor:
        """For how many steps before it each note of `[batch, time, voice]` has lasted; of the first, `state` knows."""
        symbols = self.roll(notes) if self.blended else notes
        changed = symbols[:, 1:] != symbols[:, :-1]
        if self.blended:
            changed = changed.any(-1, keepdim=True)
        first = torch.zeros_like(notes[:, :1, : len(self.embed_ages)]) if state is None else state.age
        step = torch.arange(notes.shape[1], device=notes.device)[None, :, None]
        begun = torch.where(changed, step[:, 1:], -first)
        return step - torch.cat([-first, begun], dim=1).cummax(dim=1).values

    def _logits(self, hidden: Sequence[Tensor], notes: Tensor | None, voice: int) -> Tensor:
        """Of one voice at each step, `[batch, time, classes]`; of `notes`, the voices before it are read."""
        if self.soloists or self.blended:
            return self.heads[voice](hidden[voice])
        classes = self.classes(notes)
        seen = [self.embed_chosen[other](classes[:, :, other]) for other in range(voice)]
        return self.heads[voice](sum(seen, hidden[voice]))

    def _check_shape(self, notes: Tensor, name: str = "notes") -> None:
        if notes.ndim != 3 or (not self.blended and notes.shape[2] != 4):
            raise ValueError(
                f"{name} have the shape {list(notes.shape)}, but take [batch, time, "
                f"{'places' if self.blended else 'voice (P1, P2, TR, NO)'}]"
            )

    def _check_notes(self, notes: Tensor, name: str = "notes", steps: Sequence[int] | None = None) -> None:
        """Refuses what are no notes of these voices and, given `steps`, of another `[batch, time]`."""
        self._check_shape(notes, name)
        if steps is not None and notes.shape[:2] != tuple(steps):
            raise ValueError(f"{name} have the shape {list(notes.shape)}, but take {[*steps, notes.shape[2]]}")
        if not notes.shape[1]:
            raise ValueError(f"{name} have the shape {list(notes.shape)}, but take [batch, time, voice], time >= 1")
        if not notes.is_cpu:  # reading values would wait for an accelerator; the embedding notices by itself
            return
        config, count = self.config, notes.shape[2]
        lowest = torch.tensor([config.keys.start] * count if self.blended else config.lowest_notes)
        highest = torch.tensor([config.keys.stop - 1] * count if self.blended else config.highest_notes)
        wrong = (notes != 0) & ((notes < lowest) | (notes > highest))
        if wrong.any():
            row, step, place = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{name}: {int(notes[row, step, place])} of row {row}, step {step}, place {place} is neither 0 nor "
                f"from {int(lowest[place])} to {int(highest[place])}"
            )


def _beside(*steps: Tensor) -> Tensor:
    """Steps `[batch, time, places]` one after the other; chords may differ in their number of places."""
    places = max(some.shape[-1] for some in steps)
    return torch.cat([F.pad(some, (0, places - some.shape[-1])) for some in steps], dim=1)


@dataclass
class Draw:
    """How classes or keys are chosen from logits; see [`NESScoreModel.compose`]."""

    temperature: float
    top_k: int | None
    generator: torch.Generator | None

    def one(self, logits: Tensor) -> Tensor:
        """int64 `[batch, 1]`: a class of the last axis of `[batch, 1, classes]`."""
        if self.temperature == 0:
            return logits.argmax(-1)
        probabilities = (self._cut(logits)[:, 0].float() / self.temperature).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=self.generator)

    def keys(self, logits: Tensor) -> Tensor:
        """bool of the shape of `logits`: each key for itself."""
        logits = self._cut(logits)
        if self.temperature == 0:
            return logits > 0
        chance = torch.rand(logits.shape, generator=self.generator, device=logits.device)
        return chance < (logits.float() / self.temperature).sigmoid()

    def _cut(self, logits: Tensor) -> Tensor:
        if self.top_k is None or self.top_k >= logits.shape[-1]:
            return logits
        best = logits.topk(self.top_k)
        return torch.full_like(logits, -torch.inf).scatter(-1, best.indices, best.values)


__all__ = ["NESScoreModel", "NESScorePreTrainedModel"]
