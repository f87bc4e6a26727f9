"""Knowledge distillation: a large classifier teaches a small one, and both are measured.

distill.py is the way in. Knows nothing of archives, servers or the command line.
"""
