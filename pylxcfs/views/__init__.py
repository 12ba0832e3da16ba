"""The table of what is served. One row a file (or tree); everything else follows from it."""

# (filled by views/ owner: see table in the module below)
