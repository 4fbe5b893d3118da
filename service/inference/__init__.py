"""What a trained model can be asked: predictions, attacks, reports."""
