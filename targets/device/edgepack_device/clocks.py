"""Hold the clocks still while a measurement runs, if asked to, and put them back whatever happens. Python 3.8.

A process of its own does it: in a session of its own, so that Ctrl-C and the end of a connection do not reach it,
and it puts the governors back when its stdin ends, which the kernel sees to even if the measurement is killed.
"""

import json
import os
import signal
import subprocess
import sys

from edgepack_device.surroundings import Surroundings

GOVERNORS = "/sys/devices/system/cpu/cpufreq/policy[0-9]*/scaling_governor"
WANTED = "performance"


class FixedClocks(object):
    """`with FixedClocks(command) as clocks:`; `clocks.report` says which cpufreq policies are `fixed` or `refused`.

    Args:
        command: starts `keeper_main` in a process.
    """

    def __init__(self, command):
        self._command = command
        self.report = None

    def __enter__(self):
        self._keeper = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            self.report = json.loads(self._keeper.stdout.readline().decode() or "null")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._keeper.stdin.close()
        self._keeper.wait()
        self._keeper.stdout.close()


def keeper_main(root):
    """Set the governors, say which, wait for the end of stdin, and put them back."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    machine = Surroundings(root)
    before, refused = [], []
    try:
        for name in machine.names(GOVERNORS):
            policy, governor = name.split("/")[-2], machine.text(name)
            if governor == WANTED:
                continue
            if governor and write(machine.path(name), WANTED):
                before.append((name, governor))
            else:
                refused.append(policy)
        fixed = [name.split("/")[-2] for name, _ in before]
        sys.stdout.write(json.dumps({"fixed": fixed, "refused": refused}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        for name, governor in before:
            write(machine.path(name), governor)
    return 0


def write(path, text):
    try:
        # Never made: what is not there is no governor.
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    except OSError:
        return False
    try:
        os.write(descriptor, text.encode())
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
