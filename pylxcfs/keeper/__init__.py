"""The small process that holds the mounts and replaces servers.

Standard library only.
"""
