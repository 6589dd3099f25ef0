"""SpecReason: the large model scores each draft from 0 to 9."""
