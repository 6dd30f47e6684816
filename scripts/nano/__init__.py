"""The nano models' own music, trainers and measurements. Nothing here is part of the product.

In the order of their making: `data`, `networks`, `training`, `evaluation`.
"""
