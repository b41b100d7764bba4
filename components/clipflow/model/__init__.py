"""Mathematics: towers and contrastive losses. No files, no tracking."""
