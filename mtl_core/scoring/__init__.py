"""How predictions are judged: metrics, scorers, and arrays of labels."""
