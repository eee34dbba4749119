"""Peers that mean harm, or are badly broken, against a real broker with good clients beside them."""
