"""What is done when a pipeline run ends, however it ends."""
