"""What the composers of NES scores promise: who sees whom, the loss by hand, and scores that are drawn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seqzoo.data.nes import BlendedScore, SeparatedScore
from seqzoo.data.nes.score_classes import COMPOSITION, classes_of, roll_of
from seqzoo.modeling.nes_score.configuration_nes_score import ARCHITECTURES, NESScoreConfig
from seqzoo.modeling.nes_score.modeling_nes_score import Draw, NESScoreModel


SEPARATED = ("soloists", "quartet", "transformer")


def build(architecture: str, **options) -> NESScoreModel:
    """A small model whose weights are large enough for its inputs to matter."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "context": 5}
    return NESScoreModel(NESScoreConfig(architecture=architecture, initializer_range=0.4, **sizes, **options)).eval()


def random_notes(batch: int = 2, steps: int = 12, voices: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    notes = torch.stack(
        [torch.randint(low - 1, high + 1, (batch, steps), generator=generator) for low, high in RANGES[:voices]], -1
    )
    return torch.where(notes < torch.tensor([low for low, _ in RANGES[:voices]]), 0, notes)


RANGES = [(33, 108), (33, 108), (21, 108), (1, 16)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_is_seen_before_its_time(architecture):
    model = build(architecture)
    notes = random_notes(voices=model.voices)
    changed = notes.clone()
    changed[:, 6] = torch.tensor([50, 51, 52, 3])[: model.voices]
    difference = (model(notes).logits - model(changed).logits).abs().amax(dim=(0, 2))
    assert not difference[:6].any()
    assert difference[7] > 0
    assert (difference[6] > 0) == (architecture in ("quartet", "transformer"))  # voices after P1 of the same step


@pytest.mark.parametrize("architecture", SEPARATED)
@pytest.mark.parametrize("voice", range(4))
def test_who_sees_a_voice(architecture, voice):
    """Soloists only their own past; in the others every voice sees the past, and those behind it the same step."""
    model = build(architecture)
    notes = random_notes()
    changed = notes.clone()
    changed[:, 6, voice] = 0 if notes[0, 6, voice] else 12 + 21 * (voice < 3)
    before, after = (model.by_voice(model(some).logits) for some in (notes, changed))
    seen = torch.tensor([[bool((a - b)[0, step].any()) for step in (6, 7)] for a, b in zip(before, after)])
    if architecture == "soloists":
        expected = torch.tensor([[False, other == voice] for other in range(4)])
    else:
        expected = torch.tensor([[other > voice, True] for other in range(4)])
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("architecture", SEPARATED)
def test_loss_is_the_sum_over_voices_a_step(architecture):
    model = build(architecture)
    notes = random_notes()
    labels = notes.clone()
    labels[0, :5] = -100
    output = model(notes, labels=labels)
    counted = labels[:, :, 0] != -100
    expected = sum(
        F.cross_entropy(logits[counted], torch.from_numpy(classes_of(notes[counted].numpy())[:, voice]))
        for voice, logits in enumerate(model.by_voice(output.logits))
    )
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_keys_of_a_piano_roll_are_independent():
    model = build("blended")
    notes = random_notes(voices=3)
    notes[0, 0] = torch.tensor([60, 60, 0])
    output = model(notes, labels=notes)
    roll = torch.from_numpy(np.stack([roll_of(song) for song in notes.numpy()])).float()
    assert torch.equal(model.roll(notes), roll)
    expected = F.binary_cross_entropy_with_logits(output.logits, roll, reduction="sum") / 24
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(model(notes.flip(-1)).logits, output.logits)


def test_notes_and_classes_are_those_of_the_data():
    config = NESScoreConfig()
    assert config.num_classes == [column.classes for column in COMPOSITION]
    assert config.lowest_notes == [column.lowest for column in COMPOSITION]
    notes = random_notes(steps=400)[0]
    assert torch.equal(build("quartet").classes(notes), torch.from_numpy(classes_of(notes.numpy())))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_song_may_be_entered_in_its_middle(architecture):
    model = build(architecture)
    notes = random_notes(voices=model.voices)
    first = model(notes[:, 1:], before=notes[:, :1]).logits[:, 0]
    silent = model(notes[:, 1:]).logits[:, 0]
    assert not torch.allclose(first, silent)
    started = model(notes[:, 1:], before=torch.zeros_like(notes[:, :1])).logits[:, 0]
    assert torch.equal(started, silent)


def test_ages_are_counted_by_voice_and_over_calls():
    model = build("quartet")
    p1, tr = [60, 60, 62, 62, 62, 60], [40, 40, 40, 40, 0, 0]
    notes = torch.tensor([[[a, 0, b, 0] for a, b in zip(p1, tr)]])
    ages = model._ages(notes, None)
    assert ages[0, :, 0].tolist() == [0, 1, 0, 1, 2, 0]
    assert ages[0, :, 2].tolist() == [0, 1, 2, 3, 0, 1]
    first = model(notes[:, :4]).past_key_values
    assert first.age.tolist() == [[[1, 4, 3, 4]]]  # the silence before a song counts
    assert model(notes[:, 4:], past_key_values=first).past_key_values.age.tolist() == [[[0, 6, 1, 6]]]


def test_a_chord_has_one_age():
    model = build("blended")
    notes = torch.tensor([[[60, 64, 0], [64, 60, 64], [64, 60, 40], [64, 60, 40]]])
    assert model._ages(notes, None).flatten().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_composition_takes_the_most_probable_notes(architecture):
    model = build(architecture)
    prefix = random_notes(batch=2, steps=3, voices=model.voices)
    score = model.compose(9, prefix=prefix, temperature=0)
    assert torch.equal(score[:, :3, : model.voices], prefix.to(torch.uint8)) or architecture == "blended"
    logits = model(score.long()).logits[:, 3:]
    if architecture == "blended":
        assert torch.equal(model.roll(score.long())[:, 3:] > 0, logits > 0)
    else:
        chosen = torch.stack([voice.argmax(-1) for voice in model.by_voice(logits)], dim=-1)
        assert torch.equal(model.classes(score.long())[:, 3:], chosen)
    if architecture != "blended":
        assert torch.equal(model.compose(9, prefix=prefix, top_k=1), score)
        assert torch.equal(model.compose(4, prefix=score[:, :8], temperature=0), score)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compositions_are_scores_and_follow_their_generator(architecture):
    model = build(architecture)
    first, again, other = (
        model.compose(30, batch_size=3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert first.shape[:2] == (3, 30)
    assert not (first.shape == other.shape and torch.equal(first, other))
    score = BlendedScore if architecture == "blended" else SeparatedScore
    assert len(score(first[2].numpy()).score) == 30
    few = model.compose(30, top_k=2, temperature=0.7)
    if architecture == "blended":
        assert few.shape[2] == 3
        assert ((few > 0).sum(-1) <= 2).all()


def test_draws_have_the_probabilities_of_the_logits():
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5]).expand(20_000, 1, 4)
    draw = Draw(temperature=0.5, top_k=3, generator=torch.Generator().manual_seed(0))
    shares = draw.one(logits).flatten().bincount(minlength=4) / 20_000
    expected = (logits[0, 0] / 0.5).masked_fill(torch.tensor([False, False, True, False]), -torch.inf).softmax(-1)
    assert shares.tolist() == pytest.approx(expected.tolist(), abs=0.012)
    expected = torch.tensor([0.0, 2.0, -torch.inf, 1.0]).sigmoid()
    assert draw.keys(logits).float().mean(dim=(0, 1)).tolist() == pytest.approx(expected.tolist(), abs=0.012)


@pytest.mark.parametrize("architecture", ["quartet", "transformer"])
def test_what_is_kept_of_a_song_does_not_grow(architecture):
    model = build(architecture)
    notes = random_notes(batch=1, steps=40)

    def kept(steps: int) -> int:
        memory = model(notes[:, :steps]).past_key_values.memory[0]
        if architecture == "transformer":
            memory = [part for layer in memory.layers for part in (layer.keys, layer.values)]
        return sum(tensor.numel() for tensor in memory)

    assert kept(40) == kept(10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "trio"}, "architecture='trio' is not one of soloists, quartet"),
        ({"hidden_size": 0}, "hidden_size=0 must be at least 1"),
        ({"architecture": "transformer", "hidden_size": 20}, "must be a multiple of 2"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"initializer_range": float("nan")}, "initializer_range=nan must be a positive number"),
        ({"lowest_notes": [33, 33, 21]}, "one note for each"),
        ({"lowest_notes": [33, 33, 21, 17]}, "notes from 17 to 16 are none"),
    ],
)
def test_configs_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NESScoreConfig(**options)


