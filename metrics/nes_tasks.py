"""Metrics of the tasks of NES-MDB, `composition` and `performance`, for the `evaluate` library (the extra `evaluate`).

metric = evaluate.load("metrics/nes_tasks.py", "composition")   # or NESTasks(config_name="composition"), from here
metric.add(nll=nll, predictions=most_probable, references=classes)   # one song at a time
metric.compute()["P1"]["nll_poi"]
"""

import datasets
import evaluate
import numpy as np

# Relative, because `evaluate` copies this file and what it names so to where it loads it from.
from .nes_scores import ScoreSums


DESCRIPTION = """\
Negative log-likelihood (nats a step) and accuracy of the columns of NES scores, over all steps and at points of
interest, where a column's value differs from the one at the step before. Of `composition` the columns are the notes of
P1, P2, TR and NO; of `performance` the velocities of P1, P2 and NO and the timbres of the same.
"""
INPUTS_DESCRIPTION = """
Args:
    nll: a song's negative log-likelihoods, [step][column].
    predictions: the most probable class at each step, [step][column].
    references: the classes, [step][column]; 0 is silence.
Returns:
    for each column (P1, ..., or P1 velocity, ...): nll, accuracy, nll_poi, accuracy_poi, steps, poi; for total: the
    sums of nll and nll_poi over the columns, and the means of the accuracies. What a column has no step of is nan, and
    left out of the total.
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


COLUMNS = {
    "composition": ("P1", "P2", "TR", "NO"),
    "performance": ("P1 velocity", "P2 velocity", "NO velocity", "P1 timbre", "P2 timbre", "NO timbre"),
}


class NESTasks(evaluate.Metric):
    def _info(self):
        if self.config_name not in COLUMNS:
            raise ValueError(f"the task {self.config_name!r} is none of {', '.join(COLUMNS)}: name one of them")
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
        sums = ScoreSums(COLUMNS[self.config_name])
        for song in zip(nll, predictions, references, strict=True):
            likelihoods, predicted, target = map(np.asarray, song)
            sums.add(likelihoods, predicted == target, target)
        return sums.result()
