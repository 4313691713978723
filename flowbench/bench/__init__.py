"""Speed of updates, actions and whole training runs, also compared with other libraries: `flowbench bench`.

`run` reads the options, `updates` and `loop` measure, `show` formats the results. Nothing is stored.
"""
