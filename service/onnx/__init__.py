"""Files of the Open Neural Network Exchange: a graph of its operators, and the bytes that it is kept in."""
