"""pylxcfs on a node of Kubernetes: NRI plugin, node agent."""
