"""`glance infer`: pair finds the LoRAs and what belongs to them, plan decides, execute samples."""
