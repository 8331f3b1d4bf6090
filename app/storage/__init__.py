"""Where tensors and weights live: files named by what they hold."""
