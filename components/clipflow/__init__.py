"""Pre-train CLIP-family models with language rewrites: five stages, two callers (DVC, Kubeflow)."""
