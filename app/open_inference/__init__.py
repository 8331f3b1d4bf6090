"""The Open Inference Protocol, version 2: predictions for clients of Triton, KServe and the like."""
