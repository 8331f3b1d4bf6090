"""Training steps without autograd: networks of common layers, each step a list of calls on buffers made beforehand."""
