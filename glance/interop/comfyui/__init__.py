"""`glance export comfyui`: LoRAs by ComfyUI's names, and a workflow that runs them."""
