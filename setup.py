"""What setup.cfg cannot say: the module in C, without which popserv is installed if need be."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension("popserv._speedups", ["popserv/_speedups.c"], optional=True, py_limited_api=True)
    ]
)
