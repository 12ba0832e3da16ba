"""The real parts that tests share: cgroups, namespaces, the daemon. Nothing here is a fake."""
