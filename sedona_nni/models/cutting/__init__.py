"""Any classifier as layers and a head: where it can be cut, and its own modules in between.

tracing      follows the forward pass with torch.fx, on `values` without memory
crossings    finds what crosses each place, from the set of live values
units        finds residual blocks, encoder layers and the like
cut_points   names the places and chooses among them
cut_model    cuts there
"""
