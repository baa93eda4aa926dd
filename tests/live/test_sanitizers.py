"""The module in C with the compiler's sanitizers, which notice wrong accesses and overflows."""

import os
import shutil
import sys
import sysconfig

from twisted.trial.unittest import TestCase

from tests.live.harness import CHECKOUT, require_programs, run, temporary_directory


class SanitizerTests(TestCase):
    """The tests of the functions in C, in a process with the sanitizers."""

    def test_sanitizers(self):
        """No input of the property tests makes a function in C use memory that is not its own."""
        headers = sysconfig.get_path("include")
        require_programs(self, "gcc")
        if not os.path.exists(os.path.join(headers, "Python.h")):
            require_programs(self, "the headers of Python")
        copy = temporary_directory(self)
        ignore = shutil.ignore_patterns("__pycache__", "*.so")
        for package in ("popserv", "tests", "twisted"):
            shutil.copytree(CHECKOUT / package, copy / package, ignore=ignore)
        built = run(
            *("gcc", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover"),
            *("-shared", "-fPIC", f"-I{headers}"),
            *("popserv/_speedups.c", "-o", "popserv/_speedups.abi3.so"),
            cwd=copy,
        )
        self.assertEqual((built.returncode, built.stderr), (0, b""))
        library = run("gcc", "-print-file-name=libasan.so").stdout
        environment = {
            **os.environ,
            "CI": "1",
            "LD_PRELOAD": library.decode().strip(),
            # Python frees no memory at its end.
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONPATH": str(copy),
        }
        command = (sys.executable, "-m", "twisted.trial", "tests.runtime.test_speedups")
        tested = run(*command, cwd=copy, env=environment)
        self.assertEqual(tested.returncode, 0, (tested.stdout + tested.stderr).decode())
