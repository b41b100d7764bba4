"""rewrite: `pairs` -> `rewrites`, several other ways to say each caption."""
