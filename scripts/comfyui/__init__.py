"""Proof that ComfyUI takes what glance exports, by its own source: python -m scripts.comfyui."""
