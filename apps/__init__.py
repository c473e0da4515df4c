"""Command line and pages."""

import os

# Before torch is imported: threads that wait by sleeping share a busy machine; spinning ones made a picture that takes
# 0.8 s take 12 s as soon as one core had other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
