"""The study of accuracy on people whom a model has never seen: data set, folds, methods, predictions, tables."""
