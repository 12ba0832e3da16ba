"""The real unit in a booted systemd."""
