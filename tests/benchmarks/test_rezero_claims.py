import json
import math
import re
from dataclasses import replace

import pytest
import torch

from seqzoo.__main__ import main
from seqzoo.benchmarks import rezero_claims, rezero_runs
from seqzoo.benchmarks.machine import bars_to_markdown
from seqzoo.benchmarks.rezero_claims import (
    CLAIMS,
    CPU_CLAIMS,
    Run,
    chosen,
    collect,
    result_of,
    run_claims,
    runs_of,
    write_report,
)
from seqzoo.benchmarks.rezero_jacobian import new_networks
from seqzoo.benchmarks.rezero_report import (
    averaged,
    crossing,
    diverged,
    median,
    ratio_bar,
    spread,
    steps_bar,
    summarise,
)
from seqzoo.benchmarks.rezero_runs import record


SMALL = {
    "fc": {"depth": 3, "width": 8, "batch_size": 8},
    "resnet": {"hidden_sizes": [4, 8], "depths": [1, 1], "batch_size": 8},
    "lm": {"layers": 2, "width": 8, "heads": 2, "context": 8, "batch_size": 4, "text": "topics"},
}


@pytest.fixture(autouse=True)
def _short_text(monkeypatch):
    monkeypatch.setattr(rezero_runs, "topics", {"fox": "The quick brown fox jumps over the lazy dog. " * 20})
    rezero_runs._characters.cache_clear()
    yield
    rezero_runs._characters.cache_clear()


def small(name, **changes):
    size = next(size for start, size in SMALL.items() if name.startswith(start))
    defaults = {"steps": 3, "size": size, "rates": (1e-3, 1e-2), "seeds": (0, 1)}
    return replace(CPU_CLAIMS[name], **(defaults | changes))


def test_claims_of_the_issue_are_there_with_their_grids():
    assert list(CPU_CLAIMS) == ["fc32", "fc128", "fc1000", "fc10000", "resnet56", "lm12", "lm64", "lm128"]
    for claims in CLAIMS.values():
        for name, claim in claims.items():
            assert claim.methods[0] == "rezero"
            assert claim.target in claim.thresholds
            assert len(claim.rates) == {"fc10000": 3, "lm12_paper": 4}.get(name, 5)
            assert all(method in claim.methods for peers, _ in claim.ratios for method in peers)
    assert "post_norm_warmup" in CPU_CLAIMS["lm12"].methods


def test_claims_are_chosen_by_how_their_names_begin():
    assert list(chosen(CPU_CLAIMS, ["fc1", "lm64"])) == ["fc128", "fc1000", "fc10000", "lm64"]
    assert chosen(CPU_CLAIMS, []) == CPU_CLAIMS
    with pytest.raises(ValueError, match="there is no claim 'gpt'; choose from fc32, "):
        chosen(CPU_CLAIMS, ["gpt"])


@pytest.mark.parametrize("name", ["fc32", "resnet56", "lm12"])
def test_every_method_of_a_claim_runs_and_a_second_call_has_nothing_to_do(name, tmp_path):
    claim = small(name, seeds=(0,), rates=(1e-3,))
    lines = []
    run_claims(tmp_path, {name: claim}, progress=lines.append)
    assert len(lines) == len(claim.methods)
    for run in runs_of(name, claim):
        result = result_of(tmp_path, claim, run)
        assert len(result["losses"]) == len(result["cpu_seconds"]) == len(result["wall_seconds"]) == 3
        assert all(0 < value < 20 for value in (*result["losses"], *result["held_out"].values()))
        assert bool(result["residual_weights"]) == (run.method in ("rezero", "skipinit", "zero_init"))
    run_claims(tmp_path, {name: claim}, progress=lines.append)
    assert len(lines) == len(claim.methods)


def test_a_changed_setting_redoes_a_run_and_another_method_is_left_alone(tmp_path):
    claim = small("fc32")
    run_claims(tmp_path, {"fc32": claim}, ["rezero"], progress=lambda line: None)
    run = Run("fc32", "rezero", 1e-3, 1)
    assert result_of(tmp_path, claim, run) is not None
    assert result_of(tmp_path, replace(claim, steps=4), run) is None
    assert result_of(tmp_path, claim, replace(run, method="vanilla")) is None
    with pytest.raises(
        ValueError, match="there is no method 'rezro'; choose from layer_norm, residual, rezero, vanilla"
    ):
        run_claims(tmp_path, {"fc32": claim}, ["rezro"])


def test_a_run_is_decided_by_its_seed(tmp_path):
    claim = small("fc32")

    def losses(seed):
        return record(claim.make("rezero", 1e-2, seed, **claim.size), 3)["losses"]

    assert losses(0) == losses(0) != losses(1)


