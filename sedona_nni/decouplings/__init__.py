"""Where a backbone is cut and with what: documents, bounds, the choice of cuts, costs."""
