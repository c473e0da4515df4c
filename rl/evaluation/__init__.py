"""The evaluation of the generalist: questions, asking, figures with intervals, pages, and runs side by side.

questions -> asking -> measures -> page. formats reads and writes other tools' files, yardsticks says what simple
classifiers reach, changes disturbs pictures, comparison sets two runs side by side. docs/evaluation.md is the protocol.
"""
