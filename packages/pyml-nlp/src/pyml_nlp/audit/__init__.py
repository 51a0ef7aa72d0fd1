"""``pyml audit``: the whole performance investigation of one model on one machine, as a report.

``plan`` says what is measured, ``measure`` (with ``cold``, a process of its own) does it, ``points`` makes numbers of
traces, ``analyse`` (with ``curves``) and ``findings`` draw conclusions, ``sections`` puts them in order, ``markdown``
and ``html`` write them, ``compare`` sets two of them side by side.
"""
