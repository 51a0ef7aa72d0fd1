"""Model files. Each is hostile until checked: sizes are Python integers, compared with the real file before any use."""
