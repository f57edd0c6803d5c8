"""Starts the worker from its zip file."""

import sys

from agentrl.sandbox.worker.main import main

main(sys.argv[1:])
