"""The FUSE protocol, and all that reads or writes /dev/fuse. Knows no file and no container."""
