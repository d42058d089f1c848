"""`art-lowrank demo`: the attack beside its hosts' own, on data and a net made on the spot."""
