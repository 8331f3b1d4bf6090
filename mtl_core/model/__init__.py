"""What a model is: modules shared by name, the plan of its operations, outputs, losses, predictions, weights."""
