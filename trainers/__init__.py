"""Training: a batch becomes a loss, a loss an update, as a recipe in `configs/` says.

What belongs here: one module for each kind of training, on one shared loop. What does not: reading data (`data/`),
models (`modeling/`), losses that have a head of their own (`objectives/`), cards and exports (`hub_cards/`).

    recipe.py         the sections of a recipe, checked
    recipe_parsing.py names and types of their keys
    recipe_data.py    the section `data` of every task
    recipe_checks.py  ranges, and keys that contradict each other
    recipe_model.py   the language model that a recipe asks for
    run.py            one run of any kind: folder, loop, evaluation, saving, push; the command line of trainers
    catalogue.py      what the zoo offers: recipes, sizes, what runs measured, where their weights are
    run_folder.py     what a run may write, and when it may be resumed
    loop.py           the Accelerate loop and the state of a run
    tracking.py       curves: the trackers of Accelerate
    checkpointing.py  checkpoints and files that are complete or absent (docs/checkpoints.md)
    causal_lm.py      task `causal_lm`: text, tokenizer and model; start it with accelerate launch or `seqzoo train`
    language_modeling.py  its objective, next-token prediction
    nes_composition.py    task `nes_composition`: the next step of NES scores
    nes_performance.py    task `nes_performance`: how the notes of NES scores are played
    nes/              the tasks of NES-MDB: what is learned and measured, baselines, the benchmark
    image_classification.py  task `image_classification`: images, processor, model and objective
    parameter_groups.py  which parameters decay, and the rate of residual weights
    recall.py         associative recall, the synthetic task of the comparison of update rules
    transfer/         objectives with a teacher, low-rank updates
"""
