"""The FUSE protocol: messages, request loop, fair queue, watchdog, the session of pyfuse3.

Everything that reads or writes /dev/fuse is here. Nothing here knows a file, a container or a
view; that is tree/.
"""
