"""Lists what a configuration may name: a record for each, built in or of another package.

A record says what a name stands for and where its code lies, and loads nothing. So a configuration can be
checked, and lists shown, without torch.
"""
