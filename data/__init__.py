"""Between a file and a batch, and back to a file.

What belongs here: reading corpora and their formats, tokenizer training, packing. It knows no model and no recipe:
functions take plain values and need nothing but libraries. What does not: losses (`objectives/`, `modeling/`),
optimisation (`trainers/`), measures of quality (`metrics/`).

    text.py            a source (embedded, files, Hub) becomes documents to train on and documents held out
    text_tokenizer.py  an existing tokenizer, or a byte-level BPE or words of the documents
    text_packing.py    documents become one long row of tokens, and that row an endless stream of batches
    text_stream.py     the same for text that is larger than memory or disk
    images.py          labelled images: sources, and their stream of batches with flips and shifted crops
    nes/               music of the Nintendo Entertainment System
    recall.py          associative recall, a synthetic task: sequences of keys and values, and their stream
"""
