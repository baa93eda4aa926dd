"""The listing of a Maildir: the index that scans build, its cache in memory, and the size file.

This package may import ``files``, ``file_names``, ``folders``, ``contents`` and ``cached_open``
of the package around it, and the packages that maildrops may import.
"""
