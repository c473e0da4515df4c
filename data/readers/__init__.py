"""Readers of slide files; each says how well it reads one."""
