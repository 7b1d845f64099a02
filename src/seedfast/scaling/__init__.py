"""Which kind of model suits a data set and a budget: runs of several families at equal budgets, and a law for each."""
