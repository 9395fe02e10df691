"""The paper's comparison, run again.

``grid`` lists the runs, ``training`` trains one of them, ``scores`` measures it, ``table`` keeps
the rows, and ``figures`` draws what they say. ``python -m reproduction``, in the folder above,
trains what the table lacks and draws.
"""
