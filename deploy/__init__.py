"""How it is run: the demo, the machine checks, the images. Built on the product, never imported by it."""
