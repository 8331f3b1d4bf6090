"""The request log: predictions with their inputs and answers, of models that are to have it, for checks of drift."""
