"""What the spikes cost on this machine, beside SpikingJelly and beside a naive network.

    PYTHONPATH=benchmarks python -m performance --random-weights --output performance.json

Every figure is a ratio of rows that were measured side by side in one run. docs/performance.md says
how, and `make bench` runs it.
"""
