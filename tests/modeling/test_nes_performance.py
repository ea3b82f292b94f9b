"""NES performance models: what a step may depend on, the likelihood, and playing."""

import numpy as np
import pytest
import torch
from model_table import performance_row
from transformers import AutoConfig, AutoModel

from seqzoo.data.nes.score_classes import PERFORMANCE, classes_of
from seqzoo.data.nes.scores import ExpressiveScore
from seqzoo.data.nes.synthesizer import render
from seqzoo.modeling.nes_performance import modeling_nes_performance
from seqzoo.modeling.nes_performance.modeling_nes_performance import (
    COLUMN_FEATURES,
    COLUMN_SIZES,
    COLUMN_VOICES,
    note_timing,
    split_columns,
)


ROWS = {
    architecture + (" with its past" if autoregressive else ""): performance_row(architecture, autoregressive)
    for architecture in ("regression", "lstm", "transformer")
    for autoregressive in (False, True)
}
AUTOREGRESSIVE = [name for name, row in ROWS.items() if row.config["autoregressive"]]


def song(time: int = 60, seed: int = 0) -> np.ndarray:
    """An expressive score of random notes that last some steps."""
    random = np.random.default_rng(seed)
    score = np.zeros((time, 4, 3), dtype=np.uint8)
    for voice, values in enumerate((range(33, 109), range(33, 109), range(21, 109), range(1, 17))):
        step = 0
        while step < time:
            end = step + random.integers(1, 9)
            score[step:end, voice, 0] = random.choice(values) * (random.random() < 0.7)
            step = end
        if voice != 2:
            score[:, voice, 1] = random.integers(1, 16, time) * (score[:, voice, 0] > 0)
            score[:, voice, 2] = random.integers(0, 2 if voice == 3 else 4, time)
    return score


def played(score: np.ndarray) -> torch.Tensor:
    """Velocities and timbres `[1, step, column]`."""
    return torch.from_numpy(classes_of(score, PERFORMANCE))[None]


def batch(score: np.ndarray) -> dict[str, torch.Tensor]:
    """One song as a batch: its notes, and what was played a step before."""
    previous = torch.zeros_like(played(score))
    previous[:, 1:] = played(score)[:, :-1]
    return {"notes": torch.from_numpy(score[None, :, :, 0].astype(np.int64)), "previous": previous}


def changed_steps(model, first: dict, second: dict) -> list[int]:
    """Where logits differ."""
    difference = (model(**first).logits - model(**second).logits).abs().amax((0, 2))
    return difference.nonzero()[:, 0].tolist()


def test_the_columns_are_those_of_the_data():
    assert [(column.voice, column.field, column.classes) for column in PERFORMANCE] == list(
        zip(COLUMN_VOICES, COLUMN_FEATURES, COLUMN_SIZES)
    )


@pytest.mark.parametrize("name", ROWS)
def test_a_step_depends_on_the_notes_that_its_architecture_reads(name):
    model = ROWS[name].build()
    first = batch(song())
    second = {key: value.clone() for key, value in first.items()}
    second["notes"][0, 30] = torch.tensor([40, 50, 60, 7])
    changed = changed_steps(model, first, second)
    config = model.config
    if config.architecture == "regression":
        assert changed == [30]
    elif config.architecture == "lstm":
        assert changed == list(range(30, 60))
    else:
        assert config.attention_window == 8
        assert min(changed) < 30 < max(changed)
        timing = config.longest_timing + 8  # a changed note is seen as far as notes around it last
        assert 30 - 8 * config.num_hidden_layers - timing <= min(changed)


@pytest.mark.parametrize("name", ROWS)
def test_a_step_depends_on_what_was_played_before_it_and_on_nothing_later(name):
    model = ROWS[name].build()
    first = batch(song())
    second = {key: value.clone() for key, value in first.items()}
    second["previous"][0, 31] = (second["previous"][0, 31] + 1) % torch.tensor(COLUMN_SIZES)
    changed = changed_steps(model, first, second)
    if not model.config.autoregressive:
        assert changed == []
    elif model.config.architecture == "regression":
        assert changed == [31]
    elif model.config.architecture == "lstm":
        assert changed == list(range(31, 60))
    else:  # as far as causal layers reach
        assert changed == list(range(31, 31 + 8 * model.config.num_causal_layers + 1))


def test_loss_is_the_negative_log_likelihood_of_a_step(row_of_each_kind):
    model = row_of_each_kind.build()
    inputs, labels = batch(song()), played(song())
    labels[:, 40:] = -100
    output = model(**inputs, labels=labels)
    by_hand = 0.0
    for column, logits in enumerate(split_columns(output.logits[0])):
        target = labels[0, :40, column]
        by_hand -= logits[:40].log_softmax(-1)[torch.arange(40), target].sum() / 40
    torch.testing.assert_close(output.loss, by_hand)
    if model.config.autoregressive:  # without what was played before, it is taken from the labels
        torch.testing.assert_close(model(inputs["notes"], labels=labels).loss, output.loss)


