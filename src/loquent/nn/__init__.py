"""Blocks that two or more networks use. Tensors are (B, T, D) unless a docstring says otherwise."""
