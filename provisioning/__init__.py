"""cowroot on machines that are managed: ansible/ is a roles path, puppet/ a module path."""