@pytest.fixture(params=ROWS)
def row_of_each_kind(request):
    return ROWS[request.param]


def test_note_timing_counts_from_the_onset_and_to_the_end():
    notes = torch.zeros(1, 7, 4, dtype=torch.long)
    notes[0, :, 0] = torch.tensor([5, 5, 0, 0, 0, 5, 6])
    timing = note_timing(notes, None, longest=32)
    assert timing[0, :, 0].tolist() == [0, 1, 0, 1, 2, 0, 0]
    assert timing[0, :, 4].tolist() == [1, 0, 2, 1, 0, 0, 0]
    assert timing[0, :, 1].tolist() == list(range(7))
    assert note_timing(notes, None, longest=2)[0, :, 5].tolist() == [2, 2, 2, 2, 2, 1, 0]


@pytest.mark.parametrize("name", ROWS)
def test_a_padded_song_gets_the_logits_of_the_song_alone(name):
    model = ROWS[name].build()
    songs = [batch(song(20, seed=1)), batch(song(60, seed=2))]
    padded = {key: torch.zeros(2, 60, value.shape[2], dtype=torch.long) for key, value in songs[0].items()}
    mask = torch.zeros(2, 60, dtype=torch.long)
    for row, one in enumerate(songs):
        time = one["notes"].shape[1]
        mask[row, :time] = 1
        for key, value in one.items():
            padded[key][row, :time] = value[0]
    logits = model(**padded, attention_mask=mask).logits
    for row, one in enumerate(songs):
        alone = model(**one).logits[0]
        torch.testing.assert_close(logits[row, : len(alone)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["transformer", "transformer with its past"])
def test_a_long_song_is_attended_to_in_parts_without_a_difference(name, monkeypatch):
    model = ROWS[name].build()
    mask = torch.ones(1, 60, dtype=torch.long)
    mask[:, 50:] = 0
    for attention_mask in (None, mask):
        whole = model(**batch(song()), attention_mask=attention_mask).logits
        monkeypatch.setattr(modeling_nes_performance, "STEPS_AT_ONCE", 7)
        parts = model(**batch(song()), attention_mask=attention_mask).logits
        monkeypatch.undo()
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_greedy_playing_takes_the_most_probable_classes_given_its_own_past(name):
    model = ROWS[name].build()
    notes = song()[:, :, 0]
    score = model.perform(notes)
    logits = model(**batch(score)).logits[0]
    for column, options in enumerate(split_columns(logits.detach().clone())):
        if column < 3:
            sounding = torch.from_numpy(notes[:, COLUMN_VOICES[column]] > 0)
            options[sounding, 0] = options[~sounding, 1:] = -torch.inf
        played = score[:, COLUMN_VOICES[column], COLUMN_FEATURES[column]]
        assert np.array_equal(options.argmax(-1), played)


@pytest.mark.parametrize("name", ROWS)
def test_what_is_played_is_a_valid_score_that_sounds(name):
    notes = song(24)[:, :, 0]
    score = ROWS[name].build().perform(notes, do_sample=True, generator=torch.Generator().manual_seed(1))
    assert score.dtype == np.uint8
    assert np.array_equal(score[:, :, 0], notes)
    assert not score[:, 2, 1:].any()
    voices = [0, 1, 3]
    assert np.array_equal(score[:, voices, 1] > 0, notes[:, voices] > 0)
    log = ExpressiveScore(score).to_raw_score().to_function_log().to_register_log()
    audio = render(log.write_time, log.write_register, log.write_value, log.num_samples, log.clock)
    assert len(audio) == 44100
    assert np.ptp(audio) > 0.02


def test_drawing_depends_on_the_generator_alone_and_follows_the_distribution():
    model = ROWS["regression"].build()
    notes = np.tile(np.array([[60, 0, 50, 3]], dtype=np.uint8), (4000, 1))
    draw = [model.perform(notes, do_sample=True, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(draw[0], draw[1])
    assert not np.array_equal(draw[0], draw[2])
    expected = split_columns(model(torch.from_numpy(notes[:1, None].astype(np.int64))).logits[0, 0])[3].softmax(-1)
    shares = np.bincount(draw[0][:, 0, 2], minlength=4) / 4000
    assert np.abs(shares - expected.detach().numpy()).max() < 0.03
    cold = model.perform(notes, do_sample=True, temperature=1e-4, generator=torch.Generator().manual_seed(3))
    assert np.array_equal(cold, model.perform(notes))


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_an_autoregressive_model_without_a_past_says_what_it_needs(name):
    with pytest.raises(ValueError, match=r"needs `previous`.*`perform` plays notes without"):
        ROWS[name].build()(batch(song())["notes"])


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        (np.zeros((5, 3)), r"shape \[5, 3\]; a song's are \[time, 4\]"),
        (np.array([[0, 0, 0, 0], [0, 0, 0, 17]]), "the note 17 of NO at step 1 is not one: they are 0 to 16"),
        (np.array([[0, -1, 0, 0]]), "the note -1 of P2 at step 0"),
    ],
)
def test_what_are_no_notes_is_named(notes, message):
    with pytest.raises(ValueError, match=message):
        ROWS["regression"].build().perform(notes)


@pytest.mark.parametrize("name", ROWS)
def test_no_notes_are_played_as_an_empty_score(name):
    score = ROWS[name].build().perform(np.zeros((0, 4), dtype=np.uint8), do_sample=True)
    assert (score.shape, score.dtype) == ((0, 4, 3), np.uint8)


@pytest.mark.parametrize("name", ROWS)
def test_bytes_are_read_as_integers_are(name):
    model = ROWS[name].build()
    inputs = batch(song()) | {"labels": played(song())}
    inputs["attention_mask"] = torch.ones(1, 60, dtype=torch.long)
    inputs["attention_mask"][:, 50:] = 0
    expected = model(**inputs)
    output = model(**{key: value.to(torch.uint8) for key, value in inputs.items()})
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.loss, expected.loss)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_temperatures_that_draw_nothing_are_refused(temperature):
    model = ROWS["regression"].build()
    with pytest.raises(ValueError, match=f"temperature={temperature} must be a positive number"):
        model.perform(song()[:, :, 0], do_sample=True, temperature=temperature)


