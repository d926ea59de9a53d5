"""A packet-level simulator of the data plane of Azure Private Link."""
