"""The phases of training, announced through Python's audit mechanism (`sys.audit`, PEP 578).

The proof of resumption (`seedfast verify resume`) listens to them to kill a run at a chosen instant, so the product
itself has no switch for that.
"""

STEP = "seedfast.step"
VALIDATE = "seedfast.validate"
SAVE = "seedfast.save"
SAMPLE = "seedfast.sample"
