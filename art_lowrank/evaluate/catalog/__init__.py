"""From names to models, images and attacks. Only here does an evaluation reach the hosts, each when it is named."""
