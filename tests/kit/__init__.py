"""Real cgroups, namespaces and daemons for tests. No fakes."""
