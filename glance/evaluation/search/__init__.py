"""`glance schedule optimize`: sigmas at which few steps end nearest to the base model's many."""
