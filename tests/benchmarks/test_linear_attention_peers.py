"""The comparison with peers: it runs, ours agree with them, and a peer that is missing is left out with the reason."""

import pytest
import torch

from seqzoo.benchmarks import linear_attention_peers
from seqzoo.benchmarks.linear_attention_peers import CONTENDERS, DELTA, NONE, Contender, run, to_markdown


def test_what_is_there_is_measured_and_what_is_missing_is_named():
    told = []
    result = run(told.append, times={64: (1, 1), 128: (1, 1)}, decoding=False)
    measured = {name for contenders in result["rules"].values() for name in contenders}
    assert measured | set(result["left_out"]) == {contender.name for contender in CONTENDERS}
    assert not measured & set(result["left_out"])
    delta = result["rules"][DELTA]
    peer = delta["transformers, Qwen3-Next's torch form"]
    assert peer["difference"] < 1e-5
    assert peer["forward"].keys() == {"64", "128"}
    assert delta["ours, recurrent"]["forward"].keys() == {"64"}  # a loop
    assert not delta["ours, recurrent"]["forward_backward"]
    text = to_markdown(result)
    for name in measured | set(result["left_out"]):
        assert name in text
    for name, reason in result["left_out"].items():
        assert "pip install" in reason
        assert any(name in line and reason in line for line in told)


def test_a_peer_that_computes_something_else_is_no_peer(monkeypatch):
    wrong = Contender(NONE, "wrong", ("q", "k", "v"), lambda: lambda q, k, v: torch.ones_like(v))
    monkeypatch.setattr(linear_attention_peers, "CONTENDERS", (*CONTENDERS, wrong))
    with pytest.raises(ValueError, match="wrong does not compute what ours does"):
        run(lambda line: None, times={64: (1, 1)}, decoding=False)
