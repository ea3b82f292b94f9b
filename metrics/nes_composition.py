"""Metric of the composition task of NES-MDB for the `evaluate` library (the extra `evaluate`).

metric = evaluate.load("metrics/nes_composition.py")   # or NESComposition(), from seqzoo.metrics.nes_composition
metric.add(nll=nll, predictions=most_probable, references=classes)   # one song at a time
metric.compute()["P1"]["nll_poi"]
"""

import datasets
import evaluate
import numpy as np

# Relative, because `evaluate` copies this file and what it names so to where it loads it from.
from .nes_scores import ScoreSums


DESCRIPTION = """\
Negative log-likelihood (nats a step) and accuracy of the notes of P1, P2, TR and NO, over all steps and at points of
interest, where a voice's note differs from the one at the step before.
"""
INPUTS_DESCRIPTION = """
Args:
    nll: a song's negative log-likelihoods, [step][voice] for the voices P1, P2, TR, NO.
    predictions: the most probable class at each step, [step][voice].
    references: the classes of the notes, [step][voice]; 0 is silence.
Returns:
    for P1, P2, TR and NO: nll, accuracy, nll_poi, accuracy_poi, steps, poi; for total: the sums of nll and nll_poi
    over the voices, and the means of the accuracies.
"""
CITATION = """\
@inproceedings{donahue2018nes,
  title     = {The NES Music Database: A multi-instrumental dataset with expressive performance attributes},
  author    = {Donahue, Chris and Mao, Huanru Henry and McAuley, Julian},
  booktitle = {Proceedings of the 19th International Society for Music Information Retrieval Conference},
  year      = {2018},
  url       = {https://arxiv.org/abs/1806.04278}
}
"""


class NESComposition(evaluate.Metric):
    def _info(self):
        integers = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features(
                {
                    "nll": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
                    "predictions": integers,
                    "references": integers,
                }
            ),
        )

    def _compute(self, nll, predictions, references):
        sums = ScoreSums(("P1", "P2", "TR", "NO"))
        for song in zip(nll, predictions, references, strict=True):
            likelihoods, predicted, target = map(np.asarray, song)
            sums.add(likelihoods, predicted == target, target)
        return sums.result()
