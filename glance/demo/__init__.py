"""The small model's world and its checker, and what `glance demo` shows of it."""
