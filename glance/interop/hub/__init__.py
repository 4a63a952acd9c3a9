"""`glance export hub`: a repository on the Hub, with a model card."""
