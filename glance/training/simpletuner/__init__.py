"""Everything glance knows about SimpleTuner. It runs as a process of its own, always."""
