"""How Molmo2 is trained: trees of messages, packing, the mixture and the loss."""
