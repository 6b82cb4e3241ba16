"""Bundles: the folder that is copied to a device, all that lies in it, and its harness run here or there."""
