"""What setup.cfg cannot say: the optional module in C, and reproducible packages."""

import gzip
import os
import sysconfig
import tarfile
import time

from setuptools import Extension, setup
from setuptools.command.sdist import sdist

# The files that are generated for a wheel have these permissions, whoever builds it.
os.umask(0o022)


class ReproducibleSdist(sdist):
    """Makes the same archive of the same files, if SOURCE_DATE_EPOCH is set."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, **_):  # noqa: A002
        """Make the archive, always a .tar.gz."""
        when = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def reset(member):
            member.mtime = when
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            return member

        path = f"{base_name}.tar.gz"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=when) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            # tarfile adds the files of a directory in the order of their names.
            archive.add(os.path.join(root_dir or "", base_dir), base_dir, filter=reset)
        return path


# Debugging information contains the directory of the build.
IS_REPRODUCIBLE = "SOURCE_DATE_EPOCH" in os.environ

speedups = Extension(
    "popserv._speedups",
    ["popserv/_speedups.c"],
    extra_compile_args=["-g0"] if IS_REPRODUCIBLE else [],
    optional=True,
    py_limited_api=True,
)

# A Python without the global interpreter lock has not the stable ABI of Python 3.10.
HAS_STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cmdclass={"sdist": ReproducibleSdist},
    ext_modules=[speedups] if HAS_STABLE_ABI else [],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if HAS_STABLE_ABI else {},
)
