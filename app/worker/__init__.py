"""The worker: claims runs, and supervises a training process for each."""
