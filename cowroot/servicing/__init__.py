"""The real root below a running union, opened for somebody who services it, and protected again whatever happens meanwhile."""
