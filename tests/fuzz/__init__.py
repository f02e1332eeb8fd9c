"""Input that nobody meant to send: random messages, layers, settings, records. A crash, a hang or an exception that nobody expects fails.

Each module has one target, a function that takes the dice and tries one case. The tests try a few of each (`tests/behaviour/test_fuzz.py`);
`python -m tests.fuzz` goes on for as long as it is told.
"""
