import json

import pytest
from huggingface_hub import ModelCard
from model_table import MODELS

from seqzoo.hub_cards.card import METRICS, PROVEN_TRANSFORMERS, model_card, read_metrics


@pytest.fixture
def make_card():
    """Makes a card and parses it back from its text, as the Hub does."""
    model = MODELS[0].build()
    model.config.auto_map = {"AutoModelForCausalLM": f"modeling_x.{type(model).__name__}"}

    def make(metrics, recipe=None, name="my-model", license="mit"):
        return ModelCard(str(model_card(model, name, license=license, metrics=metrics, recipe=recipe)))

    return make


def test_metadata_of_every_model_is_valid(row, metrics):
    model = row.build()
    model.config.auto_map = {"AutoModelForCausalLM": f"modeling_x.{type(model).__name__}"}
    metrics["model_type"] = row.model_type
    card = ModelCard(str(model_card(model, "my-model", license="mit", metrics=metrics, recipe=None)))
    data = card.data.to_dict()
    assert data["license"] == "mit"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == ("text-generation" if "vocab_size" in row.config else "other")
    assert {"custom_code", row.model_type} <= set(data["tags"])
    assert data["datasets"] == ["Salesforce/wikitext"]
    assert data["base_model"] == "openai-community/gpt2"
    (entry,) = data["model-index"]
    assert entry["name"] == "my-model"
    for heading in ("How to use it", "Training", "Results", "Limits", "Citation"):
        assert f"\n## {heading}\n" in card.text
    assert "@inproceedings{" in card.text
    assert card.text.count('repository = "."  # this folder, or its id on the Hub\n') == 1
    assert PROVEN_TRANSFORMERS in card.text
    assert "{{" not in card.text
    assert "{%" not in card.text
    assert card.text.endswith("```\n")


def test_results_of_the_run_are_evaluation_results(make_card, metrics):
    results = make_card(metrics).data.eval_results
    assert [(result.metric_type, result.metric_value) for result in results] == [
        ("bits_per_byte", 1.8765),
        ("perplexity", 11.0232),
    ]
    assert {(result.task_type, result.dataset_type) for result in results} == {
        ("text-generation", "Salesforce/wikitext")
    }


def test_the_card_of_a_streamed_text_claims_neither_size_nor_hash(make_card, metrics, tmp_path):
    metrics["data"] |= {"streaming": True, "sha256": None, "train_tokens": None, "train_bytes": None}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    text = make_card(read_metrics(tmp_path / "metrics.json", metrics["model_type"])).text
    assert "| size of the training part | not known: it was streamed" in text
    assert "| tokens seen | 1,126,400 |" in text
    assert "SHA-256" not in text


def test_the_card_changes_with_the_metrics(make_card, metrics):
    metrics["evaluation"]["bits_per_byte"] = 1.2341
    card = make_card(metrics)
    assert card.data.eval_results[0].metric_value == 1.2341
    assert "| **this model** | 1.234 | 11.02 |" in card.text


@pytest.mark.parametrize(
    "line",
    [
        "| data | Salesforce/wikitext/wikitext-2-raw-v1 |",
        "(read by Python 3.11.7) |",
        "| licence of the data | cc-by-sa-4.0 |",
        "| steps | 1,100, lowest validation loss at 1,050 |",
        "| start | converted from a trained GPT-2; steps, tokens and time below are those of this run alone |",
        "| batch | 8 sequences of 128 tokens |",
        "| tokens seen | 1,126,400 |",
        "| versions | torch 2.13.0, transformers 5.23.0 |",
        "| unigram frequencies of the training tokens | 4.613 | 365.04 |",
        '`position_embedding_type="learned_clamped"`:',
        "| 128 | 1x | 1.877 | 11.02 |\n| 256 | 2x | 1.837 | 10.49 |\n| 2,048 | 16x | 2.111 | 14.88 |",
        "| teacher, trained on | 1.854 | 10.71 |",
        "| the same model from scratch on all the tokens | 1.999 | 12.93 |",
        "Share kept: **97.2 %**",
    ],
)
def test_what_was_measured_is_in_the_text(make_card, metrics, line):
    metrics["evaluation"]["bits_per_byte"] = 1.87651  # away from a rounding tie
    metrics["evaluation"]["by_length"]["128"]["bits_per_byte"] = 1.87651
    assert line in make_card(metrics).text


def test_the_card_says_what_a_run_learned_and_from_whom(make_card, metrics):
    assert "| objective | next-token prediction |\n| steps |" in make_card(metrics).text  # metrics of before stages
    metrics["training"] |= {"objective": "align", "trained_parameters": 4321}
    text = make_card(metrics).text
    assert "what the attention of the teacher gives on the same input, and nothing else learned |\n| steps |" in text
    assert "| last training loss | 2.3456 of the mean square of that attention's output |" in text
    metrics["training"] |= {"objective": "distill", "lora_rank": 8}
    metrics["teacher"] = "openai-community/gpt2-medium"
    text = make_card(metrics).text
    assert "divergence from the predictions of the teacher `openai-community/gpt2-medium` |" in text
    assert "4,321: low-rank updates (rank 8), merged into the weights, and all that GPT-2 does not have |" in text
    assert "| last training loss | 2.3456 nats a token, mixed |" in text


