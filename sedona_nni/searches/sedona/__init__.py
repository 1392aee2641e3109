"""SEDONA: differentiable search."""
