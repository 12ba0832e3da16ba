"""The resources room: library, protocol and service, without containers."""