def test_what_was_not_measured_is_not_claimed(make_card, metrics):
    del metrics["comparison"], metrics["evaluation"]["by_length"], metrics["evaluation"]["unigram"]
    metrics["training"]["best_step"] = None
    text = make_card(metrics).text
    assert "| steps | 1,100 |" in text
    for absent in ("teacher", "Share kept", "unigram", "By length"):
        assert absent not in text

    card = make_card(None)
    assert "Nothing was measured" in card.text
    assert card.data.eval_results is None
    assert card.data.datasets is None


@pytest.mark.parametrize(
    ("source", "dataset", "shown"),
    [
        ("Salesforce/wikitext/wikitext-2-raw-v1", "Salesforce/wikitext", "Salesforce/wikitext/wikitext-2-raw-v1"),
        ("embedded", None, "embedded (the documentation of Python's standard library)"),
        ("a/gone.txt, b/gone.jsonl", None, "gone.txt, gone.jsonl"),
        ("../data/enwik8[:90%]", None, "enwik8[:90%]"),
    ],
)
def test_only_datasets_of_the_hub_are_named_as_such(make_card, metrics, source, dataset, shown):
    metrics["data"] |= {"source": source, "dataset": dataset}
    card = make_card(metrics)
    assert card.data.datasets == ([dataset] if dataset else None)
    assert card.data.eval_results[0].dataset_type == (dataset or "text")
    assert f"| data | {shown} |" in card.text


def test_without_a_base_model_none_is_named(make_card, metrics):
    del metrics["base_model"]
    card = make_card(metrics)
    assert card.data.base_model is None
    assert "It was made from" not in card.text


def test_the_recipe_is_shown_whole(make_card):
    recipe = "model:\n  model_type: decay_fast_weight_gpt2  # 100 %\n"
    assert f"```yaml\n{recipe}```" in make_card(None, recipe).text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not of schema 1"),
        ('{"schema": 2}', "not of schema 1"),
        ('{"schema": 1, "model_type": "gpt2"}', "measured on a 'gpt2', but the model beside it is a 'thing'"),
        ('{"schema": 1, "model_type": "thing", "data": {}}', "has no training, evaluation, versions, date"),
        (
            json.dumps({"schema": 1, "model_type": "thing"} | {section: {} for section in METRICS}),
            r"has no data\.source, .*, data\.sha256, .*, evaluation\.bytes: run",
        ),
    ],
)
def test_metrics_that_do_not_fit_are_refused(tmp_path, content, message):
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_metrics(path, "thing")


def test_metrics_are_read_as_they_are(tmp_path, metrics):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(metrics))
    assert read_metrics(path, "decay_fast_weight_gpt2") == metrics


@pytest.mark.parametrize(
    ("name", "says", "never"),
    [
        ("decay", ["b_t a_t^T", "scale * S_t^T q_t", "gated away"], ["c_t", "hybrid", "Kasai"]),
        ("decay-every-option", ["(b_t 1^T)", "no position embedding"], ["a_t", "Positions are those of GPT-2"]),
        ("gated-elu-normalized", ["S_t^T q_t / (c_t . q_t)", "8 x 9 cells", "Peng et al. 2021"], ["scale *"]),
        ("delta", ["o_t = scale * S_{t-1}^T q_t", "overwritten", "Schlag et al. 2021"], ["gated away", "fullgraph"]),
        ("sum-relu-normalized", ["nothing decays", "Kasai et al. 2021"], ["gated away", "g_t"]),
        ("hybrid", ["attention of 1 of\n2 layers", "still grow with the context"], ["do not grow with the context"]),
    ],
)
def test_the_card_says_what_this_model_computes(name, says, never):
    model = next(row for row in MODELS if row.name == name).build()
    text = model_card(model, "my-model", license="mit", metrics=None, recipe=None).text
    for words in says:
        assert words in text, words
    for words in never:
        assert words not in text, words


def test_a_run_on_other_data_than_text_shows_what_it_measured(make_card, metrics):
    metrics |= {"task": "image_classification", "start": "random"}
    metrics["data"] = {"source": "digits", "train_images": 1438}
    metrics["training"] |= {"unit": "images", "images_seen": 4600, "images_per_second": 321.0}
    del metrics["training"]["sequence_length"], metrics["training"]["tokens_seen"]
    metrics["evaluation"] = {"loss": 0.25, "accuracy": 0.9375, "by_class": {"seven": {"accuracy": 0.5, "loss": None}}}
    card = make_card(metrics)
    for line in (
        "| train images | 1,438 |",
        "| batch | 8 images |",
        "| images seen | 4,600 |",
        "| accuracy | 0.9375 |",
        "### By class\n\n| | accuracy | loss |\n|---|---|---|\n| seven | 0.5 | - |\n",
    ):
        assert line in card.text
    assert "bits per byte" not in card.text
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "loss": 0.25,
        "accuracy": 0.9375,
    }


def test_held_out_files_are_named(make_card, metrics):
    metrics["data"]["validation"] = ["/home/me/valid.txt"]
    assert {result.dataset_name for result in make_card(metrics).data.eval_results} == {"valid.txt"}
