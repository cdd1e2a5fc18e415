"""Variants that compute the same function: transformers widened, deepened, split, permuted, rescaled (Liu et al., ICML 2023)."""
