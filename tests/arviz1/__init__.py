"""The posterior's files under ArviZ 1.x: one environment writes them, another opens them."""
