"""The two tasks of NES-MDB, composition and expressive performance: baselines, and the benchmark of everything."""
