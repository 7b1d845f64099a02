"""The studio: a local page that lists runs, compares them, and samples from their models.

`runs` reads run folders and knows no tensors. `room` loads models and samples. `app` has the routes, and `guard`
decides who may call them. The page is in `static/`; it has no build step, and its libraries are in `static/vendor/`.
"""
