"""Models that compose NES scores step by step (the composition task of Donahue et al. 2018, arXiv 1806.04278)."""
