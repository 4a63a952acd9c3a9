"""A two-phase sampling in ComfyUI's words: nodes, graph, layout. Pure: no torch, no network."""
