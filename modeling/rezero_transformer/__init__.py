"""Transformers whose residual branches start at nothing, and the peers they are compared with (ReZero, arXiv 2003.04887)."""
