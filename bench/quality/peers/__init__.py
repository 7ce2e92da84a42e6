"""The peers: each in a file of its own, all calibrated for the same budget by the same rule (`threshold`).

All use their library's defaults; seasons are not removed for them, as their users would have to do that.
"""
