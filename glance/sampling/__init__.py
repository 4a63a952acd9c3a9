"""`glance infer`: lora_pair and images find what is asked for, plan decides, generate does it."""
