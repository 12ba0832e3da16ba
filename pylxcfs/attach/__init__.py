"""Into containers that run: views are mounted in their mount namespaces, from outside."""
