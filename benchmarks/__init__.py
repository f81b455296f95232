"""One module for each headline number; each races a peer in the same run and prints the ratio."""
