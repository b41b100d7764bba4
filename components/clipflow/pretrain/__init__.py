"""pretrain: `pairs` and `rewrites` -> `checkpoint`, by the selected recipe."""
