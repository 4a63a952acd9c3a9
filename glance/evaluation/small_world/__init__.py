"""What the small model of the package knows: scenes, words for them, and a reader of images."""
