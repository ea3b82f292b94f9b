"""Expressive performance of NES music: dynamics and timbre of given notes (Donahue et al. 2018, arXiv 1806.04278)."""
