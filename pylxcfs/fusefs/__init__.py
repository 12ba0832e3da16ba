"""The filesystem that is mounted: nodes, handles, snapshots, and the two ways into it.

`filesystem.py` says what each request means. `express.py` answers the hot requests straight
from /dev/fuse; `operations.py` answers the rest through pyfuse3; `session.py` joins the two on
one connection that outlives this process. Views come from views/, containers through the
Protocol in `ports.py`. Only this package knows FUSE.
"""
