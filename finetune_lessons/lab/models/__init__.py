"""Pretrained models with their tokenizers, from a package, a folder or a hub."""
