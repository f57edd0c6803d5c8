"""How long the kernel alone takes to start and end a process: the lower bound for a sandbox's request.

A small C program forks and waits, first without and then with the namespaces and the mount that each request gets.
It holds as much memory as a worker, because a fork copies page tables.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

WORKER_MIB = 8
PROGRAM = r"""
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double one(unsigned long flags) {
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(flags ? mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0 : 0);
    int status = 1;
    waitpid(pid, &status, 0);
    if (status) { fprintf(stderr, "a child could not mount /proc\n"); exit(1); }
    clock_gettime(CLOCK_MONOTONIC, &to);
    return (to.tv_sec - from.tv_sec) * 1e3 + (to.tv_nsec - from.tv_nsec) / 1e6;
}

int main(int count, char **words) {
    int times = 300, mib = count > 1 ? atoi(words[1]) : 8;
    double *taken = malloc(times * sizeof *taken);
    memset(malloc((size_t)mib << 20), 1, (size_t)mib << 20);
    if (unshare((geteuid() ? CLONE_NEWUSER : 0) | CLONE_NEWNS)) { perror("unshare"); return 1; }
    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
    unsigned long kinds[] = {0, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC};
    for (int kind = 0; kind < 2; kind++) {
        for (int i = 0; i < times; i++) taken[i] = one(kinds[kind]);
        qsort(taken, times, sizeof *taken, ascending);
        printf("%f\n", taken[times / 2]);
    }
    return 0;
}
"""


@dataclass(frozen=True)
class Floor:
    """Median milliseconds of a fork without and with namespaces."""

    fork_ms: float
    namespaces_ms: float


def measure() -> Floor | None:
    """Measure the floor on this machine; None without a C compiler, or if namespaces are not allowed."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "floor.c"), Path(folder, "floor")
        source.write_text(PROGRAM)
        subprocess.run([compiler, "-O2", "-w", "-o", program, source], check=True, timeout=60)
        done = subprocess.run([program, str(WORKER_MIB)], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        return None
    return Floor(*map(float, done.stdout.split()))
