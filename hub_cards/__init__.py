"""The room where a result becomes a repository that anyone loads with plain transformers.

    export.py         a model folder -> a self-contained repository: config, weights, tokenizer, code, card
    flatten.py        the code of a model and of the ops that it imports -> files of one flat folder
    card.py           metrics.json and recipe.yaml of a run -> README.md, with its metadata
    model_card.md     the template that every card is made from
    <model_type>.md   what the cards of this model say whatever the run: what it is, its limits, its citation
    library_model.md  the same for the models of the transformers library, which recipes can train too
    rezero_claims.py  what was measured of ReZero beside its peers, from the JSON that `seqzoo bench` recorded
    publish.py        an exported repository -> the Hub, in one commit; what is refused before anything is sent
    nes_dataset.py    a data set of NES music -> Parquet files and their card, from nes_dataset_card.md
    model_folder.py   what is known of a model folder without torch: its config, the licence of its weights

Numbers in cards come from the JSON files of runs, never from this folder. Training, evaluation and models live in
other rooms.
"""
