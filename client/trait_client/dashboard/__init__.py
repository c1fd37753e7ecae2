"""A local web page over results and the live service, and reports as single files.

`data` reads, `routes` answers, `static` is the page; `report` needs no web framework.
"""
