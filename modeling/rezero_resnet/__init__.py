"""ResNets with ReZero, and without (Bachlechner et al. 2021, arXiv 2003.04887)."""
