"""Generated from proto/triptych/v1 by `make proto`; never edited by hand."""
