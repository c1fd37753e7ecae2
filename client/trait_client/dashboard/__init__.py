"""A local web page over results and the live service, and reports as single files.

`data` reads the results, `routes` answers the page, `static` is the page. `report` and `single_file` need no web framework.
"""