@pytest.mark.parametrize("name", ["lstm", "lstm with its past", "transformer", "transformer with its past"])
def test_training_plays_without_dropout_and_goes_on_as_it_was(name):
    model = ROWS[name].build()
    notes = song()[:, :, 0]
    expected = model.perform(notes)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    model.train()
    model.head.eval()
    modes = [module.training for module in model.modules()]
    assert np.array_equal(model.perform(notes), expected)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("name", ROWS)
def test_checkpointing_is_supported_where_there_are_layers_to_recompute(name):
    model = ROWS[name].build()
    transformer = model.config.architecture == "transformer"
    assert model.supports_gradient_checkpointing == transformer
    if transformer:
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
    else:
        with pytest.raises(ValueError, match="NESPerformanceModel does not support"):
            model.gradient_checkpointing_enable()
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "gru"}, "architecture='gru' must be one of regression, lstm, transformer"),
        ({"hidden_size": 36, "num_attention_heads": 8}, "must be a multiple of 2 \\* num_attention_heads = 16"),
        ({"autoregressive": True, "num_causal_layers": 0}, "num_causal_layers=0 must be 1 or more"),
        *(
            ({name: value}, f"{name}={value} must be 1 or more")
            for name in (
                *("longest_timing", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
                "attention_window",
            )
            for value in (0, -1)
        ),
        *(
            ({name: value}, f"{name}={value} must be a positive number")
            for name in ("rope_theta", "layer_norm_eps", "initializer_range")
            for value in (0.0, -1.0, float("nan"), float("inf"))
        ),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
        ({"dropout": float("nan")}, "dropout=nan"),
    ],
)
def test_configs_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AutoConfig.for_model("nes_performance", **fields)
    config = AutoConfig.for_model("nes_performance")
    for name, value in fields.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):  # what was set later is seen by the model
        AutoModel.from_config(config)


def test_what_lies_in_time_is_learnt_by_those_who_see_it():
    """Velocities of P1 rise from its onset, timbres tell how long its note will last: one step's notes say neither."""
    random = np.random.default_rng(0)
    notes = torch.zeros(48, 24, 4, dtype=torch.long)
    notes[..., 0] = torch.from_numpy(60 * (random.random((48, 24)) < 0.75))
    timing = note_timing(notes, None, 3)
    labels = torch.zeros(48, 24, 6, dtype=torch.long)
    labels[..., 0] = torch.where(notes[..., 0] > 0, 1 + timing[..., 0], 0)
    labels[..., 3] = torch.where(notes[..., 0] > 0, timing[..., 4], 0)
    wrong = {}
    for architecture in ("regression", "lstm", "transformer"):
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "dropout": 0.0}
        config = AutoConfig.for_model("nes_performance", architecture=architecture, **sizes)
        model = AutoModel.from_config(config)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        for _ in range(60):
            optimizer.zero_grad()
            model(notes[:32], labels=labels[:32]).loss.backward()
            optimizer.step()
        columns = split_columns(model(notes[32:]).logits)
        wrong[architecture] = [(columns[c].argmax(-1) != labels[32:, :, c]).float().mean().item() for c in (0, 3)]
    assert min(wrong["regression"]) > 0.4
    assert wrong["lstm"][0] < 0.35
    assert wrong["lstm"][1] > 0.4
    assert max(wrong["transformer"]) < 0.1
