"""The same work over many images: on this machine, or on Ray.

sources   folders, globs, manifests and COCO files become a plan: images, each with its queries
stages    load, model, finish: what is done to one image, in three steps that run apart
local     the steps overlapped on this machine
on_ray    the same steps on Ray Data
journal   what is done, so that a second call goes on
index     what all images became, in the plan's order
"""
