"""What is mounted: the own mount and the caller mount. Contents come from views/."""
