"""`python -m art_lowrank` is `art-lowrank`."""

from art_lowrank.cli import main

main(prog_name="art-lowrank")
