"""Metrics of all worker processes of a machine, on one HTTP port.

Each process writes its counts into a file (:mod:`.process`, :mod:`.snapshot`). One of the processes
reads the files of all (:mod:`.files`) and serves the pages (:mod:`.server`, :mod:`.pages`), among
them the metrics (:mod:`.exposition`, with the names of :mod:`.names`).
"""
