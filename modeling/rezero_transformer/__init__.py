"""Transformers whose residual branches start at 0, beside their peers (Bachlechner et al. 2021, arXiv 2003.04887)."""
