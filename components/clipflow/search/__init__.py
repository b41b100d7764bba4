"""`clipflow search`: the images of a folder or of pairs that are nearest to a text or an image, on a page.

models.py      what --model names -> a model on this machine
images.py      what --images names -> bytes, names and captions by number
embeddings.py  a unit vector per image, made once
index.py       the nearest of them
server.py      the page and its JSON, over HTTP
stage.py       all of it, joined
"""
