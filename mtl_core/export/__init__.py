"""Models to be taken elsewhere: bundles to import again, programs of torch.export, ONNX."""