def test_wrong_notes_are_named():
    model = build("quartet")
    notes = random_notes()
    notes[1, 3, 3] = 17
    with pytest.raises(ValueError, match="notes: 17 of row 1, step 3, place 3 is neither 0 nor from 1 to 16"):
        model(notes)
    for wrong in (notes[:, :, :3], notes[:, :0], notes[0]):
        with pytest.raises(ValueError, match=r"but take \[batch, time, voice"):
            model(wrong)
    with pytest.raises(ValueError, match="notes: 20 of row 0"):
        build("blended")(torch.tensor([[[0, 20]]]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_wrong_labels_and_steps_before_are_named(architecture):
    model = build(architecture)
    notes = random_notes(voices=model.voices)
    for wrong in (-5, 200):
        labels = notes.clone()
        labels[1, 3, 1] = wrong
        with pytest.raises(ValueError, match=f"labels: {wrong} of row 1, step 3, place 1 is neither 0 nor from"):
            model(notes, labels=labels)
        with pytest.raises(ValueError, match=f"before: {wrong} of row 1, step 0, place 1"):
            model(notes, before=labels[:, 3:4])
    for wrong in (notes[:, :6], notes[:1], notes[0]):
        with pytest.raises(ValueError, match="labels have the shape"):
            model(notes, labels=wrong)
    with pytest.raises(ValueError, match=r"before have the shape \[2, 2, .\], but take \[2, 1, .\]"):
        model(notes, before=notes[:, :2])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bytes_are_notes_wherever_notes_go(architecture):
    model = build(architecture)
    notes = random_notes(voices=model.voices)
    small = notes.to(torch.uint8)
    expected = model(notes[:, 1:], labels=notes[:, 1:], before=notes[:, :1])
    output = model(small[:, 1:], labels=small[:, 1:], before=small[:, :1])
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(output.logits, expected.logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "wrong",
    [
        *({"steps": 0}, {"batch_size": 0}, {"batch_size": -1}, {"top_k": 0}),
        *({"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": float("inf")}),
    ],
)
def test_numbers_that_compose_nothing_are_refused(architecture, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}={wrong[name]}.* at least"):
        build(architecture).compose(**{"steps": 1} | wrong)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_composes_without_dropout_and_goes_on_as_it_was(architecture):
    model = build(architecture, dropout=0.5)
    expected = model.compose(20, temperature=0)
    model.train()
    model.heads[0].eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(model.compose(20, temperature=0), expected)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpointing_is_supported_where_there_are_layers_to_recompute(architecture):
    model = build(architecture)
    assert model.supports_gradient_checkpointing == (architecture == "transformer")
    if architecture == "transformer":
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
    else:
        with pytest.raises(ValueError, match="NESScoreModel does not support"):
            model.gradient_checkpointing_enable()
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
