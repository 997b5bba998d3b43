"""Interchange: export denoisers as NIR graphs, ONNX and torch.export programs."""