def test_warming_up_begins_with_small_steps():
    claim = small("lm12")
    first = claim.make("post_norm_warmup", 1e-2, 0, **claim.size)
    before = [parameter.clone() for parameter in first.model.parameters()]
    record(first, 1, warmup_steps=100)
    moved = max((a - b).abs().max() for a, b in zip(before, first.model.parameters(), strict=True))
    assert 0 < moved <= 1.01e-4


def test_a_loss_that_is_no_number_ends_the_run():
    claim = small("fc32")
    setup = claim.make("residual", 1e-2, 0, **claim.size)
    with torch.no_grad():
        setup.model.weight.fill_(math.inf)
    result = record(setup, 3)
    assert result["losses"] == []
    assert result["held_out"] == {}


def curve(*losses, seconds=1.0):
    return {
        "losses": list(losses),
        "cpu_seconds": [seconds * (i + 1) for i in range(len(losses))],
        "held_out": {"accuracy": 0.5},
        "parameters": 7,
        "residual_weights": [],
    }


def test_averages_begin_at_the_first_loss():
    assert averaged([2.0, 2.0, 2.0]) == pytest.approx([2.0] * 3)
    assert averaged([1.0, 3.0])[1] == pytest.approx((0.9 * 0.1 * 1 + 0.1 * 3) / 0.19)
    assert crossing([3.0, 2.0, 1.0, 2.0], 2.0) == 3
    assert crossing([3.0, 2.0], 1.0) is None


def test_medians_count_what_is_never_reached_as_last():
    assert median([5, None, 3]) == 5
    assert median([5, None, None]) is None
    assert median([5, None]) is None
    assert spread([4, 2, None], ".0f") == "4 [2 to -]"
    assert spread([None, None], ".0f") == "-"
    assert spread([3, 3], ".0f") == "3"


def test_what_stops_or_ends_above_guessing_has_diverged():
    assert diverged(curve(2.0, 1.0), 3, 10)
    assert diverged(curve(2.0, 4.0, 9.0), 3, 10)
    assert diverged(curve(9000.0, 8000.0, 7000.0), 3, 10)
    assert not diverged(curve(2.3, 2.31, 2.3), 3, 10)


def test_the_rate_is_the_one_that_reaches_the_target_first():
    runs = {
        "rezero": {
            1e-3: {0: curve(3, 3, 0.1, 0.1, 0.1, 0.1), 1: curve(3, 3, 3, 0, 0, 0)},
            1e-2: {0: curve(3, 0.1, 0, 0, 0, 0), 1: curve(3, 0, 0, 0, 0, 0)},
            1e-1: {0: curve(3, 99.0), 1: curve(3, 3, 3, 9, 9, 9)},
        },
        "vanilla": {1e-3: {0: curve(*[2.4] * 6)}, 1e-2: {0: curve(*[2.3] * 6)}},
    }
    summary = summarise(runs, 6, (2.0, 1.0), 1.0, 10)
    assert summary["rezero"]["lr"] == 1e-2
    assert not summary["rezero"]["at_edge"]
    assert summary["vanilla"]["at_edge"]
    assert summary["rezero"]["steps"] == {"2.0": [2, 2], "1.0": [3, 3]}
    assert summary["rezero"]["seconds"]["1.0"] == [3.0, 3.0]
    assert (summary["rezero"]["diverged"], summary["rezero"]["runs"]) == (2, 6)
    assert summary["rezero"]["rates"]["0.1"] is None
    assert summary["vanilla"]["lr"] == 1e-2
    assert summary["vanilla"]["steps"] == {"2.0": [None], "1.0": [None]}
    bar = ratio_bar("fc", summary, ("vanilla",), 1.2, 6, 1.0)
    assert bar["met"]
    assert bar["measured"] == 2
    assert "not reached by them in 6 steps: more than" in bar["what"]
    assert not ratio_bar("fc", summary, ("vanilla",), 2.1, 6, 1.0)["met"]
    assert ratio_bar("fc", summary, ("post_norm",), 1.6, 6, 1.0) is None
    assert steps_bar("fc", summary, 3, 1.0)["met"]
    assert not steps_bar("fc", summary, 2, 1.0)["met"]
    never = {"rezero": summary["vanilla"], "vanilla": summary["rezero"]}
    bars = [steps_bar("fc", never, 6, 1.0), ratio_bar("fc", never, ("vanilla",), 1.0, 6, 1.0)]
    bars.append(steps_bar("fc", summary, 3, 1.0))
    assert bars_to_markdown(bars).splitlines()[2:] == [
        "| fc: steps of ReZero to 1 | not reached | <= 6 | **missed** |",
        "| fc: steps of vanilla over ReZero's, to 1 | not reached | >= 1 | **missed** |",
        "| fc: steps of ReZero to 1 | 3 | <= 3 | met |",
    ]
    neither = {"rezero": summary["vanilla"], "vanilla": summary["vanilla"]}
    assert ratio_bar("fc", neither, ("vanilla",), 1.0, 6, 1.0)["what"].endswith("(not reached by them in 6 steps)")


