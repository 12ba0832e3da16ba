"""What is mounted: the own mount (own.py) and the caller mount (caller.py), names and nodes.

Everything that a request for a file means is here. Messages are those of fuse/, contents come
from views/, containers through the Protocols of ports.py.
"""
