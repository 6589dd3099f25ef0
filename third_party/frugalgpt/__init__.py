"""FrugalGPT's cascade: a scorer accepts the small model's answer or not."""
