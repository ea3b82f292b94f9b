"""ReZero for plain torch: drop-in transformer layers, networks of any depth, a helper (Bachlechner et al. 2021)."""
