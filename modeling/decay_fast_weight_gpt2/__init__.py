"""GPT-2 with attention replaced by a decaying fast-weight memory (Mao 2022, arXiv 2210.04243)."""
