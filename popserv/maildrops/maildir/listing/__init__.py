"""What a Maildir contains: the index that scans build, its cache in memory, and the size file.

This package may import ``files``, ``folders`` and ``cached_open`` of the package around it, and
what that package may import.
"""
