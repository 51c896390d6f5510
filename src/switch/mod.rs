//! Who gets a frame: the FDB, VLAN rules, and the verdict. Pure: time is an argument.
