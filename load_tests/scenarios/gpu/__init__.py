"""`gpu`: large models on a GPU against torch alone, and a swap of them under load."""
