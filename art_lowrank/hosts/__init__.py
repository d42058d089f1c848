"""Where the toolkits people already use meet the attack. Only these files import a toolkit."""