def test_seeds_that_not_all_rates_have_yet_do_not_count():
    runs = {
        "rezero": {1e-3: {0: curve(3, 0), 1: curve(0, 0)}, 1e-2: {0: curve(0, 0)}},
        "vanilla": {1e-3: {0: curve(3, 0)}, 1e-2: {1: curve(3, 0)}},
    }
    summary = summarise(runs, 2, (2.0,), 2.0, 10)
    assert summary["rezero"]["lr"] == 1e-2
    assert summary["rezero"]["seeds"] == [0]
    assert "vanilla" not in summary


def test_the_command_runs_a_part_and_reports_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rezero_claims, "CLAIMS", {"cpu": {"fc32": small("fc32"), "resnet56": small("resnet56")}})
    out = ["--out", str(tmp_path)]
    assert main(["rezero", "claims", "--report", *out]) == 1
    assert "has no run of fc32, resnet56; leave --report out" in capsys.readouterr().err
    assert main(["rezero", "claims", "--only", "fc", "--methods", "rezero", "vanilla", *out]) == 0
    text = capsys.readouterr().out
    assert "### fc32: fully connected" in text
    assert "8 runs of the grid are still missing" in text
    written = json.loads((tmp_path / "claims.json").read_text())
    assert set(written["claims"]["fc32"]["curves"]) == {"rezero", "vanilla"}
    assert written["claims"]["fc32"]["residual_weights"][0][0] == 1
    assert {path.name for path in tmp_path.iterdir()} == {
        *("fc32", "claims.json", "claims.md", "claims.png", "claims_alpha.png")
    }
    assert main(["rezero", "claims", "--only", "bert", *out]) == 1
    figures = re.findall(r"^!\[.+\]\((.+)\)$", (tmp_path / "claims.md").read_text(), re.MULTILINE)
    assert figures == ["claims.png", "claims_alpha.png"]
    capsys.readouterr()
    assert main(["rezero", "claims", "--report", "--methods", "rezero", *out]) == 1
    assert "--report runs nothing" in capsys.readouterr().err


def test_a_report_without_any_residual_weights_is_drawn_too(tmp_path):
    claims = {"fc32": small("fc32")}
    run_claims(tmp_path, claims, ["vanilla"], progress=lambda line: None)
    write_report(tmp_path, claims)
    assert (tmp_path / "claims_alpha.png").is_file()


def test_what_cards_show_is_drawn_by_itself(tmp_path):
    claim = {"curves": {"rezero": [[2.0, 1.0]]}, "residual_weights": [[1, {"1": 0.1}]]}
    rezero_claims.draw({"claims": {"fc32": claim, "lm12": claim}}, tmp_path / "claims.png")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"claims{kind}{what}.png" for kind in ("", "_lm") for what in ("", "_alpha")}


@pytest.mark.parametrize("content", ["", "{", "null", "{}"])
def test_a_damaged_run_is_named(content, tmp_path):
    claim = small("fc32")
    run = next(runs_of("fc32", claim))
    run.path(tmp_path).parent.mkdir()
    run.path(tmp_path).write_text(content)
    with pytest.raises(ValueError, match=r"rezero-lr0\.001-seed0\.json is damaged .*; delete it"):
        collect(tmp_path, {"fc32": claim})


def test_bars_of_a_grid_in_the_making_say_so(tmp_path):
    claims = {"fc32": small("fc32")}
    run_claims(tmp_path, claims, ["rezero", "residual", "vanilla"], progress=lambda line: None)
    (bar,) = collect(tmp_path, claims)["bars"]
    assert bar["what"].endswith("(4 runs of this grid are missing)")


def test_a_report_of_whole_grids_says_whether_bars_are_met(tmp_path):
    claims = {"fc32": small("fc32")}
    run_claims(tmp_path, claims, progress=lambda line: None)
    assert collect(tmp_path, claims)["missing"] == 0
    text = write_report(tmp_path, claims)
    assert "| fc32: steps of residual or vanilla over ReZero's, to 0.5" in text
    assert "**missed**" in text  # nothing is learnt in three steps
    assert "still missing" not in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_large_scale_without_a_gpu_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--scale gpu needs a CUDA device"):
        run_claims(tmp_path, CLAIMS["gpu"])


def test_signals_at_initialisation(tmp_path):
    values = new_networks([1, 8])
    assert {len(found) for by_depth in values.values() for found in by_depth.values()} == {16, 64}
    for method in ("fully connected, rezero", "encoder, rezero"):
        assert all(value == 1 for value in values[method][8])
    assert values["fully connected, vanilla"][8][-1] < 1e-2
    assert main(["rezero", "jacobian", "--depths", "1", "2", "--out", str(tmp_path / "new" / "jacobian.png")]) == 0
    assert (tmp_path / "new" / "jacobian.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="a depth is 0"):
        new_networks([0])
