"""``pyml audit``: an investigation of one model's performance on one machine, as a report.

``plan`` plans the measurements, ``measure`` (with ``cold``, a separate process) makes them, ``sweep`` summarises
traces, ``analyse`` (with ``curves``) and ``conclusions`` draw conclusions, ``sections`` arranges them, ``markdown`` and
``html`` write them, ``compare`` compares two reports.

The package uses the public names of pyml_nlp, pyml_nn and pyml_core, and only the command line imports it.
"""
