"""`glance export diffusers`: a folder with a script that paints without glance."""
