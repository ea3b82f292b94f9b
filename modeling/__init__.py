"""Models: one folder a `model_type`, named like its files.

A folder holds `configuration_<x>.py`, `modeling_<x>.py` and what that model alone needs (tokenization_, processing_,
generation_, convert_<source>_<x>.py). Models import ops from `kernels/`, never each other, so that a folder and the
kernels it imports can be flattened into a self-contained repository (`hub_cards/export.py`). Training, data and
command lines belong elsewhere. A new model is registered in `src/seqzoo/__init__.py`.
"""
